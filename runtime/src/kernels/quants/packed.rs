//! One activation row and types whose blocks of 32 keep their values as sixteen bytes of halves, with AVX2. Two rows share a vector, one in each half of it, so that what is read is
//! multiplied where it lies, low halves with the first sixteen activations and high ones with the last, and nothing is turned but sums.

use super::super::blocks::QRow;
use super::super::ops::TILE_ROWS;
use super::avx2 as x86;
use super::gemm::{Rows, halves};
use super::turned::TurnedSmall;
use std::arch::x86_64::*;

/// A type with blocks of 32: sixteen bytes, value `i` in the low half of byte `i`, value `16 + i` in the high half; at most 31 when unsigned (see [`one`]).
pub(super) trait Packed: TurnedSmall {
    /// Where in a block the sixteen bytes begin.
    const VALUES: usize;

    /// The values of 32 halves, [`OFFSET`](super::gemm::SmallType::OFFSET) added.
    ///
    /// # Safety
    /// The machine has AVX2, FMA and F16C.
    unsafe fn unsigned(halves: __m256i) -> __m256i;
}

/// Products of one activation row. Eight products fit an i16 where values are at most 31: 8 * 31 * 128 = 31,744.
///
/// # Safety
/// The machine has AVX2, FMA and F16C; the rows have `blocks` blocks each and the activation row as many values.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn one<W: Packed>(rows: &Rows, blocks: usize, acts: &[QRow<'_>], out: &mut [[f32; TILE_ROWS]]) {
    let a = &acts[0];
    debug_assert!(a.d.len() == blocks && a.q.len() == 32 * blocks && a.sums.len() == blocks);
    let (ones, fifteen) = (_mm256_set1_epi16(1), _mm256_set1_epi8(15));
    for (rows, out) in halves(rows).iter().zip(out[0].as_chunks_mut::<8>().0) {
        let mut total = _mm256_setzero_ps();
        for b in 0..blocks {
            // SAFETY: block `b` is inside the rows and the activation row.
            unsafe {
                // Four blocks are about a line: one row in four is asked for beside each of them.
                let ahead = x86::ahead(b - b % 4, blocks, W::BYTES, 8);
                for row in &rows[2 * (b % 4)..][..2] {
                    x86::prefetch_here(row.wrapping_add(ahead), 4 * W::BYTES);
                }
                let q: *const __m128i = a.q.as_ptr().add(32 * b).cast();
                let (first, last) =
                    (_mm256_broadcastsi128_si256(_mm_loadu_si128(q)), _mm256_broadcastsi128_si256(_mm_loadu_si128(q.add(1))));
                let at = b * W::BYTES + W::VALUES;
                let mut sums = [_mm256_setzero_si256(); 4];
                for r in 0..4 {
                    let low = _mm256_castsi128_si256(_mm_loadu_si128(rows[r].add(at).cast()));
                    let packed = _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(rows[r + 4].add(at).cast()));
                    let low = W::unsigned(_mm256_and_si256(packed, fifteen));
                    let high = W::unsigned(_mm256_and_si256(_mm256_srli_epi16::<4>(packed), fifteen));
                    let pairs = _mm256_add_epi16(_mm256_maddubs_epi16(low, first), _mm256_maddubs_epi16(high, last));
                    sums[r] = _mm256_madd_epi16(pairs, ones);
                }
                let two = |a, b| _mm256_madd_epi16(_mm256_packs_epi32(a, b), ones);
                let dots = _mm256_hadd_epi32(two(sums[0], sums[1]), two(sums[2], sums[3]));
                let offset = _mm256_set1_epi32(-i32::from(W::OFFSET) * i32::from(*a.sums.get_unchecked(b)));
                let d = _mm256_mul_ps(W::scale(rows, b * W::BYTES), _mm256_set1_ps(*a.d.get_unchecked(b)));
                total = _mm256_fmadd_ps(d, _mm256_cvtepi32_ps(_mm256_add_epi32(dots, offset)), total);
            }
        }
        // SAFETY: eight values.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), total) };
    }
}
