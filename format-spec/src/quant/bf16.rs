//! `bf16`: brain float, the upper half of a single, little-endian.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-1 | bits 31-16 of the value; bits 15-0 are zero |

/// Values in a block.
pub const LEN: usize = 1;
/// Bytes in a block.
pub const BYTES: usize = 2;

/// Values of one block. The conversion is exact.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    out[0] = f32::from_bits(u32::from(u16::from_le_bytes(*block)) << 16);
}

/// The value is neither NaN nor infinite.
pub fn finite(block: &[u8; BYTES]) -> bool {
    half::bf16::from_le_bytes(*block).is_finite()
}
