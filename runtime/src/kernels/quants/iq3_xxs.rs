//! `iq3_xxs`: `d / 4 * (2 s + 1) * magnitude`, 4-bit `s` per 32 values, signs of eight values in 7 bits.

use super::scalar::{self as plain, Large};
use forebay_format::quant::iq3_xxs::groups;

fn unpack(block: &[u8; 98]) -> Large {
    groups(block).into()
}
plain::kernels!(dot_large, IQ3_XXS, super::unpack);
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
        points::fours(points::eight_bytes(block, 2 + 8 * k).to_le_bytes().map(|i| GRID_IQ3_XXS[usize::from(i)]))
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
