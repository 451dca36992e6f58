//! `iq2_s`: 256 values in 32 points of a codebook of 1024, a sign bit each, a 4-bit scale per 16 values.
//! `value = (d / 8) * (2 s + 1) * magnitude`, which is ggml's `d * (0.5 + s) * 0.25 * magnitude`.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-1 | `d`, half |
//! | 2-33 | bits 7-0 of the point of each eight values |
//! | 34-65 | bit `j` of byte `34 + i`: value `8 i + j` is below zero |
//! | 66-73 | bits `2l+1..2l` of byte `66 + j`: bits 9-8 of point `4 j + l` |
//! | 74-81 | byte `74 + j`: `s[2 j]` in the low half, `s[2 j + 1]` in the high half |

use super::grids::GRID_IQ2_S;
use super::groups::{self, Groups};

/// Values in a block.
pub const LEN: usize = 256;
/// Bytes in a block.
pub const BYTES: usize = 82;

/// The block taken apart.
#[inline(always)]
pub fn groups(block: &[u8; BYTES]) -> Groups {
    Groups {
        q: groups::signed(|i| {
            let high = usize::from((block[66 + i / 4] >> (2 * (i % 4))) & 3);
            (GRID_IQ2_S[usize::from(block[2 + i]) | (high << 8)], block[34 + i])
        }),
        scale: std::array::from_fn(|g| groups::odd_nibble(block, 74, g)),
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
