//! The source section: small files and headers of the source, verbatim, for people and tools. The runtime never reads it.
//!
//! zstd-compressed; per file, back to back: name length `u32`, name (UTF-8), length `u64`, bytes.

use super::manifest::{Stored, compress, decompress};
use super::superblock::{u32_at, u64_at};
use crate::error::FormatError;

/// A file of the source: name and bytes.
pub type NamedBytes = (String, Vec<u8>);

/// The section's bytes.
pub fn encode(files: &[NamedBytes]) -> Result<Stored, FormatError> {
    let mut raw = Vec::new();
    for (name, bytes) in files {
        raw.extend_from_slice(&(name.len() as u32).to_le_bytes());
        raw.extend_from_slice(name.as_bytes());
        raw.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        raw.extend_from_slice(bytes);
    }
    compress(&raw)
}

/// Reads the section; `raw_len` is `Section::raw`.
pub fn decode(stored: &[u8], raw_len: u64) -> Result<Vec<NamedBytes>, FormatError> {
    let raw = decompress(stored, raw_len)?;
    let mut rest = raw.as_slice();
    let mut take = |n: u64| {
        let part = usize::try_from(n).ok().and_then(|n| rest.split_at_checked(n));
        let (part, tail) = part.ok_or_else(|| FormatError::invalid("source section", "an entry ends behind it"))?;
        rest = tail;
        Ok::<_, FormatError>((part, tail.is_empty()))
    };
    let mut files = Vec::new();
    let mut empty = raw.is_empty();
    while !empty {
        let name_len = u32_at(take(4)?.0, 0);
        let name = std::str::from_utf8(take(name_len as u64)?.0);
        let name = name.map_err(|_| FormatError::invalid("source section", "a name is not UTF-8"))?.to_owned();
        let len = u64_at(take(8)?.0, 0);
        let (bytes, end) = take(len)?;
        files.push((name, bytes.to_vec()));
        empty = end;
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_back_and_a_cut_section_is_refused() {
        let files = vec![("config.json".to_owned(), b"{}".to_vec()), ("empty".to_owned(), Vec::new()), ("x".to_owned(), vec![7; 1000])];
        let stored = encode(&files).unwrap();
        assert_eq!(decode(&stored.bytes, stored.raw).unwrap(), files);
        assert!(decode(&stored.bytes, stored.raw - 1).is_err());
        let raw = decompress(&stored.bytes, stored.raw).unwrap();
        for cut in [1, 4, 10, 22, raw.len() - 1] {
            let cut = compress(&raw[..cut]).unwrap();
            assert!(decode(&cut.bytes, cut.raw).is_err());
        }
    }
}
