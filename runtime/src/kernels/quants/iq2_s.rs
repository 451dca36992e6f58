//! `iq2_s`: `d / 8 * (2 s + 1) * magnitude`, 4-bit `s` per 16 values, a sign bit a value.

use super::scalar::{self as plain, Large};
use forebay_format::quant::iq2_s::groups;

fn unpack(block: &[u8; 82]) -> Large {
    groups(block).into()
}
plain::kernels!(dot_large, IQ2_S, super::unpack);
#[cfg(target_arch = "x86_64")]
super::points::kernels!(82, 0.125, parts);

/// What the vector kernels take a block apart with.
#[cfg(target_arch = "x86_64")]
mod parts {
    use crate::kernels::quants::points;
    use forebay_format::quant::grids::GRID_IQ2_S;
    use std::arch::x86_64::*;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn magnitudes(block: &[u8; 82], k: usize) -> __m256i {
        let (low, high) = (|l| usize::from(block[2 + 4 * k + l]), usize::from(block[66 + k]));
        let point = |l: usize| GRID_IQ2_S[low(l) | ((high << (8 - 2 * l)) & 0x300)];
        points::eights([point(0), point(1), point(2), point(3)])
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn signs(block: &[u8; 82]) -> [u64; 4] {
        [34, 42, 50, 58].map(|at| points::eight_bytes(block, at))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn scale(block: &[u8; 82]) -> __m256i {
        points::nibble_scales(points::eight_bytes(block, 74))
    }
}
