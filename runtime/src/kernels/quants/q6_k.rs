//! `q6_k`: `d * s * (q - 32)`, 8-bit `s` per 16 values, bits 5-4 of `q` stored apart.

use super::scalar::{self as plain, Large, half};

fn unpack(block: &[u8; 210]) -> Large {
    let value = |i: usize| {
        let low = (block[64 * (i / 128) + i % 64] >> (4 * (i / 64 % 2))) & 15;
        let high = (block[128 + 32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4))) & 3;
        (low | (high << 4)) as i8 - 32
    };
    Large {
        q: std::array::from_fn(value),
        scale: std::array::from_fn(|g| i16::from(block[192 + g] as i8)),
        min: [0; 16],
        d: half(block, 208),
        dmin: 0.0,
    }
}
plain::kernels!(dot_large, Q6_K, super::unpack);

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::quants::avx2::{self as x86, Large, Min};
    use std::arch::x86_64::*;

    x86::large!(210, Min::Offset(32), Panel::Bytes(2), 16, turned);

    impl turned::TurnedLarge for Type {
        const RUNS: usize = 4;

        #[inline(always)]
        fn run(part: usize, i: usize) -> usize {
            8 * (part / 2) + part % 2 + 2 * i
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn head<E: Turn>(rows: &E, at: usize) -> Head {
            // SAFETY: the last two bytes of a block are `d`, the sixteen before them the scales.
            let (scales, [.., last]) = unsafe { (rows.turn(at + 192), rows.turn(at + 194)) };
            turned::signed_scales::<5>(scales, turned::halves_of::<true>(last))
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn part<E: Turn>(rows: &E, at: usize, part: usize) -> [Run; 4] {
            let (half, at) = (part / 2, at + 16 * (part % 2));
            // SAFETY: 128 bytes of low bits, then 64 of the high ones.
            let (first, second, high) = unsafe {
                let low = at + 64 * half;
                (rows.turn(low), rows.turn(low + 32), rows.turn(at + 128 + 32 * half))
            };
            let mut out =
                [turned::bits::<0>(first, 15), turned::bits::<0>(second, 15), turned::bits::<4>(first, 15), turned::bits::<4>(second, 15)];
            let two = _mm256_set1_epi8(0x30);
            for i in 0..4 {
                let raised = [_mm256_slli_epi16::<4>(high[i]), _mm256_slli_epi16::<2>(high[i]), high[i], _mm256_srli_epi16::<2>(high[i])];
                for (out, raised) in out.iter_mut().zip(raised) {
                    out[i] = _mm256_or_si256(out[i], _mm256_and_si256(raised, two));
                }
            }
            out
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 210]) -> Large {
        let scales = x86::load16(block, 192);
        let mut q = [_mm256_setzero_si256(); 8];
        for (k, q) in q.iter_mut().enumerate() {
            let low = x86::bits(x86::load(block, 64 * (k / 4) + 32 * (k % 2)), 4 * (k / 2 % 2), 15);
            let high = x86::bits(x86::load(block, 128 + 32 * (k / 4)), 2 * (k % 4), 3);
            *q = _mm256_or_si256(low, x86::raised(high, 3, 4));
        }
        Large {
            q,
            scale: x86::even_odd(scales),
            min: _mm256_slli_epi16::<5>(_mm256_cvtepi8_epi16(scales)),
            d: x86::half(block, 208),
            dmin: _mm256_setzero_ps(),
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub mod neon {
    use crate::kernels::quants::neon::{self as arm, Large};
    use std::arch::aarch64::*;

    arm::large!(210, false, false);

    #[inline(always)]
    fn unpack(block: &[u8; 210]) -> Large {
        // SAFETY: NEON is there: see `arm`.
        unsafe {
            let mut q = [vdupq_n_s8(0); 16];
            for (g, q) in q.iter_mut().enumerate() {
                let low = arm::bits(arm::load(block, 64 * (g / 8) + 16 * (g % 4)), 4 * (g / 4 % 2), 15);
                *q = arm::joined(low, arm::bits(arm::load(block, 128 + 32 * (g / 8) + 16 * (g % 2)), 2 * (g / 2 % 4), 3), 4, 32);
            }
            Large::scaled(q, arm::groups(arm::minus(arm::load(block, 192), 0)), arm::half(block, 208))
        }
    }
}
