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

    x86::small!(34, Min::Signed);

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 34]) -> Small {
        Small { q: x86::load(block, 2), d: x86::half(block, 0), m: _mm256_setzero_ps() }
    }
}

#[cfg(target_arch = "x86_64")]
pub mod avx512 {
    crate::kernels::quants::avx512::small!(34);
}
