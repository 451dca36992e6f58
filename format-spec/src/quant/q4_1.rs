//! `q4_1`: 32 values of 4 bits with scale and minimum. `value = d * q + m`.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-1 | `d`, half |
//! | 2-3 | `m`, half |
//! | 4-19 | byte `i`: `q[i]` in the low half, `q[i + 16]` in the high half |

use super::block;

/// Values in a block.
pub const LEN: usize = 32;
/// Bytes in a block.
pub const BYTES: usize = 20;

/// Values of one block.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let (d, m) = (block::half(block, 0), block::half(block, 2));
    for i in 0..16 {
        let q = block[4 + i];
        out[i] = d * f32::from(q & 15) + m;
        out[i + 16] = d * f32::from(q >> 4) + m;
    }
}

/// Scale and minimum are neither NaN nor infinite.
pub fn finite(block: &[u8; BYTES]) -> bool {
    block::half(block, 0).is_finite() && block::half(block, 2).is_finite()
}
