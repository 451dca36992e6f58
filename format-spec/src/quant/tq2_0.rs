//! `tq2_0`: 256 values of 2 bits that stand for -1, 0 and 1 (and 2, which no encoder writes), with one scale. `value = d * (q - 1)`.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-63 | value `128 h + 32 l + m` (`h < 2`, `l < 4`): bits `2l+1..2l` of byte `32 h + m` |
//! | 64-65 | `d`, half |

use super::groups::{self, Groups};

/// Values in a block.
pub const LEN: usize = 256;
/// Bytes in a block.
pub const BYTES: usize = 66;

/// The block taken apart.
#[inline(always)]
pub fn groups(block: &[u8; BYTES]) -> Groups {
    let value = |i: usize| ((block[32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4))) & 3) as i8 - 1;
    Groups { q: std::array::from_fn(value), scale: [1; 16], d: super::block::half(block, 64) }
}

/// Values of one block.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    groups(block).values(out);
}

/// The scale is neither NaN nor infinite.
pub fn finite(block: &[u8; BYTES]) -> bool {
    groups::finite_half(block, 64)
}
