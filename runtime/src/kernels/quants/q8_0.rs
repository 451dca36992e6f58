//! `q8_0`: `d * q`.

use super::scalar::{self as plain, Small, half};

fn unpack(block: &[u8; 34]) -> Small {
    Small { q: std::array::from_fn(|i| block[2 + i] as i8), d: half(block, 0), m: 0.0 }
}
plain::kernels!(dot_small, Q8_0, super::unpack);

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::quants::avx2::{self as x86, Min, Small};
    use std::arch::x86_64::*;

    x86::small!(34, Min::Signed, Panel::Words, 0, turned many);

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
            // SAFETY: 32 bytes of values.
            unsafe { [gemm::turn(rows, at + 2), gemm::turn(rows, at + 18)] }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 34]) -> Small {
        Small { q: x86::load(block, 2), d: x86::half(block, 0), m: _mm256_setzero_ps() }
    }
}

#[cfg(target_arch = "aarch64")]
pub mod neon {
    use crate::kernels::quants::neon::{self as arm, Small};
    use std::arch::aarch64::*;

    arm::small!(34, false);

    #[inline(always)]
    fn unpack(block: &[u8; 34]) -> Small {
        // SAFETY: NEON is there: see `arm`.
        unsafe {
            let q = [vreinterpretq_s8_u8(arm::load(block, 2)), vreinterpretq_s8_u8(arm::load(block, 18))];
            Small { q, d: arm::half(block, 0), m: 0.0 }
        }
    }
}
