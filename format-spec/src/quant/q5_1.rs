//! `q5_1`: 32 values of 5 bits with scale and minimum. `value = d * q + m`.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-1 | `d`, half |
//! | 2-3 | `m`, half |
//! | 4-7 | `h`, u32: bit `i` is bit 4 of `q[i]` |
//! | 8-23 | byte `i`: bits 3-0 of `q[i]` in the low half, of `q[i + 16]` in the high half |

use super::block;

/// Values in a block.
pub const LEN: usize = 32;
/// Bytes in a block.
pub const BYTES: usize = 24;

/// Values of one block.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let (d, m) = (block::half(block, 0), block::half(block, 2));
    let high = u32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    for i in 0..16 {
        let q = u32::from(block[8 + i]);
        let lower = (q & 15) | (((high >> i) & 1) << 4);
        let upper = (q >> 4) | (((high >> (i + 16)) & 1) << 4);
        out[i] = d * lower as f32 + m;
        out[i + 16] = d * upper as f32 + m;
    }
}

/// Scale and minimum are neither NaN nor infinite.
pub fn finite(block: &[u8; BYTES]) -> bool {
    block::half(block, 0).is_finite() && block::half(block, 2).is_finite()
}
