//! `tq1_0`: 256 values of -1, 0 and 1, five in a byte as digits of base three, with one scale. `value = d * (digit - 1)`.
//!
//! A byte `b` holds the fraction `b / 256` of base three; digit `n` is the whole part of three times what is left of it after `n` digits:
//! `((b * 3^n mod 256) * 3) >> 8`.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-31 | digit `n < 5` of byte `m`: value `32 n + m` |
//! | 32-47 | digit `n < 5` of byte `32 + m`: value `160 + 16 n + m` |
//! | 48-51 | digit `n < 4` of byte `48 + m`: value `240 + 4 n + m` |
//! | 52-53 | `d`, half |

use super::groups::{self, Groups};

/// Values in a block.
pub const LEN: usize = 256;
/// Bytes in a block.
pub const BYTES: usize = 54;

/// Digit `n` of `byte`, less one.
#[inline(always)]
fn digit(byte: u8, n: usize) -> i8 {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    ((u16::from(byte.wrapping_mul(POWERS[n])) * 3) >> 8) as i8 - 1
}

/// The block taken apart.
#[inline(always)]
pub fn groups(block: &[u8; BYTES]) -> Groups {
    let value = |i: usize| match i {
        0..160 => digit(block[i % 32], i / 32),
        160..240 => digit(block[32 + i % 16], (i - 160) / 16),
        _ => digit(block[48 + i % 4], (i - 240) / 4),
    };
    Groups { q: std::array::from_fn(value), scale: [1; 16], d: super::block::half(block, 52) }
}

/// Values of one block.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    groups(block).values(out);
}

/// The scale is neither NaN nor infinite.
pub fn finite(block: &[u8; BYTES]) -> bool {
    groups::finite_half(block, 52)
}
