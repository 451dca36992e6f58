//! `f32`: IEEE 754 single precision, little-endian.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-3 | the value |

/// Values in a block.
pub const LEN: usize = 1;
/// Bytes in a block.
pub const BYTES: usize = 4;

/// Values of one block.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    out[0] = f32::from_le_bytes(*block);
}

/// The value is neither NaN nor infinite.
pub fn finite(block: &[u8; BYTES]) -> bool {
    f32::from_le_bytes(*block).is_finite()
}
