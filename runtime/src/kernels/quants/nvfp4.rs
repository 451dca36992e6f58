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

#[cfg(target_arch = "aarch64")]
pub mod neon {
    use super::{BYTES, LEVELS, scale};
    use crate::kernels::blocks::QRow;
    use crate::kernels::ops::{Dots, Integer};
    use crate::kernels::quants::neon as arm;
    use std::arch::aarch64::*;

    pub const INTEGER: Integer =
        Integer::Rows(Dots { one: dot::<true, 1>, two: dot::<true, 2>, four: dot::<true, 4>, eight: dot::<true, 8> });

    /// Without the dot product instruction.
    pub const BASE: Integer =
        Integer::Rows(Dots { one: dot::<false, 1>, two: dot::<false, 2>, four: dot::<false, 4>, eight: dot::<false, 8> });

    /// The four sub-blocks.
    #[inline(always)]
    fn unpack(block: &[u8; BYTES]) -> [int8x16_t; 4] {
        // SAFETY: NEON is there: see `arm`.
        unsafe {
            let mut q = [vdupq_n_s8(0); 4];
            for (h, q) in q.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                // Eight bytes a sub-block: its first eight values in the low halves, the others in the high halves.
                let [low, high] = arm::nibbles(block, 4 + 16 * h);
                let (low, high) = (vreinterpretq_u64_u8(low), vreinterpretq_u64_u8(high));
                let (first, second) = (vreinterpretq_u8_u64(vzip1q_u64(low, high)), vreinterpretq_u8_u64(vzip2q_u64(low, high)));
                *q = [arm::look_up(&LEVELS, first), arm::look_up(&LEVELS, second)];
            }
            q
        }
    }

    /// # Safety
    /// The machine has NEON and what `DOT` says; each activation row has as many values as the weight row.
    #[target_feature(enable = "neon")]
    pub unsafe fn dot<const DOT: bool, const N: usize>(row: &[u8], acts: &[QRow<'_>; N], out: &mut [f32; N]) {
        let mut sums = [vdupq_n_f32(0.0); N];
        for (b, block) in row.as_chunks::<BYTES>().0.iter().enumerate() {
            let q = unpack(block);
            for j in 0..N {
                debug_assert!(acts[j].d.len() >= 2 * (b + 1));
                for s in 0..4 {
                    // SAFETY: activations have the row's values, two blocks of 32 for each of its blocks.
                    let (a, d) = unsafe { (arm::activations(&acts[j], 64 * b + 16 * s), *acts[j].d.get_unchecked(2 * b + s / 2)) };
                    let products = vcvtq_f32_s32(arm::quads::<DOT>(vdupq_n_s32(0), q[s], a));
                    sums[j] = vfmaq_n_f32(sums[j], products, scale(block, s) * d);
                }
            }
        }
        for j in 0..N {
            out[j] = arm::total(sums[j]);
        }
    }

    /// # Safety
    /// The machine has NEON.
    #[target_feature(enable = "neon")]
    pub unsafe fn decode(row: &[u8], out: &mut [f32]) {
        for (block, out) in row.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<64>().0) {
            let parts = unpack(block).into_iter().zip(out.as_chunks_mut::<16>().0);
            for (s, (q, out)) in parts.enumerate() {
                for (q, out) in arm::floats(q).into_iter().zip(out.as_chunks_mut::<4>().0) {
                    // SAFETY: four values.
                    unsafe { vst1q_f32(out.as_mut_ptr(), vmulq_n_f32(q, scale(block, s))) }
                }
            }
        }
    }
}
