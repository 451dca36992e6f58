//! `iq1_m`: 256 values in 32 points of the codebook of `iq1_s`, with a 3-bit scale per 16 values and a shift of an eighth, up or down, per
//! eight. `value = (d / 8) * (2 s + 1) * (8 point +- 1)`, which is ggml's `d * (2 s + 1) * (point +- 0.125)`.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-31 | bits 7-0 of the point of each eight values |
//! | 32-47 | a half byte for each eight, the low one first: bits 10-8 of the point; bit 3: the shift is down |
//! | 48-55 | four u16: bits 15-12 are bits `4w+3..4w` of `d` (a half), bits `3k+2..3k` are `s[4 w + k]` |

use super::groups::{self, Groups};
use half::f16;

/// Values in a block.
pub const LEN: usize = 256;
/// Bytes in a block.
pub const BYTES: usize = 56;

/// The half that lies in the high ends of four words.
#[inline(always)]
fn scale(block: &[u8; BYTES]) -> f32 {
    let part = |w: usize| (groups::word(block, 48 + 2 * w) >> 12) << (4 * w);
    f16::from_bits(part(0) | part(1) | part(2) | part(3)).to_f32()
}

/// The block taken apart.
#[inline(always)]
pub fn groups(block: &[u8; BYTES]) -> Groups {
    Groups {
        q: groups::shifted(|i| {
            let high = block[32 + i / 2] >> (4 * (i % 2));
            (usize::from(block[i]) | usize::from(high & 7) << 8, high & 8 != 0)
        }),
        scale: std::array::from_fn(|g| ((groups::word(block, 48 + g / 4 * 2) >> (3 * (g % 4))) & 7) as i16 * 2 + 1),
        d: scale(block) / 8.0,
    }
}

/// Values of one block.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    groups(block).values(out);
}

/// The scale is neither NaN nor infinite.
pub fn finite(block: &[u8; BYTES]) -> bool {
    scale(block).is_finite()
}
