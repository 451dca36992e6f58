//! A pack, opened and checked: everything except the weights. Small plain reads, dropped from the page cache behind us.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_format::layout::index::MAX_INDEX_BYTES;
use forebay_format::layout::manifest;
use forebay_format::layout::superblock::{Section, hex};
use forebay_format::layout::{MAGIC, SUPERBLOCK_BYTES};
use forebay_format::{FormatError, Index, Manifest, Superblock, reference, validate_pack};

use crate::error::{Error, Result};
use crate::io::buffered::{forget, no_readahead};

/// Bytes of a superblock.
const BLOCK: u64 = SUPERBLOCK_BYTES as u64;

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

        if length < BLOCK {
            let first = read("superblock", 0, length)?;
            return Err(format(too_short(&first, length)));
        }
        let first = read("superblock", 0, BLOCK)?;
        let copy = read("copy of the superblock", length - BLOCK, BLOCK)?;
        let superblock = reference::decode_superblock(&first, &copy, length).map_err(format)?;

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
        let payload = superblock.alignment as u64..length - BLOCK;
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

/// A file shorter than a superblock is either no pack at all or a truncated one; its first bytes say which.
fn too_short(first: &[u8], have: u64) -> FormatError {
    let cut = !first.is_empty() && (first.starts_with(&MAGIC) || MAGIC.starts_with(first));
    if cut { FormatError::Truncated { what: "superblock", need: BLOCK, have } } else { FormatError::BadMagic }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TinyPack;

    fn refusal(bytes: &[u8]) -> Error {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        Pack::open(file.path()).err().expect("it is refused")
    }

    #[test]
    fn a_whole_pack_opens() {
        let pack = TinyPack::new().open();
        assert_eq!(pack.index.records().len(), 3 + 6 + 10 + 2);
        assert_eq!(pack.manifest.spec.layers.len(), 3);
    }

    #[test]
    fn every_flipped_byte_outside_the_payload_is_refused() {
        let tiny = TinyPack::new();
        let pack = tiny.open();
        let block = &pack.superblock;
        let end = tiny.bytes.len();
        let sections = [&block.manifest, &block.index].map(|s| s.offset as usize..(s.offset + s.stored) as usize);
        for range in [0..4096, end - 4096..end].into_iter().chain(sections) {
            for at in range.step_by(37) {
                let mut bytes = tiny.bytes.clone();
                bytes[at] ^= 0x10;
                let error = refusal(&bytes);
                assert!(matches!(error.exit_code(), 3 | 4), "byte {at}: {error}");
            }
        }
    }

    #[test]
    fn one_damaged_superblock_of_two_is_named() {
        let tiny = TinyPack::new();
        for (at, text) in [(100, "its copy at the end of the file is whole"), (tiny.bytes.len() - 100, "the first one is whole")] {
            let mut bytes = tiny.bytes.clone();
            bytes[at] ^= 1;
            let error = refusal(&bytes);
            assert!(error.to_string().contains(text) && error.exit_code() == 3, "{error}");
        }
    }

    #[test]
    fn short_and_foreign_files() {
        let bytes = TinyPack::new().bytes;
        for (part, text) in [
            (&bytes[..0], "not a Forebay pack"),
            (&bytes[..3], "truncated"),
            (&bytes[..4000], "truncated"),
            (&bytes[..4096], "truncated"),
            (&bytes[..bytes.len() - 1], "truncated"),
            (&bytes[..bytes.len() - 4096], "truncated"),
            (&[7u8; 5000][..], "not a Forebay pack"),
            (b"GGUF", "not a Forebay pack"),
        ] {
            let error = refusal(part).to_string();
            assert!(error.contains(text), "{} bytes: {error}", part.len());
        }
    }

    #[test]
    fn what_is_not_a_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().to_owned(), dir.path().join("absent"), "/dev/null".into()] {
            let error = Pack::open(&path).err().expect("it is refused");
            assert_eq!(error.exit_code(), 6);
            assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
        }
    }
}
