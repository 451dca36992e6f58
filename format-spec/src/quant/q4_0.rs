//! `q4_0`: 32 values of 4 bits with one scale. `value = d * (q - 8)`.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-1 | `d`, half |
//! | 2-17 | byte `i`: `q[i]` in the low half, `q[i + 16]` in the high half |

use super::block;

/// Values in a block.
pub const LEN: usize = 32;
/// Bytes in a block.
pub const BYTES: usize = 18;

/// Values of one block.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let d = block::half(block, 0);
    for i in 0..16 {
        let q = block[2 + i];
        out[i] = d * (i32::from(q & 15) - 8) as f32;
        out[i + 16] = d * (i32::from(q >> 4) - 8) as f32;
    }
}

/// The scale is neither NaN nor infinite.
pub fn finite(block: &[u8; BYTES]) -> bool {
    block::half(block, 0).is_finite()
}
