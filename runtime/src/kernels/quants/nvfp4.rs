//! `nvfp4`: `d * LEVELS[q]`, a `d` of 8 bits (E4M3, halved) per 16 values, the levels being twice those of E2M1. Blocks of 64 meet two blocks
//! of activations. The scales are floats, so each 16 values are summed as integers and then scaled.

use forebay_format::quant::mxfp4::LEVELS;
use forebay_format::quant::nvfp4::half_scale;

/// Bytes in a block.
const BYTES: usize = 36;

/// What each scale byte stands for.
static SCALES: [f32; 256] = {
    let mut scales = [0.0; 256];
    let mut i = 0;
    while i < 256 {
        scales[i] = half_scale(i as u8);
        i += 1;
    }
    scales
};

/// The scale of sub-block `s`.
#[inline(always)]
fn scale(block: &[u8; BYTES], s: usize) -> f32 {
    SCALES[usize::from(block[s])]
}

pub mod scalar {
    use super::{BYTES, LEVELS, scale};
    use crate::kernels::blocks::QRow;
    use crate::kernels::ops::{Dots, Integer};
    use forebay_format::QuantType;

    /// The format's own decoder.
    pub fn decode(row: &[u8], out: &mut [f32]) {
        QuantType::NVFP4.decode_row(row, out);
    }

    pub const INTEGER: Integer = Integer::Rows(Dots { one: dot, two: dot, four: dot, eight: dot });

    pub fn dot<const N: usize>(row: &[u8], acts: &[QRow<'_>; N], out: &mut [f32; N]) {
        *out = [0.0; N];
        for (b, block) in row.as_chunks::<BYTES>().0.iter().enumerate() {
            for s in 0..4 {
                let d = scale(block, s);
                let level = |i: usize| i32::from(LEVELS[usize::from((block[4 + 8 * s + i % 8] >> (4 * (i / 8))) & 15)]);
                for (a, out) in acts.iter().zip(out.iter_mut()) {
                    let q = &a.q[64 * b + 16 * s..][..16];
                    let sum: i32 = q.iter().enumerate().map(|(i, &q)| level(i) * i32::from(q)).sum();
                    *out += d * a.d[2 * b + s / 2] * sum as f32;
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use super::{BYTES, LEVELS, scale};
    use crate::kernels::blocks::QRow;
    use crate::kernels::ops::{Dots, Integer};
    use crate::kernels::quants::avx2::{self as x86, Min, Small};
    use std::arch::x86_64::*;

    pub const INTEGER: Integer = Integer::Rows(Dots { one: dot, two: dot, four: dot, eight: dot });

    /// Values `32 h ..` of a block: the two halves of [`Small::d`] differ.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn unpack(block: &[u8; BYTES], h: usize) -> Small {
        let packed = if h == 0 { x86::load16(block, 4) } else { x86::load16(block, 20) };
        let four = _mm_set1_epi8(15);
        let (low, high) = (_mm_and_si128(packed, four), _mm_and_si128(_mm_srli_epi16::<4>(packed), four));
        let index = _mm256_set_m128i(_mm_unpackhi_epi64(low, high), _mm_unpacklo_epi64(low, high));
        let d = _mm256_set_m128(_mm_set1_ps(scale(block, 2 * h + 1)), _mm_set1_ps(scale(block, 2 * h)));
        Small { q: x86::look_up(&LEVELS, index), d, m: _mm256_setzero_ps() }
    }

    /// Adds the product of block `b` to the sums of one activation row.
    ///
    /// # Safety
    /// The row has a block `b` of 32.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn step(w: &Small, a: &QRow<'_>, b: usize, sums: &mut __m256) {
        debug_assert!(b < a.d.len() && a.q.len() >= 32 * (b + 1));
        // SAFETY: the caller has checked `b`.
        let (q, d) = unsafe { (_mm256_loadu_si256(a.q.as_ptr().add(32 * b).cast()), _mm256_set1_ps(*a.d.get_unchecked(b))) };
        let products = x86::products_small(w, q, Min::Signed);
        *sums = _mm256_fmadd_ps(_mm256_mul_ps(w.d, d), _mm256_cvtepi32_ps(products), *sums);
    }

    /// # Safety
    /// The machine has AVX2, FMA and F16C; each activation row has as many values as the weight row.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn dot<const N: usize>(row: &[u8], acts: &[QRow<'_>; N], out: &mut [f32; N]) {
        let mut sums = [_mm256_setzero_ps(); N];
        for (b, block) in row.as_chunks::<BYTES>().0.iter().enumerate() {
            for h in 0..2 {
                let w = unpack(block, h);
                for j in 0..N {
                    // SAFETY: activations have the row's values, two blocks of 32 for each of its blocks.
                    unsafe { step(&w, &acts[j], 2 * b + h, &mut sums[j]) };
                }
            }
        }
        for j in 0..N {
            out[j] = x86::total(sums[j]);
        }
    }

    /// # Safety
    /// The machine has AVX2, FMA and F16C.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn decode(row: &[u8], out: &mut [f32]) {
        for (block, out) in row.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<64>().0) {
            for (part, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let d = _mm256_set1_ps(scale(block, part / 2));
                let q = x86::eight(unpack(block, part / 4).q, part % 4);
                // SAFETY: eight values.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr(), _mm256_mul_ps(d, q)) }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub mod avx512 {
    pub use super::avx2::decode;
    use super::avx2::unpack;
    use super::{BYTES, scale};
    use crate::kernels::blocks::QRow;
    use crate::kernels::ops::{Dots, Integer};
    use crate::kernels::quants::avx512 as wide;
    use std::arch::x86_64::*;

    pub const INTEGER: Integer = Integer::Rows(Dots { one: dot, two: dot, four: dot, eight: dot });

    /// # Safety
    /// The machine has the features below; each activation row has as many values as the weight row.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
    pub unsafe fn dot<const N: usize>(row: &[u8], acts: &[QRow<'_>; N], out: &mut [f32; N]) {
        let mut sums = [_mm512_setzero_ps(); N];
        let quarters = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
        let halves = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
        let each = |order: __m512i, scales: __m128| _mm512_permutexvar_ps(order, _mm512_castps128_ps512(scales));
        for (b, block) in row.as_chunks::<BYTES>().0.iter().enumerate() {
            wide::prefetch(block.as_ptr(), BYTES);
            let q = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(unpack(block, 0).q), unpack(block, 1).q);
            let (magnitude, negative) = (_mm512_abs_epi8(q), _mm512_movepi8_mask(q));
            let d = each(quarters, _mm_setr_ps(scale(block, 0), scale(block, 1), scale(block, 2), scale(block, 3)));
            for j in 0..N {
                debug_assert!(acts[j].q.len() >= 64 * (b + 1) && acts[j].d.len() >= 2 * (b + 1));
                // SAFETY: activations have the row's values, two blocks of 32 for each of its blocks.
                let (a, a_d) = unsafe {
                    let d = acts[j].d.as_ptr().add(2 * b);
                    (_mm512_loadu_si512(acts[j].q.as_ptr().add(64 * b).cast()), _mm_castsi128_ps(_mm_loadl_epi64(d.cast())))
                };
                let signed = _mm512_mask_sub_epi8(a, negative, _mm512_setzero_si512(), a);
                let products = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), magnitude, signed));
                sums[j] = _mm512_fmadd_ps(_mm512_mul_ps(d, each(halves, a_d)), products, sums[j]);
            }
        }
        for j in 0..N {
            out[j] = wide::total(sums[j]);
        }
    }
}
