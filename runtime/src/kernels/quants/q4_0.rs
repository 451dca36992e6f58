//! `q4_0`: `d * (q - 8)`.

use super::scalar::{self as plain, Small, half, nibbles};

fn unpack(block: &[u8; 18]) -> Small {
    Small { q: nibbles(block, 2).map(|q| q as i8 - 8), d: half(block, 0), m: 0.0 }
}
plain::kernels!(dot_small, Q4_0, super::unpack);

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::quants::avx2::{self as x86, Min, Small};
    use std::arch::x86_64::*;

    x86::small!(18, Min::Signed, Panel::Bytes(8), 8, packed);

    impl turned::TurnedSmall for Type {
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn scale(rows: &Eight, at: usize) -> __m256 {
            // SAFETY: the caller's promise.
            unsafe { turned::halves_at(rows, at) }
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn values(rows: &Eight, at: usize) -> [Run; 2] {
            // SAFETY: sixteen bytes of values.
            let packed = unsafe { gemm::turn(rows, at + 2) };
            [turned::bits::<0>(packed, 15), turned::bits::<4>(packed, 15)]
        }
    }

    impl packed::Packed for Type {
        const VALUES: usize = 2;

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn unsigned(halves: __m256i) -> __m256i {
            halves
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 18]) -> Small {
        Small { q: _mm256_sub_epi8(x86::nibbles(block, 2), _mm256_set1_epi8(8)), d: x86::half(block, 0), m: _mm256_setzero_ps() }
    }
}

#[cfg(target_arch = "aarch64")]
pub mod neon {
    use crate::kernels::quants::neon::{self as arm, Small};

    arm::small!(18, false);

    #[inline(always)]
    fn unpack(block: &[u8; 18]) -> Small {
        // SAFETY: NEON is there: see `arm`.
        unsafe {
            let [low, high] = arm::nibbles(block, 2);
            Small { q: [arm::minus(low, 8), arm::minus(high, 8)], d: arm::half(block, 0), m: 0.0 }
        }
    }
}
