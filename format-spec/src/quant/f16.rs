//! `f16`: IEEE 754 half precision, little-endian.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-1 | the value |

/// Values in a block.
pub const LEN: usize = 1;
/// Bytes in a block.
pub const BYTES: usize = 2;

/// Values of one block. The conversion is exact.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    out[0] = half::f16::from_le_bytes(*block).to_f32();
}

/// The value is neither NaN nor infinite.
pub fn finite(block: &[u8; BYTES]) -> bool {
    half::f16::from_le_bytes(*block).is_finite()
}
