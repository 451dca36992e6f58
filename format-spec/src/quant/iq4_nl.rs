//! `iq4_nl`: 32 indices of 4 bits into a fixed codebook, with one scale. `value = d * CODEBOOK[q]`.
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

/// The sixteen levels, denser around zero.
pub const CODEBOOK: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Values of one block.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let d = block::half(block, 0);
    for i in 0..16 {
        let q = block[2 + i];
        out[i] = d * f32::from(CODEBOOK[usize::from(q & 15)]);
        out[i + 16] = d * f32::from(CODEBOOK[usize::from(q >> 4)]);
    }
}

/// The scale is neither NaN nor infinite.
pub fn finite(block: &[u8; BYTES]) -> bool {
    block::half(block, 0).is_finite()
}
