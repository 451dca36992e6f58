//! Fast sums. XXH3-64 of a chunk, seeded by the pack's id and the chunk's place: a bundle written to another bundle's place,
//! or taken from another pack, fails like a flipped bit.

use super::index::BundleId;
use twox_hash::XxHash3_64;

/// XXH3-64: seed and bytes to hash.
pub type Hash = fn(u64, &[u8]) -> u64;

/// Fast sum of chunk `chunk` (counted over the whole bundle) of bundle `id`.
pub fn chunk_sum(pack_id: &[u8; 16], id: BundleId, chunk: u32, bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot_with_seed(chunk_seed(pack_id, id, chunk), bytes)
}

/// What that chunk's sum is seeded with.
pub fn chunk_seed(pack_id: &[u8; 16], id: BundleId, chunk: u32) -> u64 {
    let mut place = [0u8; 32];
    place[..16].copy_from_slice(pack_id);
    place[16..20].copy_from_slice(&(id.kind as u32).to_le_bytes());
    place[20..24].copy_from_slice(&id.layer.to_le_bytes());
    place[24..28].copy_from_slice(&id.ordinal.to_le_bytes());
    place[28..32].copy_from_slice(&chunk.to_le_bytes());
    XxHash3_64::oneshot(&place)
}
