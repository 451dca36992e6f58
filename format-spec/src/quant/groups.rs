//! What the codebook types and the ternary types have in common: 256 small whole numbers, a whole scale for each 16 of them, and one half.
//! All products are exact in f32, so every order of multiplication gives the bits that ggml gives.

use super::block;
use super::grids::GRID_IQ1;

/// A block taken apart: value `i` is `(d * scale[i / 16]) * q[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Groups {
    /// Whole numbers.
    pub q: [i8; 256],
    /// One a group of 16.
    pub scale: [i16; 16],
    /// The block's scale.
    pub d: f32,
}

impl Groups {
    /// The values that the block stands for.
    #[inline(always)]
    pub(super) fn values(&self, out: &mut [f32; 256]) {
        for ((values, q), &scale) in out.as_chunks_mut::<16>().0.iter_mut().zip(self.q.as_chunks::<16>().0).zip(&self.scale) {
            let scale = self.d * f32::from(scale);
            for (value, &q) in values.iter_mut().zip(q) {
                *value = scale * f32::from(q);
            }
        }
    }
}

/// Eights of signed bytes from points of a codebook and sign bits (set: below zero): `eight(i)` gives both for values `8 i ..`.
#[inline(always)]
pub(super) fn signed(eight: impl Fn(usize) -> (u64, u8)) -> [i8; 256] {
    let mut q = [0; 256];
    for (i, values) in q.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let (point, signs) = eight(i);
        for (j, (value, magnitude)) in values.iter_mut().zip(point.to_le_bytes()).enumerate() {
            *value = if (signs >> j) & 1 == 1 { -(magnitude as i8) } else { magnitude as i8 };
        }
    }
    q
}

/// Eights of points of the ternary codebook, eight times their values, with the shift of one: `eight(i)` gives the point and whether the shift
/// is down.
#[inline(always)]
pub(super) fn shifted(eight: impl Fn(usize) -> (usize, bool)) -> [i8; 256] {
    let mut q = [0; 256];
    for (i, values) in q.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let (point, down) = eight(i);
        let shift = if down { -1 } else { 1 };
        for (value, level) in values.iter_mut().zip(GRID_IQ1[point & 2047].to_le_bytes()) {
            *value = level as i8 + shift;
        }
    }
    q
}

/// The u16 at byte `at`.
#[inline(always)]
pub(super) fn word<const BYTES: usize>(block: &[u8; BYTES], at: usize) -> u16 {
    u16::from_le_bytes([block[at], block[at + 1]])
}

/// The u32 at byte `at`.
#[inline(always)]
pub(super) fn double<const BYTES: usize>(block: &[u8; BYTES], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// Group `g`'s half of the bytes from `at` on, two groups a byte, as the odd number `2 s + 1`.
#[inline(always)]
pub(super) fn odd_nibble<const BYTES: usize>(block: &[u8; BYTES], at: usize, g: usize) -> i16 {
    i16::from((block[at + g / 2] >> (4 * (g % 2))) & 15) * 2 + 1
}

/// The half at byte `at` is neither NaN nor infinite.
pub(super) fn finite_half<const BYTES: usize>(block: &[u8; BYTES], at: usize) -> bool {
    block::half(block, at).is_finite()
}
