//! `iq2_xs`: 256 values in 32 points of a codebook of 512, signs of eight values in 7 bits, a 4-bit scale per 16 values.
//! `value = (d / 8) * (2 s + 1) * magnitude`, which is ggml's `d * (0.5 + s) * 0.25 * magnitude`.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-1 | `d`, half |
//! | 2-65 | u16 for each eight values: bits 8-0 the point, bits 15-9 the index of the signs |
//! | 66-73 | byte `j`: `s[2 j]` in the low half, `s[2 j + 1]` in the high half |

use super::grids::{GRID_IQ2_XS, SIGNS};
use super::groups::{self, Groups};

/// Values in a block.
pub const LEN: usize = 256;
/// Bytes in a block.
pub const BYTES: usize = 74;

/// The block taken apart.
#[inline(always)]
pub fn groups(block: &[u8; BYTES]) -> Groups {
    Groups {
        q: groups::signed(|i| {
            let word = usize::from(groups::word(block, 2 + 2 * i));
            (GRID_IQ2_XS[word & 511], SIGNS[word >> 9])
        }),
        scale: std::array::from_fn(|g| groups::odd_nibble(block, 66, g)),
        d: super::block::half(block, 0) / 8.0,
    }
}

/// Values of one block.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    groups(block).values(out);
}

/// The scale is neither NaN nor infinite.
pub fn finite(block: &[u8; BYTES]) -> bool {
    groups::finite_half(block, 0)
}
