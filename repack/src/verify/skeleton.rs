//! Everything of a pack that is not weights: superblock and copy, sections, and the zero bytes between the parts.

use super::{Pack, Problem};
use crate::error::{Error, Result};
use forebay_format::layout::index::{Index, MAX_INDEX_BYTES};
use forebay_format::layout::manifest::{self, MAX_STORED_BYTES};
use forebay_format::layout::superblock::{Section, hex};
use forebay_format::layout::{SUPERBLOCK_BYTES, source};
use forebay_format::{FormatError, Superblock, reference, validate_pack};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Reads and checks what can be read. Goes on past damage where that still says something: with the superblock's copy, or without a manifest.
pub fn read(path: &Path, problems: &mut Vec<Problem>) -> Result<Pack> {
    let io = |what| move |error| Error::Io { path: path.to_owned(), what, error };
    let format = |error| Error::Format { file: path.to_owned(), error };
    let file = File::open(path).map_err(io("opening the pack"))?;
    let file_bytes = file.metadata().map_err(io("looking at the pack"))?.len();
    let superblock = superblock(path, &file, file_bytes, problems)?;
    let (alignment, chunk) = (superblock.alignment, superblock.chunk_bytes);
    let index = match section(&file, "the index", &superblock.index, MAX_INDEX_BYTES, problems) {
        Some(bytes) => {
            let payload = alignment as u64..file_bytes - SUPERBLOCK_BYTES as u64;
            Some(Index::decode(&bytes, alignment, chunk, payload).map_err(format)?)
        }
        None => None,
    };
    let manifest = match section(&file, "the manifest", &superblock.manifest, MAX_STORED_BYTES, problems) {
        Some(bytes) => Some(manifest::decode(&bytes, superblock.manifest.raw).map_err(format)?),
        None => None,
    };
    if superblock.source.stored > 0
        && let Some(bytes) = section(&file, "the source section", &superblock.source, MAX_STORED_BYTES, problems)
        && let Err(e) = source::decode(&bytes, superblock.source.raw)
    {
        problems.push(Problem { place: "the source section".into(), why: e.to_string() });
    }
    if let (Some(manifest), Some(index)) = (&manifest, &index) {
        validate_pack::check_superblock(&superblock, manifest, index)
            .and_then(|()| validate_pack::check(manifest, index))
            .map_err(format)?;
    }
    if let Some(index) = &index {
        gaps(&file, file_bytes, &superblock, index, problems).map_err(io("reading the gaps between bundles"))?;
    }
    Ok(Pack { file, superblock, index, manifest })
}

fn superblock(path: &Path, file: &File, file_bytes: u64, problems: &mut Vec<Problem>) -> Result<Superblock> {
    let block = SUPERBLOCK_BYTES as u64;
    if file_bytes < 2 * block {
        // Too short for anything; the reference reader knows what to call it.
        let error = match reference::Reader::open(path) {
            Err(reference::ReadError::Format(error)) => error,
            _ => FormatError::Truncated { what: "the file", need: 2 * block, have: file_bytes },
        };
        return Err(Error::Format { file: path.to_owned(), error });
    }
    let mut read = |offset: u64, place: &str| {
        let mut bytes = [0; SUPERBLOCK_BYTES];
        if let Err(e) = file.read_exact_at(&mut bytes, offset) {
            problems.push(Problem { place: place.into(), why: format!("cannot be read: {e}") });
        }
        bytes
    };
    let first = read(0, "the superblock");
    let copy = read(file_bytes - block, "the superblock's copy");
    match (Superblock::decode(&first, file_bytes), Superblock::decode(&copy, file_bytes)) {
        (Ok(superblock), _) => {
            if first != copy {
                problems.push(Problem {
                    place: "the superblock's copy".into(),
                    why: "differs from the first superblock, which is whole".into(),
                });
            }
            Ok(superblock)
        }
        (Err(e), Ok(superblock)) => {
            let why = format!("{e}; going on with the copy at the end of the file, which is whole");
            problems.push(Problem { place: "the superblock".into(), why });
            Ok(superblock)
        }
        (Err(error), Err(_)) => Err(Error::Format { file: path.to_owned(), error }),
    }
}

/// A section's bytes if they can be read and match their BLAKE3.
fn section(file: &File, place: &str, s: &Section, limit: u64, problems: &mut Vec<Problem>) -> Option<Vec<u8>> {
    let mut bad = |why: String| problems.push(Problem { place: place.into(), why });
    if s.stored > limit {
        bad(format!("is {} bytes, the limit is {limit}", s.stored));
        return None;
    }
    // Bounded by the limit and, as the superblock was checked, by the file's length.
    let mut bytes = vec![0; s.stored as usize];
    if let Err(e) = file.read_exact_at(&mut bytes, s.offset) {
        bad(format!("cannot be read: {e}"));
        return None;
    }
    let computed = blake3::hash(&bytes);
    if *computed.as_bytes() != s.blake3 {
        bad(format!("does not match its BLAKE3 (stored {}, computed {})", hex(&s.blake3), hex(computed.as_bytes())));
        return None;
    }
    Some(bytes)
}

/// Bytes that belong to nothing must be zero.
fn gaps(file: &File, file_bytes: u64, superblock: &Superblock, index: &Index, problems: &mut Vec<Problem>) -> std::io::Result<()> {
    let block = SUPERBLOCK_BYTES as u64;
    let mut parts = vec![(0, block), (file_bytes - block, file_bytes)];
    parts.extend(superblock.sections().iter().filter(|(_, s)| s.stored > 0).map(|(_, s)| (s.offset, s.offset + s.stored)));
    parts.extend(index.records().iter().map(|r| (r.offset, r.offset + r.length)));
    parts.sort_unstable();
    // Experts of an aliased pack share their place.
    parts.dedup();
    let mut buffer = vec![0; 64 << 10];
    for pair in parts.windows(2) {
        let (mut at, end) = (pair[0].1, pair[1].0);
        if at > end {
            problems.push(Problem { place: format!("byte {end} of the file"), why: "belongs to two parts".into() });
        }
        while at < end {
            let len = (end - at).min(buffer.len() as u64) as usize;
            file.read_exact_at(&mut buffer[..len], at)?;
            if let Some(bad) = buffer[..len].iter().position(|&b| b != 0) {
                problems.push(Problem {
                    place: "a gap between parts".into(),
                    why: format!("byte {} of the file is not zero", at + bad as u64),
                });
                break;
            }
            at += len as u64;
        }
    }
    Ok(())
}
