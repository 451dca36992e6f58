//! `iq3_s`: `d * (2 s + 1) * magnitude`, 4-bit `s` per 32 values, a sign bit a value.

use super::scalar::{self as plain, Large};
use forebay_format::quant::iq3_s::groups;

fn unpack(block: &[u8; 110]) -> Large {
    groups(block).into()
}
plain::kernels!(dot_large, IQ3_S, super::unpack);
#[cfg(target_arch = "aarch64")]
super::neon::points!(110, true);
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
        let (i, high) = (points::eight_bytes(block, 2 + 8 * k), usize::from(block[66 + k]));
        points::fours([
            point(i, high << 8),
            point(i >> 8, high << 7),
            point(i >> 16, high << 6),
            point(i >> 24, high << 5),
            point(i >> 32, high << 4),
            point(i >> 40, high << 3),
            point(i >> 48, high << 2),
            point(i >> 56, high << 1),
        ])
    }

    /// The lowest byte of `low`, and bit 8 of `high`.
    #[inline(always)]
    fn point(low: u64, high: usize) -> u32 {
        GRID_IQ3_S[(low as usize & 255) | (high & 256)]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn signs(block: &[u8; 110]) -> [u64; 4] {
        [points::eight_bytes(block, 74), points::eight_bytes(block, 82), points::eight_bytes(block, 90), points::eight_bytes(block, 98)]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn scale(block: &[u8; 110]) -> __m256i {
        let packed = _mm_cvtsi32_si128(x86::word(block, 106) as i32);
        let each = _mm_and_si128(_mm_unpacklo_epi8(packed, _mm_srli_epi16::<4>(packed)), _mm_set1_epi8(15));
        points::odd(_mm256_cvtepu8_epi16(_mm_unpacklo_epi64(each, each)))
    }
}
