//! `q5_k`: `d * s * q - dmin * m`, 6-bit `s` and `m` per 32 values, bit 4 of `q` stored apart.

use super::scalar::{self as plain, Large, half, scales_mins};

fn unpack(block: &[u8; 176]) -> Large {
    let (scale, min) = scales_mins(block);
    let value = |i: usize| {
        let low = (block[48 + 32 * (i / 64) + i % 32] >> (4 * (i / 32 % 2))) & 15;
        let high = (block[16 + i % 32] >> (i / 32)) & 1;
        (low | (high << 4)) as i8
    };
    Large { q: std::array::from_fn(value), scale, min, d: half(block, 0), dmin: half(block, 2) }
}
plain::kernels!(dot_large, Q5_K, super::unpack);

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::ops::{MANY, Tiles};
    use crate::kernels::quants::avx2::{self as x86, Large, Min};
    use crate::kernels::quants::{interleaved, k_header};
    use std::arch::x86_64::*;

    x86::large!(176, Min::Float, Panel::Bytes(4), 32, turned, k_header::one::<Type>);

    pub(in crate::kernels::quants) const INTERLEAVED: Tiles =
        Tiles { one: interleaved::one::<Type>, many: interleaved::many::<Type, 2>, most: MANY };

    impl turned::TurnedLarge for Type {
        const RUNS: usize = 2;

        #[inline(always)]
        fn run(part: usize, i: usize) -> usize {
            4 * (part / 2) + part % 2 + 2 * i
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn head<E: Turn>(rows: &E, at: usize) -> Head {
            // SAFETY: the caller's promise.
            unsafe { turned::scales_mins(rows, at) }
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn part<E: Turn>(rows: &E, at: usize, part: usize) -> [Run; 4] {
            // SAFETY: 32 bytes of fifth bits, then 128 of the others.
            let (mut fifth, packed) = unsafe { (rows.turn(at + 16 + 16 * (part % 2)), rows.turn(at + 48 + 16 * part)) };
            let (mut low, mut high) = (turned::bits::<0>(packed, 15), turned::bits::<4>(packed, 15));
            let (sixteen, down) = (_mm256_set1_epi8(16), _mm_cvtsi32_si128(2 * (part / 2) as i32));
            for i in 0..4 {
                fifth[i] = _mm256_srl_epi16(fifth[i], down);
                low[i] = _mm256_or_si256(low[i], _mm256_and_si256(_mm256_slli_epi16::<4>(fifth[i]), sixteen));
                high[i] = _mm256_or_si256(high[i], _mm256_and_si256(_mm256_slli_epi16::<3>(fifth[i]), sixteen));
            }
            [low, high, low, high]
        }
    }

    impl k_header::KHeader for Type {
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn values(block: *const u8) -> [__m256i; 8] {
            // SAFETY: there is a block.
            values(unsafe { &*block.cast() })
        }
    }

    /// The values of a block, 32 a group.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn values(block: &[u8; 176]) -> [__m256i; 8] {
        let high = x86::load(block, 16);
        let mut q = [_mm256_setzero_si256(); 8];
        for (k, q) in q.iter_mut().enumerate() {
            let low = x86::bits(x86::load(block, 48 + 32 * (k / 2)), 4 * (k % 2), 15);
            *q = _mm256_or_si256(low, x86::raised(x86::bits(high, k, 1), 1, 4));
        }
        q
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 176]) -> Large {
        let (scale, min) = x86::scales_mins(block);
        Large { q: values(block), scale, min, d: x86::half(block, 0), dmin: x86::half(block, 2) }
    }
}

#[cfg(target_arch = "aarch64")]
pub mod neon {
    use crate::kernels::quants::neon::{self as arm, Large};
    use std::arch::aarch64::*;

    arm::large!(176, true, true);

    #[inline(always)]
    fn unpack(block: &[u8; 176]) -> Large {
        // SAFETY: NEON is there: see `arm`.
        unsafe {
            let (scale, min) = arm::scales_mins(block);
            let mut q = [vdupq_n_s8(0); 16];
            for (g, q) in q.iter_mut().enumerate() {
                let low = arm::bits(arm::load(block, 48 + 32 * (g / 4) + 16 * (g % 2)), 4 * (g / 2 % 2), 15);
                *q = arm::joined(low, arm::bits(arm::load(block, 16 + 16 * (g % 2)), g / 2, 1), 4, 0);
            }
            Large { q, scale, min, d: arm::half(block, 0), dmin: arm::half(block, 2) }
        }
    }
}
