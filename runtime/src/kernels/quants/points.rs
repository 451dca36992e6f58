//! Codebook types: points of a lattice are looked up by index, eight or four bytes at a time, and the `iq2` and `iq3` types give each value a
//! sign. The look-ups are plain loads (a table is 1 to 16 KiB and stays in the first-level cache); everything around them is done for a whole
//! block at once. No closures here: not every build inlines them into functions with target features, and that triples the instructions. AVX2 puts the signs on the weights; AVX-512 hands them on as masks, which is what its products want.

use forebay_format::quant::grids::GRID_IQ1;
use std::arch::x86_64::*;

/// Points of eight values each, as 32 bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn eights(p: [u64; 4]) -> __m256i {
    _mm256_set_epi64x(p[3] as i64, p[2] as i64, p[1] as i64, p[0] as i64)
}

/// Points of four values each, as 32 bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn fours(p: [u32; 8]) -> __m256i {
    eights([pair(p[0], p[1]), pair(p[2], p[3]), pair(p[4], p[5]), pair(p[6], p[7])])
}

/// Two points of four values.
#[inline(always)]
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | (u64::from(high) << 32)
}

/// Magnitudes with signs (bit set: below zero).
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn signed(magnitudes: __m256i, signs: u32) -> __m256i {
    let mask = super::avx2::mask(signs);
    _mm256_sub_epi8(_mm256_xor_si256(magnitudes, mask), mask)
}

/// Signs of a block from an index of seven bits for each eight values: an eighth bit makes the number of signs even.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn even_signs(index: __m256i) -> [u64; 4] {
    let folded = _mm256_and_si256(_mm256_xor_si256(index, _mm256_srli_epi16::<4>(index)), _mm256_set1_epi8(15));
    // Bit 7 for the numbers below 16 with an odd number of ones.
    let odd = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -128, -128, 0, -128, 0, 0, -128, -128, 0, 0, -128, 0, -128, -128, 0));
    let mut signs = [0; 4];
    // SAFETY: 32 bytes.
    unsafe { _mm256_storeu_si256(signs.as_mut_ptr().cast(), _mm256_or_si256(index, _mm256_shuffle_epi8(odd, folded))) };
    signs
}

/// Indices of seven bits, four in the low 28 bits of each word, as bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn sevens(words: __m256i) -> __m256i {
    // Field `l` moves up by `l` bits; then its byte's seven low bits are kept.
    let second = _mm256_and_si256(_mm256_slli_epi32::<1>(words), _mm256_set1_epi32(0x7f << 8));
    let third = _mm256_and_si256(_mm256_slli_epi32::<2>(words), _mm256_set1_epi32(0x7f << 16));
    let fourth = _mm256_and_si256(_mm256_slli_epi32::<3>(words), _mm256_set1_epi32(0x7f << 24));
    let first = _mm256_and_si256(words, _mm256_set1_epi32(0x7f));
    _mm256_or_si256(_mm256_or_si256(first, second), _mm256_or_si256(third, fourth))
}

/// `2 s + 1` in i16, of the scales in bits 31-28 of a word for each 32 values, as [`super::avx2::Large::scale`] wants them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn high_scales(words: __m256i) -> __m256i {
    let s = _mm256_srli_epi32::<28>(words);
    odd(_mm256_permute4x64_epi64::<0x88>(_mm256_packs_epi32(s, s)))
}

/// `2 s + 1` in i16, of the 16 scales in the half bytes of `packed`, as [`super::avx2::Large::scale`] wants them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn nibble_scales(packed: u64) -> __m256i {
    let (low, mask) = (_mm_cvtsi64_si128(packed as i64), _mm_set1_epi8(15));
    let both = _mm_unpacklo_epi64(low, _mm_srli_epi16::<4>(low));
    odd(_mm256_cvtepu8_epi16(_mm_and_si128(both, mask)))
}

/// `2 s + 1`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn odd(s: __m256i) -> __m256i {
    _mm256_add_epi16(_mm256_add_epi16(s, s), _mm256_set1_epi16(1))
}

/// A point of the ternary codebook, eight times its values: the index has its low eight bits, and bits 10-8 of `high`.
#[inline(always)]
pub(super) fn ternary(low: u8, high: usize) -> u64 {
    GRID_IQ1[usize::from(low) | (high & 0x700)]
}

/// The u64 at byte `at`.
#[inline(always)]
pub(super) fn eight_bytes<const B: usize>(block: &[u8; B], at: usize) -> u64 {
    assert!(at + 8 <= B); // a constant wherever this is used
    // SAFETY: inside the block.
    unsafe { block.as_ptr().add(at).cast::<u64>().read_unaligned() }
}

/// The `avx2` and `avx512` modules of a type with magnitudes and signs, from the functions beside the call: `magnitudes(block, k)`, 32 bytes;
/// `signs(block)`, a bit a value; `scale(block)`, as [`super::avx2::Large::scale`]; the block's `d` is the half at byte 0 times `$unit`.
macro_rules! kernels {
    ($bytes:literal, $unit:literal, $parts:ident) => {
        #[cfg(target_arch = "x86_64")]
        pub mod avx2 {
            use super::$parts::{magnitudes, scale, signs};
            use crate::kernels::quants::avx2::{self as x86, Large, Min};
            use crate::kernels::quants::points;
            use std::arch::x86_64::*;

            x86::large!($bytes, Min::Signed, Panel::Words, 16);

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn unpack(block: &[u8; $bytes]) -> Large {
                let signs = signs(block);
                let mut q = [_mm256_setzero_si256(); 8];
                for (k, q) in q.iter_mut().enumerate() {
                    *q = points::signed(magnitudes(block, k), (signs[k / 2] >> (32 * (k % 2))) as u32);
                }
                let d = _mm256_mul_ps(x86::half(block, 0), _mm256_set1_ps($unit));
                Large { q, scale: scale(block), min: _mm256_setzero_si256(), d, dmin: _mm256_setzero_ps() }
            }
        }

        #[cfg(target_arch = "x86_64")]
        pub mod avx512 {
            use super::$parts::{magnitudes, scale, signs};
            use crate::kernels::quants::avx512::{self as wide, Large};
            use std::arch::x86_64::*;

            wide::large!($bytes);

            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
            fn unpack(block: &[u8; $bytes]) -> Large {
                let mut q = [_mm512_setzero_si512(); 4];
                for (k, q) in q.iter_mut().enumerate() {
                    *q = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(magnitudes(block, 2 * k)), magnitudes(block, 2 * k + 1));
                }
                let scale = wide::spread(wide::in_order(scale(block)));
                let d = _mm_mul_ps(wide::half(block, 0), _mm_set1_ps($unit));
                Large { q, negative: signs(block), scale, min: _mm256_setzero_si256(), d }
            }
        }
    };
}
pub(super) use kernels;
