//! The superblock: the first 4096 bytes, repeated as the last 4096. Written last, so a pack without one was never finished.

use super::*;
use crate::error::FormatError;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SectionKind {
    /// zstd-compressed JSON, see [`manifest`].
    Manifest = 1,
    /// Fixed-width records, see [`index`].
    Index = 2,
    /// zstd-compressed verbatim metadata of the source (the GGUF header, or config files); for people and tools.
    Source = 3,
}

/// Where a section is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// First byte in the file; a multiple of the alignment.
    pub offset: u64,
    /// Stored bytes; the file is zero-padded behind them to the alignment. 0: the section is absent.
    pub stored: u64,
    /// Bytes after decompression; equal to `stored` for the index.
    pub raw: u64,
    /// BLAKE3 of the stored bytes.
    pub blake3: [u8; 32],
}

/// Contents of the superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Format version (major, minor).
    pub version: (u16, u16),
    /// Features a reader must know.
    pub required: u64,
    /// Features a reader may ignore.
    pub optional: u64,
    /// Alignment of everything, 4096 or 16384.
    pub alignment: u32,
    /// Bytes of a chunk with a fast sum, a power of two in 64 KiB ..= 256 KiB.
    pub chunk_bytes: u32,
    /// Length of the file.
    pub file_bytes: u64,
    /// Identity of the pack, known before any payload is written; seeds the fast sums.
    pub pack_id: [u8; 16],
    /// BLAKE3 over every bundle's identity, see [`index::Index::content_id`].
    pub content_id: [u8; 32],
    /// Manifest, index, source.
    pub manifest: Section,
    /// The index.
    pub index: Section,
    /// The source's metadata; `stored == 0` when absent.
    pub source: Section,
}

/// Offset of the superblock's own BLAKE3.
pub const HASH_OFFSET: usize = SUPERBLOCK_BYTES - 32;
/// Offset of the first section entry.
pub const SECTIONS_OFFSET: usize = 128;
/// Bytes of a section entry.
pub const SECTION_BYTES: usize = 64;

impl Superblock {
    /// The 4096 bytes.
    pub fn encode(&self) -> [u8; SUPERBLOCK_BYTES] {
        let mut b = [0u8; SUPERBLOCK_BYTES];
        b[0..8].copy_from_slice(&MAGIC);
        b[8..10].copy_from_slice(&self.version.0.to_le_bytes());
        b[10..12].copy_from_slice(&self.version.1.to_le_bytes());
        b[12..16].copy_from_slice(&(SUPERBLOCK_BYTES as u32).to_le_bytes());
        b[16..24].copy_from_slice(&self.required.to_le_bytes());
        b[24..32].copy_from_slice(&self.optional.to_le_bytes());
        b[32..36].copy_from_slice(&self.alignment.to_le_bytes());
        b[36..40].copy_from_slice(&self.chunk_bytes.to_le_bytes());
        b[40..48].copy_from_slice(&self.file_bytes.to_le_bytes());
        b[48..64].copy_from_slice(&self.pack_id);
        b[64..96].copy_from_slice(&self.content_id);
        for (i, (kind, s)) in self.sections().into_iter().enumerate() {
            let at = SECTIONS_OFFSET + i * SECTION_BYTES;
            b[at..at + 4].copy_from_slice(&(kind as u32).to_le_bytes());
            b[at + 8..at + 16].copy_from_slice(&s.offset.to_le_bytes());
            b[at + 16..at + 24].copy_from_slice(&s.stored.to_le_bytes());
            b[at + 24..at + 32].copy_from_slice(&s.raw.to_le_bytes());
            b[at + 32..at + 64].copy_from_slice(&s.blake3);
        }
        let hash = blake3::hash(&b[..HASH_OFFSET]);
        b[HASH_OFFSET..].copy_from_slice(hash.as_bytes());
        b
    }

    /// Sections in the order of their entries.
    pub fn sections(&self) -> [(SectionKind, &Section); 3] {
        [(SectionKind::Manifest, &self.manifest), (SectionKind::Index, &self.index), (SectionKind::Source, &self.source)]
    }

    /// Reads a superblock and checks everything that can be checked without the rest of the file; `file_bytes` is
    /// the length the file really has.
    pub fn decode(bytes: &[u8], file_bytes: u64) -> Result<Self, FormatError> {
        if bytes.len() < SUPERBLOCK_BYTES {
            return Err(FormatError::Truncated { what: "superblock", need: SUPERBLOCK_BYTES as u64, have: bytes.len() as u64 });
        }
        let b = &bytes[..SUPERBLOCK_BYTES];
        if b[..8] != MAGIC {
            return Err(FormatError::BadMagic);
        }
        let version = (u16_at(b, 8), u16_at(b, 10));
        if version.0 != VERSION_MAJOR {
            return Err(FormatError::UnsupportedVersion { major: version.0, minor: version.1 });
        }
        let computed = blake3::hash(&b[..HASH_OFFSET]);
        if computed.as_bytes() != &b[HASH_OFFSET..] {
            return Err(FormatError::ChecksumMismatch {
                what: "the superblock".into(),
                stored: hex(&b[HASH_OFFSET..]),
                computed: hex(computed.as_bytes()),
            });
        }
        let block = Superblock {
            version,
            required: u64_at(b, 16),
            optional: u64_at(b, 24),
            alignment: u32_at(b, 32),
            chunk_bytes: u32_at(b, 36),
            file_bytes: u64_at(b, 40),
            pack_id: array_at(b, 48),
            content_id: array_at(b, 64),
            manifest: section_at(b, 0)?,
            index: section_at(b, 1)?,
            source: section_at(b, 2)?,
        };
        block.validate(b, file_bytes)?;
        Ok(block)
    }

    fn validate(&self, b: &[u8], file_bytes: u64) -> Result<(), FormatError> {
        let unknown = self.required & !KNOWN_REQUIRED;
        if unknown != 0 {
            return Err(FormatError::UnknownFeature(feature_names(unknown)));
        }
        if u32_at(b, 12) != SUPERBLOCK_BYTES as u32 {
            return Err(FormatError::invalid("superblock length", format!("{} is not {SUPERBLOCK_BYTES}", u32_at(b, 12))));
        }
        if self.alignment != DEFAULT_ALIGNMENT && self.alignment != LARGE_ALIGNMENT {
            return Err(FormatError::invalid("alignment", format!("{} is neither 4096 nor 16384", self.alignment)));
        }
        if !self.chunk_bytes.is_power_of_two() || !(64 << 10..=256 << 10).contains(&self.chunk_bytes) {
            return Err(FormatError::invalid("chunk length", format!("{} is not a power of two in 64..256 KiB", self.chunk_bytes)));
        }
        if file_bytes < self.file_bytes {
            return Err(FormatError::Truncated { what: "the file", need: self.file_bytes, have: file_bytes });
        }
        if file_bytes > self.file_bytes {
            let why = format!("is {file_bytes} bytes long, but the pack ends at {} (something was appended)", self.file_bytes);
            return Err(FormatError::invalid("the file", why));
        }
        let reserved = b[96..SECTIONS_OFFSET].iter().chain(&b[SECTIONS_OFFSET + 3 * SECTION_BYTES..HASH_OFFSET]);
        if reserved.into_iter().any(|&x| x != 0) {
            return Err(FormatError::invalid("superblock", "reserved bytes are not zero"));
        }
        self.validate_sections()
    }

    fn validate_sections(&self) -> Result<(), FormatError> {
        let end_of_sections = self.file_bytes.saturating_sub(SUPERBLOCK_BYTES as u64);
        for (kind, s) in self.sections() {
            if s.stored == 0 && kind == SectionKind::Source {
                if *s != Section::default() {
                    return Err(FormatError::invalid("source section", "absent, but its entry is not zero"));
                }
                continue;
            }
            let name = format!("{kind:?} section").to_lowercase();
            if !s.offset.is_multiple_of(self.alignment as u64) || s.offset < SUPERBLOCK_BYTES as u64 {
                return Err(FormatError::invalid(name, format!("offset {} is not aligned to {}", s.offset, self.alignment)));
            }
            if s.stored == 0 || s.offset.checked_add(s.stored).is_none_or(|end| end > end_of_sections) {
                return Err(FormatError::invalid(name, format!("{} bytes at {} do not lie inside the file", s.stored, s.offset)));
            }
        }
        let mut spans: Vec<_> = self.sections().iter().map(|(_, s)| (s.offset, s.offset + s.stored)).filter(|s| s.0 != s.1).collect();
        spans.sort_unstable();
        if spans.windows(2).any(|w| w[0].1 > w[1].0) {
            return Err(FormatError::invalid("sections", "two of them overlap"));
        }
        Ok(())
    }
}

fn section_at(b: &[u8], i: usize) -> Result<Section, FormatError> {
    let at = SECTIONS_OFFSET + i * SECTION_BYTES;
    if u32_at(b, at) != i as u32 + 1 || u32_at(b, at + 4) != 0 {
        return Err(FormatError::invalid("section table", format!("entry {i} has kind {}, not {}", u32_at(b, at), i + 1)));
    }
    Ok(Section { offset: u64_at(b, at + 8), stored: u64_at(b, at + 16), raw: u64_at(b, at + 24), blake3: array_at(b, at + 32) })
}

/// Names of feature bits, for messages.
pub fn feature_names(bits: u64) -> String {
    let known = [
        (FEATURE_EXPERTS, "experts"),
        (FEATURE_NEURON_GROUPS, "neuron groups"),
        (FEATURE_TILED_ROWS, "tiled rows"),
        (FEATURE_ALIASED, "aliased bundles"),
    ];
    let mut names: Vec<String> = known.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, n)| n.to_string()).collect();
    let rest = known.iter().fold(bits, |b, (bit, _)| b & !bit);
    names.extend((0..64).filter(|i| rest & (1 << i) != 0).map(|i| format!("bit {i}")));
    names.join(", ")
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The `N` bytes at `at`; the caller has checked that they are there.
pub(crate) fn array_at<const N: usize>(b: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&b[at..at + N]);
    out
}

pub(crate) fn u16_at(b: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(b, at))
}

pub(crate) fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(b, at))
}

pub(crate) fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(b, at))
}
