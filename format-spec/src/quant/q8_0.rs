//! `q8_0`: 32 values of 8 bits with one scale. `value = d * q`.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-1 | `d`, half |
//! | 2-33 | `q[i]`, i8, at byte `2 + i` |

use super::block;

/// Values in a block.
pub const LEN: usize = 32;
/// Bytes in a block.
pub const BYTES: usize = 34;

/// Values of one block.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let d = block::half(block, 0);
    for (value, &q) in out.iter_mut().zip(&block[2..]) {
        *value = d * f32::from(q as i8);
    }
}

/// The scale is neither NaN nor infinite.
pub fn finite(block: &[u8; BYTES]) -> bool {
    block::half(block, 0).is_finite()
}
