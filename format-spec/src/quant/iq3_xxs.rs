//! `iq3_xxs`: 256 values in 64 points of a codebook of 256, signs of eight values in 7 bits, a 4-bit scale per 32 values.
//! `value = (d / 4) * (2 s + 1) * magnitude`, which is ggml's `d * (0.5 + s) * 0.5 * magnitude`.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-1 | `d`, half |
//! | 2-65 | the points of four values each |
//! | 66-97 | u32 for values `32 j ..`: bits `7l+6..7l` index the signs of the eight `l`, bits 31-28 are `s` |

use super::grids::{GRID_IQ3_XXS, SIGNS};
use super::groups::{self, Groups};

/// Values in a block.
pub const LEN: usize = 256;
/// Bytes in a block.
pub const BYTES: usize = 98;

/// The block taken apart.
#[inline(always)]
pub fn groups(block: &[u8; BYTES]) -> Groups {
    let signs = |j: usize| groups::double(block, 66 + 4 * j);
    let point = |i: usize| u64::from(GRID_IQ3_XXS[usize::from(block[2 + i])]);
    Groups {
        q: groups::signed(|i| (point(2 * i) | (point(2 * i + 1) << 32), SIGNS[(signs(i / 4) >> (7 * (i % 4))) as usize & 127])),
        scale: std::array::from_fn(|g| (signs(g / 2) >> 28) as i16 * 2 + 1),
        d: super::block::half(block, 0) / 4.0,
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
