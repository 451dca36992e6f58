//! A pack, opened and checked: everything except the weights. Small plain reads, dropped from the page cache behind us.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_format::layout::SUPERBLOCK_BYTES;
use forebay_format::layout::index::MAX_INDEX_BYTES;
use forebay_format::layout::manifest;
use forebay_format::layout::superblock::{Section, hex};
use forebay_format::{FormatError, Index, Manifest, Superblock, validate_pack};

use crate::error::{Error, Result};
use crate::io::buffered::{forget, no_readahead};

/// An opened pack. Superblock, manifest and index agree with each other and with the length of the file.
pub struct Pack {
    /// Where it is.
    pub path: PathBuf,
    /// First bytes of the file.
    pub superblock: Superblock,
    /// What the model is.
    pub manifest: Manifest,
    /// Where the weights are.
    pub index: Index,
    pub(crate) file: Arc<File>,
}

impl Pack {
    /// Opens a pack and checks everything but the weights (their sums are checked as they are read). Memory is bounded by
    /// the limits of the format; the source section is never read.
    ///
    /// Errors: [`Error::Io`] if the file cannot be read, [`Error::Format`] if it is not a pack, not whole, or not consistent.
    pub fn open(path: &Path) -> Result<Pack> {
        let io = |what: &str| {
            let what = what.to_owned();
            move |error| Error::Io { file: path.to_owned(), what, error }
        };
        let format = |error| Error::Format { file: path.to_owned(), error };
        // Asked before opening: opening a pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(io("cannot open the pack"))?;
        if !metadata.is_file() {
            return Err(io("cannot open the pack")(std::io::Error::other("not a regular file")));
        }
        let file = File::open(path).map_err(io("cannot open the pack"))?;
        no_readahead(&file);
        let length = file.metadata().map_err(io("cannot open the pack"))?.len();
        let read = |what: &'static str, offset: u64, bytes: u64| -> Result<Vec<u8>> {
            let mut buffer = vec![0u8; bytes as usize];
            file.read_exact_at(&mut buffer, offset).map_err(io(&format!("cannot read the {what} at offset {offset}")))?;
            forget(&file, offset, bytes as usize);
            Ok(buffer)
        };

        let first = read("superblock", 0, length.min(SUPERBLOCK_BYTES as u64))?;
        let superblock = Superblock::decode(&first, length).map_err(format)?;
        let copy = read("copy of the superblock", length - SUPERBLOCK_BYTES as u64, SUPERBLOCK_BYTES as u64)?;
        if copy != first {
            return Err(format(mismatch("the copy of the superblock at the end", &first, &copy)));
        }

        let section = |what: &'static str, s: &Section, limit: u64| -> Result<Vec<u8>> {
            if s.stored > limit {
                return Err(format(FormatError::TooLarge { what, value: s.stored, limit }));
            }
            let bytes = read(what, s.offset, s.stored)?;
            let computed = blake3::hash(&bytes);
            if *computed.as_bytes() != s.blake3 {
                let (stored, computed) = (hex(&s.blake3), hex(computed.as_bytes()));
                return Err(format(FormatError::ChecksumMismatch { what: format!("the {what} section"), stored, computed }));
            }
            Ok(bytes)
        };
        let payload = superblock.alignment as u64..length - SUPERBLOCK_BYTES as u64;
        let bytes = section("index", &superblock.index, MAX_INDEX_BYTES)?;
        let index = Index::decode(&bytes, superblock.alignment, superblock.chunk_bytes, payload).map_err(format)?;
        drop(bytes);
        let bytes = section("manifest", &superblock.manifest, manifest::MAX_STORED_BYTES)?;
        let manifest = manifest::decode(&bytes, superblock.manifest.raw).map_err(format)?;
        manifest.spec.validate().map_err(format)?;
        validate_pack::check(&manifest, &index).map_err(format)?;
        validate_pack::check_superblock(&superblock, &manifest, &index).map_err(format)?;
        Ok(Pack { path: path.to_owned(), superblock, manifest, index, file: Arc::new(file) })
    }
}

fn mismatch(what: &str, stored: &[u8], computed: &[u8]) -> FormatError {
    let hash = |b: &[u8]| hex(blake3::hash(b).as_bytes());
    FormatError::ChecksumMismatch { what: what.into(), stored: hash(stored), computed: hash(computed) }
}
