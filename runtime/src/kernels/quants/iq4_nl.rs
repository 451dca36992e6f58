//! `iq4_nl`: `d * CODEBOOK[q]`.

use super::scalar::{self as plain, Small, half, nibbles};
use forebay_format::quant::iq4_nl::CODEBOOK;

fn unpack(block: &[u8; 18]) -> Small {
    Small { q: nibbles(block, 2).map(|q| CODEBOOK[usize::from(q)]), d: half(block, 0), m: 0.0 }
}
plain::kernels!(dot_small, IQ4_NL, super::unpack);

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::quants::avx2::{self as x86, Min, Small};
    use forebay_format::quant::iq4_nl::CODEBOOK;
    use std::arch::x86_64::*;

    x86::small!(18, Min::Signed, Panel::Words, 0, turned many);

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
            [turned::look_up(&CODEBOOK, turned::bits::<0>(packed, 15)), turned::look_up(&CODEBOOK, turned::bits::<4>(packed, 15))]
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 18]) -> Small {
        Small { q: x86::look_up(&CODEBOOK, x86::nibbles(block, 2)), d: x86::half(block, 0), m: _mm256_setzero_ps() }
    }
}

#[cfg(target_arch = "aarch64")]
pub mod neon {
    use crate::kernels::quants::neon::{self as arm, Small};
    use forebay_format::quant::iq4_nl::CODEBOOK;

    arm::small!(18, false);

    #[inline(always)]
    fn unpack(block: &[u8; 18]) -> Small {
        // SAFETY: NEON is there: see `arm`.
        unsafe {
            let [low, high] = arm::nibbles(block, 2);
            Small { q: [arm::look_up(&CODEBOOK, low), arm::look_up(&CODEBOOK, high)], d: arm::half(block, 0), m: 0.0 }
        }
    }
}
