//! `iq2_s`: `d / 8 * (2 s + 1) * magnitude`, 4-bit `s` per 16 values, a sign bit a value.

use super::scalar::{self as plain, Large};
use forebay_format::quant::iq2_s::groups;

fn unpack(block: &[u8; 82]) -> Large {
    groups(block).into()
}
plain::kernels!(dot_large, IQ2_S, super::unpack);
#[cfg(target_arch = "aarch64")]
super::neon::points!(82, false);
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
        let (at, high) = (2 + 4 * k, usize::from(block[66 + k]));
        points::eights([
            point(block[at], high << 8),
            point(block[at + 1], high << 6),
            point(block[at + 2], high << 4),
            point(block[at + 3], high << 2),
        ])
    }

    /// Bits 9-8 of the index are those of `high`.
    #[inline(always)]
    fn point(low: u8, high: usize) -> u64 {
        GRID_IQ2_S[usize::from(low) | (high & 0x300)]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn signs(block: &[u8; 82]) -> [u64; 4] {
        [points::eight_bytes(block, 34), points::eight_bytes(block, 42), points::eight_bytes(block, 50), points::eight_bytes(block, 58)]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn scale(block: &[u8; 82]) -> __m256i {
        points::nibble_scales(points::eight_bytes(block, 74))
    }
}
