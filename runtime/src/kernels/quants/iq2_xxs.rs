//! `iq2_xxs`: `d / 8 * (2 s + 1) * magnitude`, 4-bit `s` per 32 values, signs of eight values in 7 bits.

use super::scalar::{self as plain, Large};
use forebay_format::quant::iq2_xxs::groups;

fn unpack(block: &[u8; 66]) -> Large {
    groups(block).into()
}
plain::kernels!(dot_large, IQ2_XXS, super::unpack);
#[cfg(target_arch = "aarch64")]
super::neon::points!(66, true);
#[cfg(target_arch = "x86_64")]
super::points::kernels!(66, 0.125, parts);

/// What the vector kernels take a block apart with.
#[cfg(target_arch = "x86_64")]
mod parts {
    use crate::kernels::quants::{avx2 as x86, points};
    use forebay_format::quant::grids::GRID_IQ2_XXS;
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn magnitudes(block: &[u8; 66], k: usize) -> __m256i {
        let at = 2 + 8 * k;
        points::eights([point(block[at]), point(block[at + 1]), point(block[at + 2]), point(block[at + 3])])
    }

    #[inline(always)]
    fn point(index: u8) -> u64 {
        GRID_IQ2_XXS[usize::from(index)]
    }

    /// The second word for each 32 values: signs and scale.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn words(block: &[u8; 66]) -> __m256i {
        let (low, high) = (_mm256_castsi256_ps(x86::load(block, 2)), _mm256_castsi256_ps(x86::load(block, 34)));
        _mm256_permute4x64_epi64::<0xd8>(_mm256_castps_si256(_mm256_shuffle_ps::<0xdd>(low, high)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn signs(block: &[u8; 66]) -> [u64; 4] {
        points::even_signs(points::sevens(words(block)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn scale(block: &[u8; 66]) -> __m256i {
        points::high_scales(words(block))
    }
}
