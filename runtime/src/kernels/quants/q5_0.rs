//! `q5_0`: `d * (q - 16)`, bit 4 of `q` stored apart.

use super::scalar::{self as plain, Small, fifth_bits, half, nibbles};

fn unpack(block: &[u8; 22]) -> Small {
    let (low, high) = (nibbles(block, 6), fifth_bits(block, 2));
    Small { q: std::array::from_fn(|i| (low[i] | high[i]) as i8 - 16), d: half(block, 0), m: 0.0 }
}
plain::kernels!(dot_small, Q5_0, super::unpack);

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::quants::avx2::{self as x86, Min, Small};
    use std::arch::x86_64::*;

    x86::small!(22, Min::Signed, Panel::Bytes(4), 16);

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 22]) -> Small {
        let q = _mm256_or_si256(x86::nibbles(block, 6), x86::fifth_bits(block, 2));
        Small { q: _mm256_sub_epi8(q, _mm256_set1_epi8(16)), d: x86::half(block, 0), m: _mm256_setzero_ps() }
    }
}

#[cfg(target_arch = "x86_64")]
pub mod avx512 {
    crate::kernels::quants::avx512::small!(22);
}

#[cfg(target_arch = "aarch64")]
pub mod neon {
    use crate::kernels::quants::neon::{self as arm, Small};

    arm::small!(22, false);

    #[inline(always)]
    fn unpack(block: &[u8; 22]) -> Small {
        // SAFETY: NEON is there: see `arm`.
        unsafe {
            let ([low, high], [a, b]) = (arm::nibbles(block, 6), arm::fifth_bits(block, 2));
            Small { q: [arm::joined(low, a, 4, 16), arm::joined(high, b, 4, 16)], d: arm::half(block, 0), m: 0.0 }
        }
    }
}
