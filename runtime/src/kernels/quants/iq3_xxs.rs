//! `iq3_xxs`: `d / 4 * (2 s + 1) * magnitude`, 4-bit `s` per 32 values, signs of eight values in 7 bits.

use super::scalar::{self as plain, Large};
use forebay_format::quant::iq3_xxs::groups;

fn unpack(block: &[u8; 98]) -> Large {
    groups(block).into()
}
plain::kernels!(dot_large, IQ3_XXS, super::unpack);
#[cfg(target_arch = "aarch64")]
super::neon::points!(98, true);
#[cfg(target_arch = "x86_64")]
super::points::kernels!(98, 0.25, parts);

/// What the vector kernels take a block apart with.
#[cfg(target_arch = "x86_64")]
mod parts {
    use crate::kernels::quants::{avx2 as x86, points};
    use forebay_format::quant::grids::GRID_IQ3_XXS;
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn magnitudes(block: &[u8; 98], k: usize) -> __m256i {
        let i = points::eight_bytes(block, 2 + 8 * k);
        let (low, high) = ([point(i), point(i >> 8), point(i >> 16), point(i >> 24)], i >> 32);
        points::fours([low[0], low[1], low[2], low[3], point(high), point(high >> 8), point(high >> 16), point(high >> 24)])
    }

    /// The index is the lowest byte.
    #[inline(always)]
    fn point(index: u64) -> u32 {
        GRID_IQ3_XXS[index as usize & 255]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn signs(block: &[u8; 98]) -> [u64; 4] {
        points::even_signs(points::sevens(x86::load(block, 66)))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn scale(block: &[u8; 98]) -> __m256i {
        points::high_scales(x86::load(block, 66))
    }
}
