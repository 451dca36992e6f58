//! One activation row and the types whose blocks of 256 begin with the halves `d` and `dmin` and twelve bytes of scales and minima of six bits (Q4_K and Q5_K), with AVX2. Four rows
//! side by side; their headers are taken apart together, two rows in a vector, and minima meet the activations' sums for two rows at once: 94 instructions instead of 113 for 256 weights
//! of `q4_k`, 119 instead of 138 for `q5_k`, claims and prefetches counted.

use super::super::blocks::QRow;
use super::avx2 as x86;
use super::gemm::{ABREAST, LargeType, Results, Rows, sums_of_four};
use std::arch::x86_64::*;

/// A type with such blocks.
pub(super) trait KHeader: LargeType {
    /// The values of a block, 32 a group, unsigned.
    ///
    /// # Safety
    /// The machine has AVX2, FMA and F16C; there is a block.
    unsafe fn values(block: *const u8) -> [__m256i; 8];
}

/// The headers of two blocks, one in each half of the result: eight scales, then eight minima, as bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scales_mins(headers: __m256i) -> __m256i {
    let both = |a: i32, b: i32, c: i32, d: i32| _mm256_broadcastsi128_si256(_mm_setr_epi32(a, b, c, d));
    let (six, four, two) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x3030_3030);
    // Dwords 1, 2 and 3: the first four scales and minima with their six bits, whose upper two belong to the last four; the lower four of these.
    let lower = _mm256_srlv_epi32(_mm256_shuffle_epi32::<0b11_10_11_01>(headers), both(0, 0, 0, 4));
    let upper = _mm256_srli_epi32::<2>(_mm256_shuffle_epi32::<0b10_10_01_01>(headers));
    _mm256_or_si256(_mm256_and_si256(lower, both(six, four, six, four)), _mm256_and_si256(upper, both(0, two, 0, two)))
}

/// Of two headers in each of two vectors: the halves `d` of the first halves of both, then those of the second; then `dmin` in the same order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn factors(even: __m256i, odd: __m256i) -> __m256 {
    let order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, -1, -1, -1, -1, -1, -1, -1, -1));
    let halves = _mm256_shuffle_epi8(_mm256_unpacklo_epi32(even, odd), order);
    _mm256_cvtph_ps(_mm_unpacklo_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves)))
}

/// Products of a block with activations, scaled, in eight lanes; without minima. `scales` has the block's scales as bytes at the start of both halves. The lines of a block at `ahead` are
/// asked for one by one meanwhile.
///
/// # Safety
/// There are 256 activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn products<W: LargeType>(w: [__m256i; 8], scales: __m256i, a: *const __m256i, ahead: *const u8) -> __m256i {
    let mut sum = _mm256_setzero_si256();
    for (k, &w) in w.iter().enumerate() {
        if k % 2 == 0 && 32 * k < W::BYTES {
            x86::prefetch_here(ahead.wrapping_add(32 * k), 1);
        }
        // SAFETY: eight vectors of 32 bytes make the block.
        let pairs = _mm256_maddubs_epi16(w, unsafe { _mm256_loadu_si256(a.add(k)) });
        let scale = _mm256_shuffle_epi8(scales, _mm256_set1_epi16((0x8000 | k) as i16));
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, scale));
    }
    sum
}

/// Products of one activation row; the float operations of [`one_large`](super::gemm::one_large) in its order.
///
/// # Safety
/// The machine has AVX2, FMA and F16C; the rows have `blocks` blocks each and the activation row as many values.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn one<W: KHeader>(rows: &Rows, blocks: usize, acts: &[QRow<'_>], out: &mut Results) {
    let a = &acts[0];
    debug_assert!(a.d.len() == blocks && a.q.len() == 256 * blocks && a.sums.len() == 16 * blocks);
    for (rows, out) in rows.as_chunks::<ABREAST>().0.iter().zip(out[0].as_chunks_mut::<ABREAST>().0) {
        let mut total = _mm_setzero_ps();
        for b in 0..blocks {
            let ahead = x86::ahead(b, blocks, W::BYTES, ABREAST);
            // SAFETY: block `b` is inside the rows and the activation row; a block is longer than sixteen bytes.
            unsafe {
                let block = |r: usize| rows[r].add(b * W::BYTES);
                let header = |r: usize| {
                    let low = _mm256_castsi128_si256(_mm_loadu_si128(block(r).cast()));
                    _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(block(r + 2).cast()))
                };
                let headers = [header(0), header(1)];
                let packed = [scales_mins(headers[0]), scales_mins(headers[1])];
                let q: *const __m256i = a.q.as_ptr().add(256 * b).cast();
                let mut sums = [_mm256_setzero_si256(); ABREAST];
                for r in 0..ABREAST {
                    let scales = match r / 2 {
                        0 => _mm256_permute4x64_epi64::<0b01_00_01_00>(packed[r % 2]),
                        _ => _mm256_permute4x64_epi64::<0b11_10_11_10>(packed[r % 2]),
                    };
                    sums[r] = products::<W>(W::values(block(r)), scales, q, rows[r].wrapping_add(ahead));
                }
                // Sums of activations over groups of 32: at most 32 * 127.
                let groups: *const __m128i = a.sums.as_ptr().add(16 * b).cast();
                let groups = _mm_hadd_epi16(_mm_loadu_si128(groups), _mm_loadu_si128(groups.add(1)));
                let groups = _mm256_broadcastsi128_si256(groups);
                let mins = |packed| _mm256_madd_epi16(_mm256_unpackhi_epi8(packed, _mm256_setzero_si256()), groups);
                let mins = _mm256_hadd_epi32(mins(packed[0]), mins(packed[1]));
                let mins = _mm_hadd_epi32(_mm256_castsi256_si128(mins), _mm256_extracti128_si256::<1>(mins));
                let d = _mm256_mul_ps(factors(headers[0], headers[1]), _mm256_set1_ps(*a.d.get_unchecked(b)));
                total = _mm_fmadd_ps(_mm256_castps256_ps128(d), _mm_cvtepi32_ps(sums_of_four(sums)), total);
                total = _mm_fnmadd_ps(_mm256_extractf128_ps::<1>(d), _mm_cvtepi32_ps(mins), total);
            }
        }
        // SAFETY: four values.
        unsafe { _mm_storeu_ps(out.as_mut_ptr(), total) };
    }
}
