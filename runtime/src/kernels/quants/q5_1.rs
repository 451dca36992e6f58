//! `q5_1`: `d * q + m`, bit 4 of `q` stored apart.

use super::scalar::{self as plain, Small, fifth_bits, half, nibbles};

fn unpack(block: &[u8; 24]) -> Small {
    let (low, high) = (nibbles(block, 8), fifth_bits(block, 4));
    Small { q: std::array::from_fn(|i| (low[i] | high[i]) as i8), d: half(block, 0), m: half(block, 2) }
}
plain::kernels!(dot_small, Q5_1, super::unpack);

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::quants::avx2::{self as x86, Min, Small};
    use std::arch::x86_64::*;

    x86::small!(24, Min::Float, Panel::Bytes(4), 0);

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 24]) -> Small {
        let q = _mm256_or_si256(x86::nibbles(block, 8), x86::fifth_bits(block, 4));
        Small { q, d: x86::half(block, 0), m: x86::half(block, 2) }
    }
}

#[cfg(target_arch = "aarch64")]
pub mod neon {
    use crate::kernels::quants::neon::{self as arm, Small};

    arm::small!(24, true);

    #[inline(always)]
    fn unpack(block: &[u8; 24]) -> Small {
        // SAFETY: NEON is there: see `arm`.
        unsafe {
            let ([low, high], [a, b]) = (arm::nibbles(block, 8), arm::fifth_bits(block, 4));
            Small { q: [arm::joined(low, a, 4, 0), arm::joined(high, b, 4, 0)], d: arm::half(block, 0), m: arm::half(block, 2) }
        }
    }
}
