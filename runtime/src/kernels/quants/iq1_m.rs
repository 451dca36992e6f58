//! `iq1_m`: `d / 8 * (2 s + 1) * (8 point +- 1)`, 3-bit `s` per 16 values, the shift's direction per eight.

use super::scalar::{self as plain, Large};
use forebay_format::quant::iq1_m::groups;

fn unpack(block: &[u8; 56]) -> Large {
    groups(block).into()
}
plain::kernels!(dot_large, IQ1_M, super::unpack);

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::quants::avx2::{self as x86, Large, Min};
    use crate::kernels::quants::points;
    use forebay_format::quant::grids::GRID_IQ1;
    use std::arch::x86_64::*;

    x86::large!(56, Min::Signed);

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 56]) -> Large {
        let mut q = [_mm256_setzero_si256(); 8];
        for (k, q) in q.iter_mut().enumerate() {
            let high = usize::from(block[32 + 2 * k]) | usize::from(block[33 + 2 * k]) << 8;
            let point = |l: usize| GRID_IQ1[usize::from(block[4 * k + l]) | (((high << 8) >> (4 * l)) & 0x700)];
            let shift = |l: usize| if (high >> (4 * l)) & 8 != 0 { u64::MAX } else { 0x0101_0101_0101_0101 };
            let shifts = points::eights([shift(0), shift(1), shift(2), shift(3)]);
            *q = _mm256_add_epi8(points::eights([point(0), point(1), point(2), point(3)]), shifts);
        }
        // Four words; in their high ends the scale of the block, in the other bits four scales each.
        let words = points::eight_bytes(block, 48);
        let part = |w: u32| ((words >> (16 * w + 12)) & 15) << (4 * w);
        let d = _mm256_cvtph_ps(_mm_set1_epi16((part(0) | part(1) | part(2) | part(3)) as i16));
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
