//! `tq1_0`: `d * (digit - 1)`, five digits of base three in a byte.

use super::scalar::{self as plain, Large};
use forebay_format::quant::tq1_0::groups;

fn unpack(block: &[u8; 54]) -> Large {
    groups(block).into()
}
plain::kernels!(dot_large, TQ1_0, super::unpack);
#[cfg(target_arch = "aarch64")]
super::neon::points!(54, true);

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::quants::avx2::{self as x86, Large, Min};
    use std::arch::x86_64::*;

    x86::large!(54, Min::Offset(1), Panel::Bytes(4), 16);

    /// Three times each byte, the rest of 256.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn tripled(v: __m256i) -> __m256i {
        _mm256_add_epi8(_mm256_add_epi8(v, v), v)
    }

    /// The whole part of three times `byte / 256`: 0, or 1 from 86 on, or 2 from 171 on.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn digit(v: __m256i) -> __m256i {
        let one = _mm256_cmpeq_epi8(_mm256_max_epu8(v, _mm256_set1_epi8(86)), v);
        let two = _mm256_cmpeq_epi8(_mm256_max_epu8(v, _mm256_set1_epi8(171u8 as i8)), v);
        _mm256_abs_epi8(_mm256_add_epi8(one, two))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 54]) -> Large {
        let mut q = [_mm256_setzero_si256(); 8];
        let mut first = x86::load(block, 0);
        for q in &mut q[..5] {
            *q = digit(first);
            first = tripled(first);
        }
        // Digits 0 and 1 of sixteen bytes, then 2 and 3, then 4.
        let second = _mm256_broadcastsi128_si256(x86::load16(block, 32));
        let zero_one = _mm256_blend_epi32::<0xf0>(second, tripled(second));
        let two_three = tripled(tripled(zero_one));
        let four = _mm256_castsi256_si128(tripled(tripled(two_three)));
        // Digits 0 to 3 of four bytes: each is multiplied in 16 bits, of which the low half counts.
        let last = _mm256_cvtepu8_epi16(_mm_set1_epi32(x86::word(block, 48) as i32));
        let powers = _mm256_setr_epi16(1, 1, 1, 1, 3, 3, 3, 3, 9, 9, 9, 9, 27, 27, 27, 27);
        let last = _mm256_and_si256(_mm256_mullo_epi16(last, powers), _mm256_set1_epi16(255));
        let last = _mm_packus_epi16(_mm256_castsi256_si128(last), _mm256_extracti128_si256::<1>(last));
        (q[5], q[6], q[7]) = (digit(zero_one), digit(two_three), digit(_mm256_set_m128i(last, four)));
        let one = _mm256_set1_epi16(1);
        Large { q, scale: one, min: one, d: x86::half(block, 52), dmin: _mm256_setzero_ps() }
    }
}
