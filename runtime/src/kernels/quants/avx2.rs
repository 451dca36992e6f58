//! Unpacking, products along a block, and decoding with AVX2. Weights become bytes in vectors of 32; `maddubs` and `madd` sum their products with the
//! activations in i32 lanes, exactly (no pair of products leaves i16: at most 128 * 127 * 2). What becomes of a block's lanes is in [`gemm`](super::gemm).

use std::arch::asm;
use std::arch::x86_64::*;

/// A block of 32 values: `d * q + m`, `q` as signed bytes (unsigned where all types say so: see [`Min`]).
pub(super) struct Small {
    pub q: __m256i,
    /// Eight times the same.
    pub d: __m256,
    /// Eight times the same.
    pub m: __m256,
}

/// A block of 256 values: `d * scale * q - dmin * min` or `d * (scale * q - min)`, see [`Min`].
pub(super) struct Large {
    /// 32 bytes each.
    pub q: [__m256i; 8],
    /// i16 per group of 16 values: groups 0, 2, 4, ... in the low half, 1, 3, 5, ... in the high half.
    pub scale: __m256i,
    /// i16 per group of 16 values, in order.
    pub min: __m256i,
    /// Eight times the same.
    pub d: __m256,
    /// Eight times the same.
    pub dmin: __m256,
}

/// How a type gets below zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Min {
    /// `q` is signed.
    Signed,
    /// `q` is unsigned, and a minimum with a scale of its own is added (blocks of 32) or taken off (blocks of 256).
    Float,
    /// `q` is unsigned and stands for `q - offset`; the block's `min` is `scale * offset`.
    Offset(i8),
}

/// Half-precision number at byte `at`, eight times. (Converting it once would insert two bytes into a register whose old contents, often
/// the running sums, the processor then waits for.)
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn half<const B: usize>(block: &[u8; B], at: usize) -> __m256 {
    _mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes([block[at], block[at + 1]])))
}

/// The u32 at byte `at`.
#[inline(always)]
pub(super) fn word<const B: usize>(block: &[u8; B], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// 32 bytes from byte `at` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load<const B: usize>(block: &[u8; B], at: usize) -> __m256i {
    assert!(at + 32 <= B); // a constant wherever this is used
    // SAFETY: inside the block.
    unsafe { _mm256_loadu_si256(block.as_ptr().add(at).cast()) }
}

/// 16 bytes from byte `at` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load16<const B: usize>(block: &[u8; B], at: usize) -> __m128i {
    assert!(at + 16 <= B); // a constant wherever this is used
    // SAFETY: inside the block.
    unsafe { _mm_loadu_si128(block.as_ptr().add(at).cast()) }
}

/// `(v >> shift) & mask` in every byte; `mask` has no more than `8 - shift` bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn bits(v: __m256i, shift: usize, mask: i8) -> __m256i {
    _mm256_and_si256(_mm256_srl_epi16(v, _mm_cvtsi32_si128(shift as i32)), _mm256_set1_epi8(mask))
}

/// `(v & mask) << shift` in every byte; the result fits a byte.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn raised(v: __m256i, mask: i8, shift: usize) -> __m256i {
    _mm256_sll_epi16(_mm256_and_si256(v, _mm256_set1_epi8(mask)), _mm_cvtsi32_si128(shift as i32))
}

/// The sixteen low halves, then the sixteen high halves, of the bytes from `at` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn nibbles<const B: usize>(block: &[u8; B], at: usize) -> __m256i {
    let packed = load16(block, at);
    _mm256_and_si256(_mm256_set_m128i(_mm_srli_epi16::<4>(packed), packed), _mm256_set1_epi8(15))
}

/// Bit `i` in all bits of byte `i`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn mask(bits: u32) -> __m256i {
    let all = _mm256_set1_epi32(bits as i32);
    let (b0, b1, b2, b3) = (0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let spread = _mm256_shuffle_epi8(all, _mm256_set_epi64x(b3, b2, b1, b0));
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit)
}

/// Bit `i` of the u32 at byte `at` as bit 4 of byte `i`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn fifth_bits<const B: usize>(block: &[u8; B], at: usize) -> __m256i {
    _mm256_and_si256(mask(word(block, at)), _mm256_set1_epi8(16))
}

/// The levels of a codebook of 16 for 32 indices.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn look_up(levels: &[i8; 16], index: __m256i) -> __m256i {
    // SAFETY: the codebook has 16 bytes.
    let levels = unsafe { _mm_loadu_si128(levels.as_ptr().cast()) };
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(levels), index)
}

/// Scales and minima of Q4_K and Q5_K (packed in bytes 4 to 15) as [`Large`] wants them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scales_mins<const B: usize>(block: &[u8; B]) -> (__m256i, __m256i) {
    let (s, m, low) = (word(block, 4), word(block, 8), word(block, 12));
    let (six, four, two) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x0303_0303);
    let scales = [s & six, (low & four) | (((s >> 6) & two) << 4)];
    let mins = [m & six, ((low >> 4) & four) | (((m >> 6) & two) << 4)];
    let packed = _mm_set_epi32(mins[1] as i32, mins[0] as i32, scales[1] as i32, scales[0] as i32);
    let wide = _mm256_cvtepu8_epi16(packed);
    let mins = _mm256_extracti128_si256::<1>(wide);
    let min = _mm256_set_m128i(_mm_unpackhi_epi16(mins, mins), _mm_unpacklo_epi16(mins, mins));
    (_mm256_permute4x64_epi64::<0x44>(wide), min)
}

/// Sixteen signed bytes, one a group, as [`Large::scale`] wants them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn even_odd(groups: __m128i) -> __m256i {
    let order = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    _mm256_cvtepi8_epi16(_mm_shuffle_epi8(groups, order))
}

/// Sum of eight values as a tree.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn total(v: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
}

/// Products of 32 weights and 32 activations, summed in pairs.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pairs(q: __m256i, a: __m256i, signed: bool) -> __m256i {
    if signed { _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(a, q)) } else { _mm256_maddubs_epi16(q, a) }
}

/// Products of a block of 32 with activations, in eight lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn products_small(w: &Small, a: __m256i, min: Min) -> __m256i {
    _mm256_madd_epi16(pairs(w.q, a, min == Min::Signed), _mm256_set1_epi16(1))
}

/// Products of a block of 256 with activations, scaled, in eight lanes; without minima.
///
/// # Safety
/// There are 256 activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn products_large(w: &Large, a: *const __m256i, min: Min) -> __m256i {
    let mut products = _mm256_setzero_si256();
    for (k, &w_q) in w.q.iter().enumerate() {
        // SAFETY: eight vectors of 32 bytes make the block.
        let a_q = unsafe { _mm256_loadu_si256(a.add(k)) };
        // Scale `k` of each half, eight times.
        let scale = _mm256_shuffle_epi8(w.scale, _mm256_set1_epi16((0x0100 + 0x0202 * k) as i16));
        products = _mm256_add_epi32(products, _mm256_madd_epi16(pairs(w_q, a_q, min == Min::Signed), scale));
    }
    products
}

/// Sixteen i16 of the even groups, then the odd ones, in order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn in_order(groups: __m256i) -> __m256i {
    let (even, odd) = (_mm256_castsi256_si128(groups), _mm256_extracti128_si256::<1>(groups));
    _mm256_set_m128i(_mm_unpackhi_epi16(even, odd), _mm_unpacklo_epi16(even, odd))
}

/// Bytes of a row between what is in work and what is asked for from memory: with four or eight rows side by side about half a microsecond.
const AHEAD: usize = 1536;

/// Where memory is asked for while block `b` of `blocks` is in work, from the start of a row on: [`AHEAD`] later or, where the row ends before that, in the row that comes next in
/// this place when `abreast` rows are done.
#[inline(always)]
pub(super) fn ahead(b: usize, blocks: usize, bytes: usize, abreast: usize) -> usize {
    let later = b + AHEAD.div_ceil(bytes);
    bytes * if later < blocks { later } else { later + (abreast - 1) * blocks }
}

/// Asks for the `bytes` bytes at `at`; what lies there, if anything, does not matter.
#[inline(always)]
pub(super) fn prefetch(at: *const u8, bytes: usize) {
    ask::<_MM_HINT_T0>(at, bytes);
}

/// As [`prefetch`], between the reads before and after it, where the compiler moves the other to wherever it likes. Sixteen prefetches in a row every fourth block of eight rows cost
/// `q4_0` a fifth of its speed from memory (one thread, 11 GB/s instead of 14, where adding numbers up gets 13), and nothing from cache.
#[inline(always)]
pub(in crate::kernels) fn prefetch_here(at: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        // SAFETY: as in `ask`.
        unsafe { asm!("prefetcht0 byte ptr [{}]", in(reg) at.wrapping_add(line), options(nostack, preserves_flags, readonly)) };
    }
}

/// As [`prefetch`], as far as the second-level cache.
#[inline(always)]
pub(in crate::kernels) fn prefetch_far(at: *const u8, bytes: usize) {
    ask::<_MM_HINT_T1>(at, bytes);
}

#[inline(always)]
fn ask<const HINT: i32>(at: *const u8, bytes: usize) {
    for line in (0..bytes).step_by(64) {
        // SAFETY: a prefetch of any address touches nothing that a program could see.
        unsafe { _mm_prefetch::<HINT>(at.wrapping_add(line).cast()) };
    }
}

/// Eight bytes of `q` from byte `8 * part` on as f32; signed bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn eight(q: __m256i, part: usize) -> __m256 {
    let half = if part < 2 { _mm256_castsi256_si128(q) } else { _mm256_extracti128_si256::<1>(q) };
    let bytes = if part.is_multiple_of(2) { half } else { _mm_srli_si128::<8>(half) };
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
}

/// The values of a block, with the decoder's roundings.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn decode_small(w: &Small, min: Min, out: &mut [f32; 32]) {
    for (part, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let mut v = _mm256_mul_ps(w.d, eight(w.q, part));
        if min == Min::Float {
            v = _mm256_add_ps(v, w.m);
        }
        // SAFETY: eight values.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) }
    }
}

/// The values of a block, with the decoder's roundings.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn decode_large(w: &Large, min: Min, out: &mut [f32; 256]) {
    let (mut scales, mut mins) = ([0i16; 16], [0i16; 16]);
    // SAFETY: sixteen values each.
    unsafe {
        _mm256_storeu_si256(scales.as_mut_ptr().cast(), w.scale);
        _mm256_storeu_si256(mins.as_mut_ptr().cast(), w.min);
    }
    for (k, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let q = if let Min::Offset(offset) = min { _mm256_sub_epi8(w.q[k], _mm256_set1_epi8(offset)) } else { w.q[k] };
        for (part, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let odd = part / 2;
            let mut v = _mm256_mul_ps(_mm256_mul_ps(w.d, _mm256_set1_ps(f32::from(scales[8 * odd + k]))), eight(q, part));
            if min == Min::Float {
                v = _mm256_sub_ps(v, _mm256_mul_ps(w.dmin, _mm256_set1_ps(f32::from(mins[2 * k + odd]))));
            }
            // SAFETY: eight values.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) }
        }
    }
}

/// What the tables want of a type with blocks of 32, from the `unpack` beside the call, which cannot be passed as a closure: those lose target features, hence macros.
macro_rules! small {
    ($bytes:literal, $min:expr, $panel:expr, $offset:literal) => {
        x86::small!($bytes, $min, $panel, $offset, gemm::one_small::<Type>, |rows, first, n, unpacked, strip| gemm::fill_small::<Type>(
            rows, first, n, unpacked, strip
        ));
    };
    ($bytes:literal, $min:expr, $panel:expr, $offset:literal, packed) => {
        x86::small!($bytes, $min, $panel, $offset, packed::one::<Type>, |rows, first, n, _u, strip| turned::fill_small::<Type>(
            rows, first, n, strip
        ));
        use $crate::kernels::quants::{
            packed,
            turned::{self, Eight, Run},
        };
    };
    ($bytes:literal, $min:expr, $panel:expr, $offset:literal, turned many) => {
        x86::small!($bytes, $min, $panel, $offset, gemm::one_small::<Type>, |rows, first, n, _u, strip| turned::fill_small::<Type>(
            rows, first, n, strip
        ));
        use $crate::kernels::quants::turned::{self, Eight, Run};
    };
    ($bytes:literal, $min:expr, $panel:expr, $offset:literal, $one:expr, |$rows:ident, $first:ident, $n:ident, $u:ident, $strip:ident| $fill:expr) => {
        pub(in $crate::kernels::quants) const MIN: $crate::kernels::quants::avx2::Min = $min;

        pub const INTEGER: $crate::kernels::ops::Integer = $crate::kernels::ops::Integer::Tiles($crate::kernels::ops::Tiles {
            one: $one,
            many: passes::many_small::<Type>,
            most: $crate::kernels::ops::MANY,
        });
        use $crate::kernels::quants::{
            gemm::{self, Panel},
            passes,
        };

        struct Type;

        impl gemm::SmallType for Type {
            const BYTES: usize = $bytes;
            const MIN: Min = $min;
            const PANEL: Panel = $panel;
            const OFFSET: i8 = $offset;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn unpack(block: *const u8) -> x86::Small {
                // SAFETY: there is a block.
                unpack(unsafe { &*block.cast() })
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn fill($rows: &gemm::Rows, $first: usize, $n: usize, $u: &mut gemm::Unpacked, $strip: &mut gemm::Strip) {
                // SAFETY: the caller's promise.
                unsafe { $fill }
            }
        }

        /// # Safety
        /// The machine has AVX2, FMA and F16C.
        #[target_feature(enable = "avx2,fma,f16c")]
        pub unsafe fn decode(row: &[u8], out: &mut [f32]) {
            for (block, out) in row.as_chunks::<$bytes>().0.iter().zip(out.as_chunks_mut::<32>().0) {
                x86::decode_small(&unpack(block), MIN, out);
            }
        }
    };
}

/// The same for a type with blocks of 256; `$group` values have one scale.
macro_rules! large {
    ($bytes:literal, $min:expr, $panel:expr, $group:literal) => {
        x86::large!($bytes, $min, $panel, $group, gemm::one_large::<Type>, |rows, b, unpacked, strip| gemm::fill_large::<Type>(
            rows, b, unpacked, strip
        ));
    };
    ($bytes:literal, $min:expr, $panel:expr, $group:literal, turned) => {
        x86::large!($bytes, $min, $panel, $group, turned, gemm::one_large::<Type>);
    };
    ($bytes:literal, $min:expr, $panel:expr, $group:literal, turned, $one:expr) => {
        x86::large!($bytes, $min, $panel, $group, $one, |rows, b, _u, strip| turned::fill_rows::<Type>(rows, b, strip));
        use $crate::kernels::quants::turned::{self, Head, Run, Turn};
    };
    ($bytes:literal, $min:expr, $panel:expr, $group:literal, $one:expr, |$rows:ident, $b:ident, $u:ident, $strip:ident| $fill:expr) => {
        pub(in $crate::kernels::quants) const MIN: $crate::kernels::quants::avx2::Min = $min;

        pub const INTEGER: $crate::kernels::ops::Integer = $crate::kernels::ops::Integer::Tiles($crate::kernels::ops::Tiles {
            one: $one,
            many: passes::many_large::<Type>,
            most: $crate::kernels::ops::MANY,
        });
        use $crate::kernels::quants::{
            gemm::{self, Panel},
            passes,
        };

        struct Type;

        impl gemm::LargeType for Type {
            const BYTES: usize = $bytes;
            const MIN: Min = $min;
            const PANEL: Panel = $panel;
            const GROUP: usize = $group;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn unpack(block: *const u8) -> x86::Large {
                // SAFETY: there is a block.
                unpack(unsafe { &*block.cast() })
            }

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn fill($rows: &gemm::Rows, $b: usize, $u: &mut gemm::Unpacked, $strip: &mut gemm::Strip) {
                // SAFETY: the caller's promise.
                unsafe { $fill }
            }
        }

        /// # Safety
        /// The machine has AVX2, FMA and F16C.
        #[target_feature(enable = "avx2,fma,f16c")]
        pub unsafe fn decode(row: &[u8], out: &mut [f32]) {
            for (block, out) in row.as_chunks::<$bytes>().0.iter().zip(out.as_chunks_mut::<256>().0) {
                x86::decode_large(&unpack(block), MIN, out);
            }
        }
    };
}
pub(super) use {large, small};
