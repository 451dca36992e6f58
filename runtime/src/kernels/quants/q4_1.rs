//! `q4_1`: `d * q + m`.

use super::scalar::{self as plain, Small, half, nibbles};

fn unpack(block: &[u8; 20]) -> Small {
    Small { q: nibbles(block, 4).map(|q| q as i8), d: half(block, 0), m: half(block, 2) }
}
plain::kernels!(dot_small, Q4_1, super::unpack);

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::quants::avx2::{self as x86, Min, Small};

    x86::small!(20, Min::Float, Panel::Bytes(8), 0);

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 20]) -> Small {
        Small { q: x86::nibbles(block, 4), d: x86::half(block, 0), m: x86::half(block, 2) }
    }
}

#[cfg(target_arch = "aarch64")]
pub mod neon {
    use crate::kernels::quants::neon::{self as arm, Small};
    use std::arch::aarch64::*;

    arm::small!(20, true);

    #[inline(always)]
    fn unpack(block: &[u8; 20]) -> Small {
        // SAFETY: NEON is there: see `arm`.
        unsafe {
            let [low, high] = arm::nibbles(block, 4);
            Small { q: [vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high)], d: arm::half(block, 0), m: arm::half(block, 2) }
        }
    }
}
