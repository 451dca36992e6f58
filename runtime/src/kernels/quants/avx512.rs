//! Integer dot products with AVX-512 and VNNI, 64 weights in a vector. As with AVX2 a block's integers are exact: `dpbusd` sums four
//! products in an i32 lane; where groups of 16 have scales of their own, `maddubs` makes pairs (below 2^15) and `dpwssd` multiplies
//! them by the scales. A block of 256 is then scaled and added to sixteen f32 sums with one fused operation, blocks in
//! order, and the sixteen are added as a tree: so types whose weights are numbers less a constant are not for these kernels, since what should cancel is rounded in sixteen places first. There is no multiplication of a signed by a signed byte: the weight's sign goes to the activation.
//!
//! Decoding to f32 is [`super::avx2`]'s: its values are exact.

use super::super::blocks::QRow;
use super::avx2::{self, Min};
use std::arch::x86_64::*;

/// How far ahead of the block in work weights are asked for, in bytes: memory's latency times one thread's share of its bandwidth. Hardware
/// prefetching stops at every page of 4 KiB; this does not.
const AHEAD: usize = 1024;

/// A block of 256 values: see [`avx2::Large`].
pub(super) struct Large {
    /// 64 bytes each; magnitudes for signed types.
    pub q: [__m512i; 4],
    /// Weights below zero; none for unsigned types.
    pub negative: [__mmask64; 4],
    /// i16 for each pair of values in `q`.
    pub scale: [__m512i; 4],
    /// i16 per group of 16 values, in order.
    pub min: __m256i,
    /// `d` and `dmin` in lanes 0 and 1.
    pub d: __m128,
}

/// The unsigned weights `q` of a block without signs.
pub(super) const UNSIGNED: [__mmask64; 4] = [0; 4];

/// The half-precision number at byte `at`, and zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn half<const B: usize>(block: &[u8; B], at: usize) -> __m128 {
    _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(u16::from_le_bytes([block[at], block[at + 1]]))))
}

/// Sixteen i16, one a group, as [`Large::scale`] wants them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn spread(groups: __m256i) -> [__m512i; 4] {
    let first = _mm512_set_epi64(
        0x0003_0003_0003_0003,
        0x0003_0003_0003_0003,
        0x0002_0002_0002_0002,
        0x0002_0002_0002_0002,
        0x0001_0001_0001_0001,
        0x0001_0001_0001_0001,
        0,
        0,
    );
    let mut scale = [_mm512_setzero_si512(); 4];
    for (k, scale) in scale.iter_mut().enumerate() {
        let index = _mm512_add_epi16(first, _mm512_set1_epi16(4 * k as i16));
        *scale = _mm512_permutexvar_epi16(index, _mm512_castsi256_si512(groups));
    }
    scale
}

/// Magnitudes and signs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn apart(q: __m512i, min: Min) -> (__m512i, __mmask64) {
    if min == Min::Signed { (_mm512_abs_epi8(q), _mm512_movepi8_mask(q)) } else { (q, 0) }
}

/// A block that [`avx2`] has unpacked.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn widen(w: &avx2::Large, min: Min) -> Large {
    let (mut q, mut negative) = ([_mm512_setzero_si512(); 4], UNSIGNED);
    for k in 0..4 {
        (q[k], negative[k]) = apart(_mm512_inserti64x4::<1>(_mm512_castsi256_si512(w.q[2 * k]), w.q[2 * k + 1]), min);
    }
    let d = _mm_unpacklo_ps(_mm256_castps256_ps128(w.d), _mm256_castps256_ps128(w.dmin));
    Large { q, negative, scale: spread(in_order(w.scale)), min: w.min, d }
}

/// Sixteen i16 of the even groups, then the odd ones, in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn in_order(groups: __m256i) -> __m256i {
    _mm256_permutexvar_epi16(_mm256_setr_epi16(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15), groups)
}

/// Sum of sixteen values as a tree.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) fn total(v: __m512) -> f32 {
    avx2::total(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v)))
}

/// The activations with the signs of the weights.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn signed(a: __m512i, negative: __mmask64, min: Min) -> __m512i {
    if min == Min::Signed { _mm512_mask_sub_epi8(a, negative, _mm512_setzero_si512(), a) } else { a }
}

/// Adds the product of block `b` to the sums of one activation row.
///
/// # Safety
/// The row has a block `b` of 256.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn step_large(w: &Large, a: &QRow<'_>, b: usize, min: Min, sums: &mut __m512) {
    debug_assert!(!matches!(min, Min::Offset(_)));
    debug_assert!(b < a.d.len() && a.q.len() >= 256 * (b + 1) && a.sums.len() >= 16 * (b + 1));
    // SAFETY: the caller has checked `b`.
    let (q, d, group_sums) = unsafe {
        let q: *const __m512i = a.q.as_ptr().add(256 * b).cast();
        (q, *a.d.get_unchecked(b), _mm256_loadu_si256(a.sums.as_ptr().add(16 * b).cast()))
    };
    let mut products = _mm512_setzero_si512();
    for k in 0..4 {
        // SAFETY: four vectors of 64 bytes make the block.
        let a_q = unsafe { _mm512_loadu_si512(q.add(k)) };
        products = _mm512_dpwssd_epi32(products, _mm512_maddubs_epi16(w.q[k], signed(a_q, w.negative[k], min)), w.scale[k]);
    }
    let scales = _mm_mul_ps(w.d, _mm_set1_ps(d));
    *sums = _mm512_fmadd_ps(_mm512_broadcastss_ps(scales), _mm512_cvtepi32_ps(products), *sums);
    if min == Min::Float {
        let mins = _mm512_cvtepi32_ps(_mm512_zextsi256_si512(_mm256_madd_epi16(w.min, group_sums)));
        *sums = _mm512_fnmadd_ps(_mm512_broadcastss_ps(_mm_movehdup_ps(scales)), mins, *sums);
    }
}

/// Asks for the `bytes` bytes that lie [`AHEAD`] of `at`; what lies there, if anything, does not matter.
#[inline(always)]
pub(super) fn prefetch(at: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        // SAFETY: a prefetch of any address touches nothing that a program could see.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD + line).cast()) };
    }
}

/// `dot` and `decode` of a type with blocks of 256, from the `unpack` beside the call; without one, from the AVX2 `unpack`.
macro_rules! large {
    ($bytes:literal, narrow) => {
        $crate::kernels::quants::avx512::large!($bytes);

        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
        fn unpack(block: &[u8; $bytes]) -> $crate::kernels::quants::avx512::Large {
            $crate::kernels::quants::avx512::widen(&super::avx2::unpack(block), MIN)
        }
    };
    ($bytes:literal) => {
        use super::avx2::MIN;
        pub use super::avx2::decode;

        pub const INTEGER: $crate::kernels::ops::Integer =
            $crate::kernels::ops::Integer::Rows($crate::kernels::ops::Dots { one: dot, two: dot, four: dot, eight: dot });

        /// # Safety
        /// The machine has the features below; each activation row has as many values as the weight row.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
        pub unsafe fn dot<const N: usize>(row: &[u8], acts: &[$crate::kernels::blocks::QRow<'_>; N], out: &mut [f32; N]) {
            use $crate::kernels::quants::avx512 as wide;
            let mut sums = [std::arch::x86_64::_mm512_setzero_ps(); N];
            for (b, block) in row.as_chunks::<$bytes>().0.iter().enumerate() {
                wide::prefetch(block.as_ptr(), $bytes);
                let w = unpack(block);
                for j in 0..N {
                    // SAFETY: activations have the row's blocks.
                    unsafe { wide::step_large(&w, &acts[j], b, MIN, &mut sums[j]) };
                }
            }
            for j in 0..N {
                out[j] = wide::total(sums[j]);
            }
        }
    };
}
pub(super) use large;
