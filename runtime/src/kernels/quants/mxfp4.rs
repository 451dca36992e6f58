//! `mxfp4`: `2^(e - 128) * LEVELS[q]`, the levels being twice those of E2M1.

use super::scalar::{self as plain, Small, nibbles};
use forebay_format::quant::mxfp4::{LEVELS, half_scale};

fn unpack(block: &[u8; 17]) -> Small {
    Small { q: nibbles(block, 1).map(|q| LEVELS[usize::from(q)]), d: half_scale(block[0]), m: 0.0 }
}
plain::kernels!(dot_small, MXFP4, super::unpack);

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::quants::avx2::{self as x86, Min, Small};
    use forebay_format::quant::mxfp4::{LEVELS, half_scale};
    use std::arch::x86_64::*;

    x86::small!(17, Min::Signed, Panel::Bytes(4), 12, packed);

    /// The levels, unsigned.
    const UNSIGNED: [i8; 16] = {
        let mut levels = LEVELS;
        let mut i = 0;
        while i < 16 {
            levels[i] += 12;
            i += 1;
        }
        levels
    };

    impl packed::Packed for Type {
        const VALUES: usize = 1;

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn unsigned(halves: __m256i) -> __m256i {
            x86::look_up(&UNSIGNED, halves)
        }
    }

    impl turned::TurnedSmall for Type {
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn scale(rows: &Eight, at: usize) -> __m256 {
            // SAFETY: the caller's promise; a block is longer than sixteen bytes.
            let e = _mm256_cvtepu8_epi32(unsafe { turned::bytes_at(rows, at) });
            // As `half_scale`: the two smallest are subnormal, and what the shift makes of them is zero or less.
            let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, _mm256_set1_epi32(1)));
            let small = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), _mm256_min_epi32(e, _mm256_set1_epi32(2)));
            _mm256_castsi256_ps(_mm256_max_epi32(normal, small))
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn values(rows: &Eight, at: usize) -> [Run; 2] {
            // SAFETY: sixteen bytes of values.
            let packed = unsafe { gemm::turn(rows, at + 1) };
            [turned::look_up(&UNSIGNED, turned::bits::<0>(packed, 15)), turned::look_up(&UNSIGNED, turned::bits::<4>(packed, 15))]
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 17]) -> Small {
        Small { q: x86::look_up(&LEVELS, x86::nibbles(block, 1)), d: _mm256_set1_ps(half_scale(block[0])), m: _mm256_setzero_ps() }
    }
}

#[cfg(target_arch = "aarch64")]
pub mod neon {
    use crate::kernels::quants::neon::{self as arm, Small};
    use forebay_format::quant::mxfp4::{LEVELS, half_scale};

    arm::small!(17, false);

    #[inline(always)]
    fn unpack(block: &[u8; 17]) -> Small {
        // SAFETY: NEON is there: see `arm`.
        unsafe {
            let [low, high] = arm::nibbles(block, 1);
            Small { q: [arm::look_up(&LEVELS, low), arm::look_up(&LEVELS, high)], d: half_scale(block[0]), m: 0.0 }
        }
    }
}
