//! `q2_k`: `d * s * q - dmin * m`, 4-bit `s` and `m` per 16 values.

use super::scalar::{self as plain, Large, half};

fn unpack(block: &[u8; 84]) -> Large {
    Large {
        q: std::array::from_fn(|i| ((block[16 + 32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4))) & 3) as i8),
        scale: std::array::from_fn(|g| i16::from(block[g] & 15)),
        min: std::array::from_fn(|g| i16::from(block[g] >> 4)),
        d: half(block, 80),
        dmin: half(block, 82),
    }
}
plain::kernels!(dot_large, Q2_K, super::unpack);

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::quants::avx2::{self as x86, Large, Min};
    use std::arch::x86_64::*;

    x86::large!(84, Min::Float, Panel::Bytes(4), 16, turned);

    impl turned::TurnedLarge for Type {
        const RUNS: usize = 4;

        #[inline(always)]
        fn run(part: usize, i: usize) -> usize {
            8 * (part / 2) + part % 2 + 2 * i
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn head<E: Turn>(rows: &E, at: usize) -> Head {
            // SAFETY: sixteen bytes of scales and minima are first, `d` and `dmin` last.
            let (packed, [.., last]) = unsafe { (rows.turn(at), rows.turn(at + 68)) };
            let (scales, mins) = (turned::bits::<0>(packed, 15), turned::bits::<4>(packed, 15));
            let zero = _mm256_setzero_si256();
            let (d, dmin) = (turned::halves_of::<false>(last), turned::halves_of::<true>(last));
            let mut head = Head { scale: [zero; 16], min: [zero; 8], d, dmin };
            for g in 0..16 {
                head.scale[g] = turned::twice(scales[g / 4], g % 4);
            }
            for g in 0..8 {
                head.min[g] = turned::both(mins[g / 2], g % 2);
            }
            head
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn part<E: Turn>(rows: &E, at: usize, part: usize) -> [Run; 4] {
            // SAFETY: 64 bytes of values.
            let packed = unsafe { rows.turn(at + 16 + 16 * part) };
            [turned::bits::<0>(packed, 3), turned::bits::<2>(packed, 3), turned::bits::<4>(packed, 3), turned::bits::<6>(packed, 3)]
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 84]) -> Large {
        let packed = x86::load16(block, 0);
        let four = _mm_set1_epi8(15);
        let mins = _mm_and_si128(_mm_srli_epi16::<4>(packed), four);
        let mut q = [_mm256_setzero_si256(); 8];
        for (k, q) in q.iter_mut().enumerate() {
            *q = x86::bits(x86::load(block, 16 + 32 * (k / 4)), 2 * (k % 4), 3);
        }
        Large {
            q,
            scale: x86::even_odd(_mm_and_si128(packed, four)),
            min: _mm256_cvtepi8_epi16(mins),
            d: x86::half(block, 80),
            dmin: x86::half(block, 82),
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub mod neon {
    use crate::kernels::quants::neon::{self as arm, Large};
    use std::arch::aarch64::*;

    arm::large!(84, false, true);

    #[inline(always)]
    fn unpack(block: &[u8; 84]) -> Large {
        // SAFETY: NEON is there: see `arm`.
        unsafe {
            let packed = arm::load(block, 0);
            let mins = vreinterpretq_s8_u8(vshrq_n_u8::<4>(packed));
            let mut q = [vdupq_n_s8(0); 16];
            for (g, q) in q.iter_mut().enumerate() {
                *q = vreinterpretq_s8_u8(arm::bits(arm::load(block, 16 + 32 * (g / 8) + 16 * (g % 2)), 2 * (g / 2 % 4), 3));
            }
            Large {
                q,
                scale: arm::groups(arm::minus(arm::bits(packed, 0, 15), 0)),
                min: [vmovl_s8(vget_low_s8(mins)), vmovl_high_s8(mins)],
                d: arm::half(block, 80),
                dmin: arm::half(block, 82),
            }
        }
    }
}
