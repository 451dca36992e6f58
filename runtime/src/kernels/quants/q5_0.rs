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

    x86::small!(22, Min::Signed, Panel::Bytes(4), 16, turned many);

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
            // SAFETY: a block is 22 bytes, the last sixteen of them low bits.
            let ([first, second, ..], packed) = unsafe { (gemm::turn(rows, at), gemm::turn(rows, at + 6)) };
            let fifth = _mm256_or_si256(_mm256_srli_epi32::<16>(first), _mm256_slli_epi32::<16>(second));
            let mut out = [turned::bits::<0>(packed, 15), turned::bits::<4>(packed, 15)];
            for (step, q) in out.as_flattened_mut().iter_mut().enumerate() {
                *q = _mm256_or_si256(*q, turned::fifth_bits(fifth, step));
            }
            out
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 22]) -> Small {
        let q = _mm256_or_si256(x86::nibbles(block, 6), x86::fifth_bits(block, 2));
        Small { q: _mm256_sub_epi8(q, _mm256_set1_epi8(16)), d: x86::half(block, 0), m: _mm256_setzero_ps() }
    }
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
