//! `iq1_m`: `d / 8 * (2 s + 1) * (8 point +- 1)`, 3-bit `s` per 16 values, the shift's direction per eight.

use super::scalar::{self as plain, Large};
use forebay_format::quant::iq1_m::groups;

fn unpack(block: &[u8; 56]) -> Large {
    groups(block).into()
}
plain::kernels!(dot_large, IQ1_M, super::unpack);
#[cfg(target_arch = "aarch64")]
super::neon::points!(56, false);

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::quants::avx2::{self as x86, Large, Min};
    use crate::kernels::quants::points;
    use crate::kernels::quants::points::ternary;
    use std::arch::x86_64::*;

    x86::large!(56, Min::Signed, Panel::Words, 16);

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 56]) -> Large {
        let mut q = [_mm256_setzero_si256(); 8];
        for (k, q) in q.iter_mut().enumerate() {
            let high = usize::from(block[32 + 2 * k]) | usize::from(block[33 + 2 * k]) << 8;
            let at = 4 * k;
            let four = [
                ternary(block[at], high << 8),
                ternary(block[at + 1], high << 4),
                ternary(block[at + 2], high),
                ternary(block[at + 3], high >> 4),
            ];
            // Bits 3, 7, 11 and 15, each for eight values: ones where the shift is down, or else one.
            let down = _mm256_set1_epi64x(high as i64);
            let bit = _mm256_setr_epi64x(1 << 3, 1 << 7, 1 << 11, 1 << 15);
            let down = _mm256_cmpeq_epi64(_mm256_and_si256(down, bit), bit);
            *q = _mm256_add_epi8(points::eights(four), _mm256_or_si256(down, _mm256_set1_epi8(1)));
        }
        // Four words; in their high ends the scale of the block, in the other bits four scales each.
        let words = points::eight_bytes(block, 48);
        let d = ((words >> 12) & 0xf) | ((words >> 24) & 0xf0) | ((words >> 36) & 0xf00) | ((words >> 48) & 0xf000);
        let d = _mm256_cvtph_ps(_mm_set1_epi16(d as i16));
        // Scales 0 and 2 of each word, then 1 and 3: multiplying puts each in the three highest bits.
        let twice = _mm_unpacklo_epi16(_mm_cvtsi64_si128(words as i64), _mm_cvtsi64_si128(words as i64));
        let (even, odd) = (_mm_set1_epi32((1 << 13) | (1 << 23)), _mm_set1_epi32((1 << 10) | (1 << 20)));
        let s = _mm256_mullo_epi16(_mm256_broadcastsi128_si256(twice), _mm256_set_m128i(odd, even));
        Large {
            q,
            scale: points::odd(_mm256_srli_epi16::<13>(s)),
            min: _mm256_setzero_si256(),
            d: _mm256_mul_ps(d, _mm256_set1_ps(0.125)),
            dmin: _mm256_setzero_ps(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub mod avx512 {
    crate::kernels::quants::avx512::large!(56, narrow);
}
