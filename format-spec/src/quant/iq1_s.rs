//! `iq1_s`: 256 values in 32 points of a codebook of 2048 whose values are -1, 0 and 1, with a 3-bit scale and a shift of an eighth, up or down,
//! per 32 values. `value = (d / 8) * (2 s + 1) * (8 point +- 1)`, which is ggml's `d * (2 s + 1) * (point +- 0.125)`.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-1 | `d`, half |
//! | 2-33 | bits 7-0 of the point of each eight values |
//! | 34-49 | u16 for values `32 j ..`: bits `3l+2..3l` are bits 10-8 of point `4 j + l`, bits 14-12 `s`, bit 15: the shift is down |

use super::groups::{self, Groups};

/// Values in a block.
pub const LEN: usize = 256;
/// Bytes in a block.
pub const BYTES: usize = 50;

/// The block taken apart.
#[inline(always)]
pub fn groups(block: &[u8; BYTES]) -> Groups {
    let high = |j: usize| groups::word(block, 34 + 2 * j);
    Groups {
        q: groups::shifted(|i| {
            let word = high(i / 4);
            (usize::from(block[2 + i]) | (usize::from(word >> (3 * (i % 4))) & 7) << 8, word >> 15 == 1)
        }),
        scale: std::array::from_fn(|g| ((high(g / 2) >> 12) & 7) as i16 * 2 + 1),
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
