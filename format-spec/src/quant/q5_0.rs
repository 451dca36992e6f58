//! `q5_0`: 32 values of 5 bits with one scale. `value = d * (q - 16)`.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-1 | `d`, half |
//! | 2-5 | `h`, u32: bit `i` is bit 4 of `q[i]` |
//! | 6-21 | byte `i`: bits 3-0 of `q[i]` in the low half, of `q[i + 16]` in the high half |

use super::block;

/// Values in a block.
pub const LEN: usize = 32;
/// Bytes in a block.
pub const BYTES: usize = 22;

/// Values of one block.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let d = block::half(block, 0);
    let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    for i in 0..16 {
        let q = u32::from(block[6 + i]);
        let lower = (q & 15) | (((high >> i) & 1) << 4);
        let upper = (q >> 4) | (((high >> (i + 16)) & 1) << 4);
        out[i] = d * (lower as i32 - 16) as f32;
        out[i + 16] = d * (upper as i32 - 16) as f32;
    }
}

/// The scale is neither NaN nor infinite.
pub fn finite(block: &[u8; BYTES]) -> bool {
    block::half(block, 0).is_finite()
}
