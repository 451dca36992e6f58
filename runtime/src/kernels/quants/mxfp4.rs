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

    x86::small!(17, Min::Signed);

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 17]) -> Small {
        Small { q: x86::look_up(&LEVELS, x86::nibbles(block, 1)), d: _mm256_set1_ps(half_scale(block[0])), m: _mm256_setzero_ps() }
    }
}

#[cfg(target_arch = "x86_64")]
pub mod avx512 {
    crate::kernels::quants::avx512::small!(17);
}
