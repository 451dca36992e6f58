//! `iq1_s`: `d / 8 * (2 s + 1) * (8 point +- 1)`, 3-bit `s` and the shift's direction per 32 values.

use super::scalar::{self as plain, Large};
use forebay_format::quant::iq1_s::groups;

fn unpack(block: &[u8; 50]) -> Large {
    groups(block).into()
}
plain::kernels!(dot_large, IQ1_S, super::unpack);
#[cfg(target_arch = "aarch64")]
super::neon::points!(50, true);

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::quants::avx2::{self as x86, Large, Min};
    use crate::kernels::quants::points;
    use crate::kernels::quants::points::ternary;
    use std::arch::x86_64::*;

    x86::large!(50, Min::Signed, Panel::Words, 16);

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 50]) -> Large {
        let mut q = [_mm256_setzero_si256(); 8];
        for (k, q) in q.iter_mut().enumerate() {
            let high = usize::from(block[34 + 2 * k]) | usize::from(block[35 + 2 * k]) << 8;
            let (at, shift) = (2 + 4 * k, _mm256_set1_epi8(if high >> 15 == 1 { -1 } else { 1 }));
            let four = [
                ternary(block[at], high << 8),
                ternary(block[at + 1], high << 5),
                ternary(block[at + 2], high << 2),
                ternary(block[at + 3], high >> 1),
            ];
            *q = _mm256_add_epi8(points::eights(four), shift);
        }
        let s = _mm_and_si128(_mm_srli_epi16::<12>(x86::load16(block, 34)), _mm_set1_epi16(7));
        Large {
            q,
            scale: points::odd(_mm256_broadcastsi128_si256(s)),
            min: _mm256_setzero_si256(),
            d: _mm256_mul_ps(x86::half(block, 0), _mm256_set1_ps(0.125)),
            dmin: _mm256_setzero_ps(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub mod avx512 {
    crate::kernels::quants::avx512::large!(50, narrow);
}
