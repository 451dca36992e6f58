//! `tq2_0`: `d * (q - 1)`, 2 bits a value.

use super::scalar::{self as plain, Large};
use forebay_format::quant::tq2_0::groups;

fn unpack(block: &[u8; 66]) -> Large {
    groups(block).into()
}
plain::kernels!(dot_large, TQ2_0, super::unpack);

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::quants::avx2::{self as x86, Large, Min};
    use std::arch::x86_64::*;

    x86::large!(66, Min::Offset(1), Panel::Bytes(4), 16);

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 66]) -> Large {
        let mut q = [_mm256_setzero_si256(); 8];
        for (k, q) in q.iter_mut().enumerate() {
            *q = x86::bits(x86::load(block, 32 * (k / 4)), 2 * (k % 4), 3);
        }
        let one = _mm256_set1_epi16(1);
        Large { q, scale: one, min: one, d: x86::half(block, 64), dmin: _mm256_setzero_ps() }
    }
}

#[cfg(target_arch = "aarch64")]
pub mod neon {
    use crate::kernels::quants::neon::{self as arm, Large};
    use std::arch::aarch64::*;

    arm::large!(66, true, false);

    #[inline(always)]
    fn unpack(block: &[u8; 66]) -> Large {
        // SAFETY: NEON is there: see `arm`.
        unsafe {
            let mut q = [vdupq_n_s8(0); 16];
            for (g, q) in q.iter_mut().enumerate() {
                *q = arm::minus(arm::bits(arm::load(block, 32 * (g / 8) + 16 * (g % 2)), 2 * (g / 2 % 4), 3), 1);
            }
            Large::scaled(q, [vdupq_n_s32(1); 4], arm::half(block, 64))
        }
    }
}
