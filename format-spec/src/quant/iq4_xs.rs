//! `iq4_xs`: 256 indices of 4 bits into the codebook of `iq4_nl`, in 8 sub-blocks of 32 with a 6-bit scale each.
//! `value = (d * (s - 32)) * CODEBOOK[q]`.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-1 | `d`, half |
//! | 2-3 | u16: bits `2j+1..2j` are bits 5-4 of `s[j]` |
//! | 4-7 | byte `j`: bits 3-0 of `s[2 j]` in the low half, of `s[2 j + 1]` in the high half |
//! | 8-135 | `q`: value `32 j + l` (`l < 16`) is the low half of byte `8 + 16 j + l`, value `32 j + 16 + l` its high half |

use super::{block, iq4_nl::CODEBOOK};

/// Values in a block.
pub const LEN: usize = 256;
/// Bytes in a block.
pub const BYTES: usize = 136;

/// Values of one block.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let d = block::half(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    for (sub, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low = (block[4 + sub / 2] >> (4 * (sub % 2))) & 15;
        let scale = i32::from(low) | (i32::from((high >> (2 * sub)) & 3) << 4);
        let scale = d * (scale - 32) as f32;
        for l in 0..16 {
            let q = block[8 + 16 * sub + l];
            values[l] = scale * f32::from(CODEBOOK[usize::from(q & 15)]);
            values[l + 16] = scale * f32::from(CODEBOOK[usize::from(q >> 4)]);
        }
    }
}

/// The scale is neither NaN nor infinite.
pub fn finite(block: &[u8; BYTES]) -> bool {
    block::half(block, 0).is_finite()
}
