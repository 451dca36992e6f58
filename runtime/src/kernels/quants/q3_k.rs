//! `q3_k`: `d * (s - 32) * (q - 4)`, 6-bit `s` per 16 values, bit 2 of `q` stored apart.

use super::scalar::{self as plain, Large, half};

/// The sixteen scales, -32 to 31.
fn scales(block: &[u8; 110]) -> [i16; 16] {
    std::array::from_fn(|g| {
        let low = (block[96 + g % 8] >> (4 * (g / 8))) & 15;
        let high = (block[104 + g % 4] >> (2 * (g / 4))) & 3;
        i16::from(low | (high << 4)) - 32
    })
}

fn unpack(block: &[u8; 110]) -> Large {
    let value = |i: usize| {
        let low = (block[32 + 32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4))) & 3;
        let high = (block[i % 32] >> (i / 32)) & 1;
        (low | (high << 2)) as i8 - 4
    };
    Large { q: std::array::from_fn(value), scale: scales(block), min: [0; 16], d: half(block, 108), dmin: 0.0 }
}
plain::kernels!(dot_large, Q3_K, super::unpack);

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::quants::avx2::{self as x86, Large, Min};
    use std::arch::x86_64::*;

    x86::large!(110, Min::Offset(4), Panel::Bytes(4), 16, turned);

    impl turned::TurnedLarge for Type {
        const RUNS: usize = 4;

        #[inline(always)]
        fn run(part: usize, i: usize) -> usize {
            8 * (part / 2) + part % 2 + 2 * i
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn head<E: Turn>(rows: &E, at: usize) -> Head {
            // SAFETY: the last fourteen bytes of a block are the scales and `d`.
            let [v0, v1, v2, v3] = unsafe { rows.turn(at + 94) };
            let word = |low, high| _mm256_or_si256(_mm256_srli_epi32::<16>(low), _mm256_slli_epi32::<16>(high));
            let (a, b, high) = (word(v0, v1), word(v1, v2), word(v2, v3));
            let (four, two) = (_mm256_set1_epi8(15), _mm256_set1_epi8(0x30));
            let part = |low, high| {
                let q = _mm256_or_si256(_mm256_and_si256(low, four), _mm256_and_si256(high, two));
                _mm256_sub_epi8(q, _mm256_set1_epi8(32))
            };
            let scales = [
                part(a, _mm256_slli_epi16::<4>(high)),
                part(b, _mm256_slli_epi16::<2>(high)),
                part(_mm256_srli_epi16::<4>(a), high),
                part(_mm256_srli_epi16::<4>(b), _mm256_srli_epi16::<2>(high)),
            ];
            turned::signed_scales::<2>(scales, turned::halves_of::<true>(v3))
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn part<E: Turn>(rows: &E, at: usize, part: usize) -> [Run; 4] {
            // SAFETY: 32 bytes of third bits, then 64 of the others.
            let (third, packed) = unsafe { (rows.turn(at + 16 * (part % 2)), rows.turn(at + 32 + 16 * part)) };
            let mut out =
                [turned::bits::<0>(packed, 3), turned::bits::<2>(packed, 3), turned::bits::<4>(packed, 3), turned::bits::<6>(packed, 3)];
            let (one, down) = (_mm256_set1_epi8(4), _mm_cvtsi32_si128(4 * (part / 2) as i32));
            for i in 0..4 {
                let third = _mm256_srl_epi16(third[i], down);
                let raised = [_mm256_slli_epi16::<2>(third), _mm256_slli_epi16::<1>(third), third, _mm256_srli_epi16::<1>(third)];
                for (out, raised) in out.iter_mut().zip(raised) {
                    out[i] = _mm256_or_si256(out[i], _mm256_and_si256(raised, one));
                }
            }
            out
        }
    }

    /// The sixteen scales as bytes.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn scales(block: &[u8; 110]) -> __m128i {
        let (a, b, high) = (x86::word(block, 96), x86::word(block, 100), x86::word(block, 104));
        let (four, two) = (0x0f0f_0f0f, 0x0303_0303);
        let low = [a & four, b & four, (a >> 4) & four, (b >> 4) & four];
        let part = |i: usize| (low[i] | (((high >> (2 * i)) & two) << 4)) as i32;
        _mm_sub_epi8(_mm_setr_epi32(part(0), part(1), part(2), part(3)), _mm_set1_epi8(32))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 110]) -> Large {
        let scales = scales(block);
        let high = x86::load(block, 0);
        let mut q = [_mm256_setzero_si256(); 8];
        for (k, q) in q.iter_mut().enumerate() {
            let low = x86::bits(x86::load(block, 32 + 32 * (k / 4)), 2 * (k % 4), 3);
            *q = _mm256_or_si256(low, x86::raised(x86::bits(high, k, 1), 1, 2));
        }
        Large {
            q,
            scale: x86::even_odd(scales),
            min: _mm256_slli_epi16::<2>(_mm256_cvtepi8_epi16(scales)),
            d: x86::half(block, 108),
            dmin: _mm256_setzero_ps(),
        }
    }
}

#[cfg(target_arch = "aarch64")]
pub mod neon {
    use crate::kernels::quants::neon::{self as arm, Large};
    use std::arch::aarch64::*;

    arm::large!(110, false, false);

    /// The sixteen scales as bytes.
    #[inline]
    #[target_feature(enable = "neon")]
    fn scales(block: &[u8; 110]) -> int8x16_t {
        let (a, b, high) = (arm::word(block, 96), arm::word(block, 100), arm::word(block, 104));
        let (four, two) = (0x0f0f_0f0f, 0x0303_0303);
        let part = |low: u32, i: u32| (low & four) | (((high >> (2 * i)) & two) << 4);
        arm::minus(arm::four_words([part(a, 0), part(b, 1), part(a >> 4, 2), part(b >> 4, 3)]), 32)
    }

    #[inline(always)]
    fn unpack(block: &[u8; 110]) -> Large {
        // SAFETY: NEON is there: see `arm`.
        unsafe {
            let mut q = [vdupq_n_s8(0); 16];
            for (g, q) in q.iter_mut().enumerate() {
                let low = arm::bits(arm::load(block, 32 + 32 * (g / 8) + 16 * (g % 2)), 2 * (g / 2 % 4), 3);
                *q = arm::joined(low, arm::bits(arm::load(block, 16 * (g % 2)), g / 2, 1), 2, 4);
            }
            Large::scaled(q, arm::groups(scales(block)), arm::half(block, 108))
        }
    }
}
