//! `iq3_s`: `d * (2 s + 1) * magnitude`, 4-bit `s` per 32 values, a sign bit a value.

use super::scalar::{self as plain, Large};
use forebay_format::quant::iq3_s::groups;

fn unpack(block: &[u8; 110]) -> Large {
    groups(block).into()
}
plain::kernels!(dot_large, IQ3_S, super::unpack);
#[cfg(target_arch = "x86_64")]
super::points::kernels!(110, 1.0, parts);

/// What the vector kernels take a block apart with.
#[cfg(target_arch = "x86_64")]
mod parts {
    use crate::kernels::quants::{avx2 as x86, points};
    use forebay_format::quant::grids::GRID_IQ3_S;
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn magnitudes(block: &[u8; 110], k: usize) -> __m256i {
        let high = usize::from(block[66 + k]);
        let point = |i: usize| GRID_IQ3_S[usize::from(block[2 + 8 * k + i]) | ((high << (8 - i)) & 256)];
        points::fours([point(0), point(1), point(2), point(3), point(4), point(5), point(6), point(7)])
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn signs(block: &[u8; 110]) -> [u64; 4] {
        [74, 82, 90, 98].map(|at| points::eight_bytes(block, at))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn scale(block: &[u8; 110]) -> __m256i {
        let packed = _mm_cvtsi32_si128(x86::word(block, 106) as i32);
        let each = _mm_and_si128(_mm_unpacklo_epi8(packed, _mm_srli_epi16::<4>(packed)), _mm_set1_epi8(15));
        points::odd(_mm256_cvtepu8_epi16(_mm_unpacklo_epi64(each, each)))
    }
}
