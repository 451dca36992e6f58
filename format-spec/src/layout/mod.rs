//! Where bytes are: superblock, sections, index, runs. Layout only; nothing here reads a file.

pub mod index;
pub mod manifest;
pub mod source;
pub mod sums;
pub mod superblock;

/// First eight bytes of a pack. Like PNG's, they break under text-mode transfer.
pub const MAGIC: [u8; 8] = *b"\x89FBY\r\n\x1a\n";
/// Version a writer of this crate writes.
pub const VERSION_MAJOR: u16 = 1;
/// Version a writer of this crate writes.
pub const VERSION_MINOR: u16 = 0;
/// Length of the superblock and of its copy at the end of the file.
pub const SUPERBLOCK_BYTES: usize = 4096;
/// Default alignment of sections, runs and slices.
pub const DEFAULT_ALIGNMENT: u32 = 4096;
/// The other allowed alignment, for systems with 16 KiB pages.
pub const LARGE_ALIGNMENT: u32 = 16384;
/// Default length of the pieces that have a fast sum of their own.
pub const DEFAULT_CHUNK_BYTES: u32 = 128 * 1024;

/// Required feature: the pack has expert bundles.
pub const FEATURE_EXPERTS: u64 = 1 << 0;
/// Required feature: the pack has neuron-group bundles.
pub const FEATURE_NEURON_GROUPS: u64 = 1 << 1;
/// Required feature: some rows are stored in a tiling other than `row_major`.
pub const FEATURE_TILED_ROWS: u64 = 1 << 2;
/// Required feature: several bundle ids share an extent on disk (synthetic packs only).
pub const FEATURE_ALIASED: u64 = 1 << 3;
/// Required features this crate understands.
pub const KNOWN_REQUIRED: u64 = FEATURE_EXPERTS | FEATURE_NEURON_GROUPS | FEATURE_TILED_ROWS | FEATURE_ALIASED;
/// Optional feature: there is a source section.
pub const OPTIONAL_SOURCE: u64 = 1 << 0;
/// Optional feature: there are carried tensors that the runtime does not use.
pub const OPTIONAL_CARRIED: u64 = 1 << 1;

/// Rounds `n` up to a multiple of `alignment` (a power of two); `None` on overflow.
pub fn align_up(n: u64, alignment: u64) -> Option<u64> {
    n.checked_add(alignment - 1).map(|n| n & !(alignment - 1))
}
