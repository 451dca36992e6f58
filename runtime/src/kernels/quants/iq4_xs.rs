//! `iq4_xs`: `d * (s - 32) * CODEBOOK[q]`, 6-bit `s` per 32 values.

use super::scalar::{self as plain, Large, half};
use forebay_format::quant::iq4_nl::CODEBOOK;

/// The eight scales, -32 to 31.
fn scales(block: &[u8; 136]) -> [i16; 8] {
    let high = i16::from_le_bytes([block[2], block[3]]);
    std::array::from_fn(|j| i16::from((block[4 + j / 2] >> (4 * (j % 2))) & 15) + ((high >> (2 * j) & 3) << 4) - 32)
}

fn unpack(block: &[u8; 136]) -> Large {
    let scales = scales(block);
    let value = |i: usize| CODEBOOK[usize::from((block[8 + 16 * (i / 32) + i % 16] >> (4 * (i / 16 % 2))) & 15)];
    Large { q: std::array::from_fn(value), scale: std::array::from_fn(|g| scales[g / 2]), min: [0; 16], d: half(block, 0), dmin: 0.0 }
}
plain::kernels!(dot_large, IQ4_XS, super::unpack);

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::quants::avx2::{self as x86, Large, Min};
    use forebay_format::quant::iq4_nl::CODEBOOK;
    use std::arch::x86_64::*;

    x86::large!(136, Min::Signed, Panel::Words, 32, turned);

    impl turned::TurnedLarge for Type {
        const RUNS: usize = 2;

        #[inline(always)]
        fn run(part: usize, i: usize) -> usize {
            2 * part + i
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn head<E: Turn>(rows: &E, at: usize) -> Head {
            // SAFETY: a block is longer than sixteen bytes.
            let [first, low, ..] = unsafe { rows.turn(at) };
            let four = _mm256_set1_epi8(15);
            let nibbles = [_mm256_and_si256(low, four), _mm256_and_si256(_mm256_srli_epi16::<4>(low), four)];
            let zero = _mm256_setzero_si256();
            let mut head = Head { scale: [zero; 16], min: [zero; 8], d: turned::halves_of::<false>(first), dmin: _mm256_setzero_ps() };
            for g in 0..8 {
                // Two bits of the upper word, to bits 5-4 of both words.
                let high = _mm256_and_si256(_mm256_srl_epi32(first, _mm_cvtsi32_si128(16 + 2 * g as i32)), _mm256_set1_epi32(3));
                let high = _mm256_or_si256(_mm256_slli_epi32::<4>(high), _mm256_slli_epi32::<20>(high));
                let scale = _mm256_or_si256(turned::twice(nibbles[g % 2], g / 2), high);
                head.scale[g] = _mm256_sub_epi16(scale, _mm256_set1_epi16(32));
            }
            head
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn part<E: Turn>(rows: &E, at: usize, part: usize) -> [Run; 4] {
            // SAFETY: 128 bytes of values.
            let packed = unsafe { rows.turn(at + 8 + 16 * part) };
            let look_up = |v| turned::look_up(&CODEBOOK, v);
            let (low, high) = (look_up(turned::bits::<0>(packed, 15)), look_up(turned::bits::<4>(packed, 15)));
            [low, high, low, high]
        }
    }

    /// The eight scales, -32 to 31.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn scales(block: &[u8; 136]) -> __m128i {
        let (low, four) = (_mm_cvtsi32_si128(x86::word(block, 4) as i32), _mm_set1_epi8(15));
        let low = _mm_unpacklo_epi8(_mm_and_si128(low, four), _mm_and_si128(_mm_srli_epi16::<4>(low), four));
        // Scale `j` has bits `2j + 1` and `2j` of the word: they are raised to the top and let down to 5-4.
        let high = _mm_set1_epi16(i16::from_le_bytes([block[2], block[3]]));
        let high = _mm_mullo_epi16(high, _mm_setr_epi16(1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6, 1 << 4, 1 << 2, 1));
        let high = _mm_slli_epi16::<4>(_mm_srli_epi16::<14>(high));
        _mm_sub_epi16(_mm_or_si128(_mm_cvtepu8_epi16(low), high), _mm_set1_epi16(32))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 136]) -> Large {
        let mut q = [_mm256_setzero_si256(); 8];
        for (k, q) in q.iter_mut().enumerate() {
            *q = x86::look_up(&CODEBOOK, x86::nibbles(block, 8 + 16 * k));
        }
        Large {
            q,
            scale: _mm256_broadcastsi128_si256(scales(block)),
            min: _mm256_setzero_si256(),
            d: x86::half(block, 0),
            dmin: _mm256_setzero_ps(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub mod avx512 {
    crate::kernels::quants::avx512::large!(136, narrow);
}

#[cfg(target_arch = "aarch64")]
pub mod neon {
    use crate::kernels::quants::neon::{self as arm, Large};
    use forebay_format::quant::iq4_nl::CODEBOOK;
    use std::arch::aarch64::*;

    arm::large!(136, true, false);

    #[inline(always)]
    fn unpack(block: &[u8; 136]) -> Large {
        // SAFETY: NEON is there: see `arm`; there are eight scales.
        unsafe {
            let mut q = [vdupq_n_s8(0); 16];
            for (k, q) in q.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                let [low, high] = arm::nibbles(block, 8 + 16 * k);
                *q = [arm::look_up(&CODEBOOK, low), arm::look_up(&CODEBOOK, high)];
            }
            // Each stands for two groups.
            let scales = vmovn_s16(vld1q_s16(super::scales(block).as_ptr()));
            let scales = vcombine_s8(vzip1_s8(scales, scales), vzip2_s8(scales, scales));
            Large::scaled(q, arm::groups(scales), arm::half(block, 0))
        }
    }
}
