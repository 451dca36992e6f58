//! Takes a good pack apart, lets a test change one thing, and puts it together again with hashes that fit: so that a reader has to find
//! the change itself and not a stale hash.

use forebay_format::layout::manifest;
use forebay_format::layout::superblock::{HASH_OFFSET, Section, Superblock};
use serde_json::Value;

/// A pack in parts.
pub struct Editor {
    /// Fields of the superblock; section entries are recomputed by [`Editor::finish`].
    pub superblock: Superblock,
    /// Everything in front of the index.
    pub payload: Vec<u8>,
    /// The index section.
    pub index: Vec<u8>,
    /// The manifest as JSON.
    pub manifest: Value,
    /// The source section as stored.
    pub source: Vec<u8>,
    source_raw: u64,
}

impl Editor {
    /// Parts of a good pack.
    pub fn open(pack: &[u8]) -> Self {
        let superblock = Superblock::decode(pack, pack.len() as u64).expect("a good pack");
        let part = |s: &Section| pack[s.offset as usize..(s.offset + s.stored) as usize].to_vec();
        let json = manifest::decompress(&part(&superblock.manifest), superblock.manifest.raw).expect("a good manifest");
        Editor {
            payload: pack[..superblock.index.offset as usize].to_vec(),
            index: part(&superblock.index),
            manifest: serde_json::from_slice(&json).expect("manifest JSON"),
            source: part(&superblock.source),
            source_raw: superblock.source.raw,
            superblock,
        }
    }

    /// The pack again, all hashes and lengths made to fit.
    pub fn finish(mut self) -> Vec<u8> {
        let json = self.manifest.to_string();
        let stored = manifest::compress(json.as_bytes()).expect("compressible");
        let mut file = self.payload;
        self.superblock.index = append(&mut file, &self.index, self.index.len() as u64);
        self.superblock.manifest = append(&mut file, &stored.bytes, json.len() as u64);
        if !self.source.is_empty() {
            self.superblock.source = append(&mut file, &self.source, self.source_raw);
        }
        self.superblock.file_bytes = file.len() as u64 + 4096;
        let block = self.superblock.encode();
        file[..4096].copy_from_slice(&block);
        file.extend_from_slice(&block);
        file
    }
}

fn append(file: &mut Vec<u8>, bytes: &[u8], raw: u64) -> Section {
    let section = Section { offset: file.len() as u64, stored: bytes.len() as u64, raw, blake3: *blake3::hash(bytes).as_bytes() };
    file.extend_from_slice(bytes);
    file.resize(file.len().next_multiple_of(4096), 0);
    section
}

/// Changes bytes of the superblock and of its copy, and makes its hash fit.
pub fn patch_superblock(pack: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut pack = pack.to_vec();
    pack[at..at + bytes.len()].copy_from_slice(bytes);
    let hash = blake3::hash(&pack[..HASH_OFFSET]);
    pack[HASH_OFFSET..4096].copy_from_slice(hash.as_bytes());
    let copy = pack.len() - 4096;
    let (first, last) = pack.split_at_mut(copy);
    last.copy_from_slice(&first[..4096]);
    pack
}
