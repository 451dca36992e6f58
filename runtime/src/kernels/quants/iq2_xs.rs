//! `iq2_xs`: `d / 8 * (2 s + 1) * magnitude`, 4-bit `s` per 16 values, signs of eight values in 7 bits.

use super::scalar::{self as plain, Large};
use forebay_format::quant::iq2_xs::groups;

fn unpack(block: &[u8; 74]) -> Large {
    groups(block).into()
}
plain::kernels!(dot_large, IQ2_XS, super::unpack);
#[cfg(target_arch = "aarch64")]
super::neon::points!(74, false);
#[cfg(target_arch = "x86_64")]
super::points::kernels!(74, 0.125, parts);

/// What the vector kernels take a block apart with.
#[cfg(target_arch = "x86_64")]
mod parts {
    use crate::kernels::quants::{avx2 as x86, points};
    use forebay_format::quant::grids::GRID_IQ2_XS;
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn magnitudes(block: &[u8; 74], k: usize) -> __m256i {
        let four = points::eight_bytes(block, 2 + 8 * k);
        points::eights([point(four), point(four >> 16), point(four >> 32), point(four >> 48)])
    }

    #[inline(always)]
    fn point(word: u64) -> u64 {
        GRID_IQ2_XS[word as usize & 511]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn signs(block: &[u8; 74]) -> [u64; 4] {
        let (low, high) = (_mm256_srli_epi16::<9>(x86::load(block, 2)), _mm256_srli_epi16::<9>(x86::load(block, 34)));
        points::even_signs(_mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi16(low, high)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn scale(block: &[u8; 74]) -> __m256i {
        points::nibble_scales(points::eight_bytes(block, 66))
    }
}
