//! `iq3_s`: 256 values in 64 points of a codebook of 512, a sign bit each, a 4-bit scale per 32 values.
//! `value = d * (2 s + 1) * magnitude`.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-1 | `d`, half |
//! | 2-65 | bits 7-0 of the point of each four values |
//! | 66-73 | bit `i` of byte `66 + j`: bit 8 of point `8 j + i` |
//! | 74-105 | bit `j` of byte `74 + i`: value `8 i + j` is below zero |
//! | 106-109 | byte `106 + j`: `s[2 j]` in the low half, `s[2 j + 1]` in the high half |

use super::grids::GRID_IQ3_S;
use super::groups::{self, Groups};

/// Values in a block.
pub const LEN: usize = 256;
/// Bytes in a block.
pub const BYTES: usize = 110;

/// The block taken apart.
#[inline(always)]
pub fn groups(block: &[u8; BYTES]) -> Groups {
    let point = |i: usize| {
        let high = usize::from((block[66 + i / 8] >> (i % 8)) & 1);
        u64::from(GRID_IQ3_S[usize::from(block[2 + i]) | (high << 8)])
    };
    Groups {
        q: groups::signed(|i| (point(2 * i) | (point(2 * i + 1) << 32), block[74 + i])),
        scale: std::array::from_fn(|g| groups::odd_nibble(block, 106, g / 2)),
        d: super::block::half(block, 0),
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
