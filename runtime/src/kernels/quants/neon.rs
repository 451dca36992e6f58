//! Integer dot products and decoding with NEON. Weights become signed bytes in vectors of 16; their products with the activations are summed
//! four at a time in i32 lanes, exactly (see [`quads`]); a block's four lanes are then scaled and added to four f32 sums with one fused
//! operation, blocks in order, and the four are added as a tree.
//!
//! `DOT` says whether the machine has the dot product instruction. Both forms of a kernel give the same bits.

use super::super::blocks::QRow;
use forebay_format::quant::Groups;
use std::arch::aarch64::*;
use std::arch::asm;

// What is used once for each block of a row (`unpack` and the steps) must be inlined into the kernels, or blocks pass through memory. The compiler
// forces that only on functions without `target_feature`, so these call intrinsics in unsafe blocks and rely on this:
const _: () = assert!(cfg!(target_feature = "neon"), "compiled for an AArch64 target without NEON");

/// A block of 32 values: `d * q + m`.
pub(super) struct Small {
    pub q: [int8x16_t; 2],
    pub d: f32,
    pub m: f32,
}

/// A block of 256 values: `d * scale * q - dmin * min`.
pub(super) struct Large {
    pub q: [int8x16_t; 16],
    /// i32 per group of 16 values.
    pub scale: [int32x4_t; 4],
    /// i16 per group of 16 values.
    pub min: [int16x8_t; 2],
    pub d: f32,
    pub dmin: f32,
}

impl Large {
    /// A block without a minimum.
    #[inline]
    #[target_feature(enable = "neon")]
    pub fn scaled(q: [int8x16_t; 16], scale: [int32x4_t; 4], d: f32) -> Large {
        Large { q, scale, min: [vdupq_n_s16(0); 2], d, dmin: 0.0 }
    }
}

/// Half-precision number at byte `at`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn half<const B: usize>(block: &[u8; B], at: usize) -> f32 {
    let bits = vdup_n_u16(u16::from_le_bytes([block[at], block[at + 1]]));
    vgetq_lane_f32::<0>(vcvt_f32_f16(vreinterpret_f16_u16(bits)))
}

/// The u32 at byte `at`.
#[inline(always)]
pub(super) fn word<const B: usize>(block: &[u8; B], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

/// 16 bytes from byte `at` on.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load<const B: usize>(block: &[u8; B], at: usize) -> uint8x16_t {
    assert!(at + 16 <= B); // a constant wherever this is used
    // SAFETY: inside the block.
    unsafe { vld1q_u8(block.as_ptr().add(at)) }
}

/// 16 bytes from four words.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn four_words(words: [u32; 4]) -> uint8x16_t {
    // SAFETY: four words.
    vreinterpretq_u8_u32(unsafe { vld1q_u32(words.as_ptr()) })
}

/// `(v >> shift) & mask` in every byte.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn bits(v: uint8x16_t, shift: usize, mask: u8) -> uint8x16_t {
    vandq_u8(vshlq_u8(v, vdupq_n_s8(-(shift as i8))), vdupq_n_u8(mask))
}

/// `low | (high << shift)` in every byte, minus `offset`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn joined(low: uint8x16_t, high: uint8x16_t, shift: usize, offset: i8) -> int8x16_t {
    minus(vorrq_u8(low, vshlq_u8(high, vdupq_n_s8(shift as i8))), offset)
}

/// `v - offset` in every byte.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn minus(v: uint8x16_t, offset: i8) -> int8x16_t {
    vsubq_s8(vreinterpretq_s8_u8(v), vdupq_n_s8(offset))
}

/// The sixteen low halves, then the sixteen high halves, of the bytes from `at` on.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn nibbles<const B: usize>(block: &[u8; B], at: usize) -> [uint8x16_t; 2] {
    let packed = load(block, at);
    [vandq_u8(packed, vdupq_n_u8(15)), vshrq_n_u8::<4>(packed)]
}

/// Bit `i` of the u32 at byte `at` as bit 0 of byte `i`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn fifth_bits<const B: usize>(block: &[u8; B], at: usize) -> [uint8x16_t; 2] {
    let all = vreinterpretq_u8_u32(vdupq_n_u32(word(block, at)));
    // Byte `i / 8` at place `i`, and in it bit `i % 8`.
    let first = vcombine_u8(vdup_n_u8(0), vdup_n_u8(1));
    let second = vcombine_u8(vdup_n_u8(2), vdup_n_u8(3));
    let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    let one = vdupq_n_u8(1);
    [vandq_u8(vtstq_u8(vqtbl1q_u8(all, first), bit), one), vandq_u8(vtstq_u8(vqtbl1q_u8(all, second), bit), one)]
}

/// The levels of a codebook of 16 for 16 indices.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn look_up(levels: &[i8; 16], index: uint8x16_t) -> int8x16_t {
    // SAFETY: the codebook has 16 bytes.
    vqtbl1q_s8(unsafe { vld1q_s8(levels.as_ptr()) }, index)
}

/// Sixteen signed bytes, one a group, as [`Large::scale`] wants them.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn groups(bytes: int8x16_t) -> [int32x4_t; 4] {
    let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
    [vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)]
}

/// Scales and minima of Q4_K and Q5_K (packed in bytes 4 to 15) as [`Large`] wants them.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn scales_mins<const B: usize>(block: &[u8; B]) -> ([int32x4_t; 4], [int16x8_t; 2]) {
    let (s, m, low) = (word(block, 4), word(block, 8), word(block, 12));
    let (six, four, two) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x0303_0303);
    let scales = [s & six, (low & four) | (((s >> 6) & two) << 4)];
    let mins = [m & six, ((low >> 4) & four) | (((m >> 6) & two) << 4)];
    let packed = vreinterpretq_s8_u8(four_words([scales[0], scales[1], mins[0], mins[1]]));
    // Each stands for two groups.
    let mins = vmovl_high_s8(packed);
    (groups(vzip1q_s8(packed, packed)), [vzip1q_s16(mins, mins), vzip2q_s16(mins, mins)])
}

/// A block that the format's decoder has taken apart.
#[inline(always)]
pub(super) fn from_groups(parts: &Groups) -> Large {
    // SAFETY: NEON is there; all loads are of sixteen values, eight and eight for the scales.
    unsafe {
        let mut q = [vdupq_n_s8(0); 16];
        for (q, values) in q.iter_mut().zip(parts.q.as_chunks::<16>().0) {
            *q = vld1q_s8(values.as_ptr());
        }
        let (low, high) = (vld1q_s16(parts.scale.as_ptr()), vld1q_s16(parts.scale.as_ptr().add(8)));
        let scale = [vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)];
        Large::scaled(q, scale, parts.d)
    }
}

/// Adds the products of `w` and `a`, four neighbours to a lane. Products of two pairs do not leave i16, because activations are -127 at least.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn quads<const DOT: bool>(sums: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
    if DOT {
        let mut sums = sums;
        // `vdotq_s32` is not stable in Rust 1.95. The directive holds for this instruction; a function with the feature could not be inlined here.
        // SAFETY: arithmetic on registers; the machine has the instruction, which is what `DOT` says.
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {sums:v}.4s, {w:v}.16b, {a:v}.16b",
                sums = inout(vreg) sums,
                w = in(vreg) w,
                a = in(vreg) a,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sums
    } else {
        let (low, high) = (vmull_s8(vget_low_s8(w), vget_low_s8(a)), vmull_high_s8(w, a));
        vpadalq_s16(sums, vpaddq_s16(low, high))
    }
}

/// Sum of four values as a tree.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn total(v: float32x4_t) -> f32 {
    let two = vpaddq_f32(v, v);
    vgetq_lane_f32::<0>(vpaddq_f32(two, two))
}

/// The running sums of one output value: products, and minima of blocks of 32.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    pub products: float32x4_t,
    pub mins: f32,
}

impl Sums {
    #[inline]
    #[target_feature(enable = "neon")]
    pub fn zero() -> Sums {
        Sums { products: vdupq_n_f32(0.0), mins: 0.0 }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub fn total(&self) -> f32 {
        total(self.products) + self.mins
    }
}

/// 16 activations from place `at` on.
///
/// # Safety
/// There are as many.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn activations(a: &QRow<'_>, at: usize) -> int8x16_t {
    debug_assert!(at + 16 <= a.q.len());
    // SAFETY: the caller has checked `at`.
    unsafe { vld1q_s8(a.q.as_ptr().add(at)) }
}

/// Adds the product of block `b` to the sums of one activation row; `MIN`: there is an `m`.
///
/// # Safety
/// The row has a block `b` of 32; the machine has what `DOT` says.
#[inline(always)]
pub(super) unsafe fn step_small<const DOT: bool, const MIN: bool>(w: &Small, a: &QRow<'_>, b: usize, sums: &mut Sums) {
    debug_assert!(b < a.d.len() && b < a.sums.len());
    // SAFETY: NEON is there; the caller has checked `b`.
    unsafe {
        let (first, second, d) = (activations(a, 32 * b), activations(a, 32 * b + 16), *a.d.get_unchecked(b));
        let products = quads::<DOT>(quads::<DOT>(vdupq_n_s32(0), w.q[0], first), w.q[1], second);
        sums.products = vfmaq_n_f32(sums.products, vcvtq_f32_s32(products), w.d * d);
        if MIN {
            let sum = f32::from(*a.sums.get_unchecked(b));
            sums.mins = (w.m * d).mul_add(sum, sums.mins);
        }
    }
}

/// Adds the product of block `b` to the sums of one activation row; `WIDE`: groups `2 i` and `2 i + 1` have the same scale; `MIN`: there are minima.
///
/// # Safety
/// The row has a block `b` of 256; the machine has what `DOT` says.
#[inline(always)]
pub(super) unsafe fn step_large<const DOT: bool, const WIDE: bool, const MIN: bool>(w: &Large, a: &QRow<'_>, b: usize, sums: &mut Sums) {
    debug_assert!(b < a.d.len() && a.sums.len() >= 16 * (b + 1));
    // SAFETY: NEON is there; the caller has checked `b`: 256 activations and sixteen sums a block.
    unsafe {
        let d = *a.d.get_unchecked(b);
        let zero = vdupq_n_s32(0);
        let mut products = zero;
        for (i, &scale) in w.scale.iter().enumerate() {
            let q = &w.q[4 * i..4 * i + 4];
            let at = 256 * b + 64 * i;
            let a = [activations(a, at), activations(a, at + 16), activations(a, at + 32), activations(a, at + 48)];
            let (first, third) = (quads::<DOT>(zero, q[0], a[0]), quads::<DOT>(zero, q[2], a[2]));
            if WIDE {
                products = vmlaq_laneq_s32::<0>(products, quads::<DOT>(first, q[1], a[1]), scale);
                products = vmlaq_laneq_s32::<2>(products, quads::<DOT>(third, q[3], a[3]), scale);
            } else {
                products = vmlaq_laneq_s32::<0>(products, first, scale);
                products = vmlaq_laneq_s32::<1>(products, quads::<DOT>(zero, q[1], a[1]), scale);
                products = vmlaq_laneq_s32::<2>(products, third, scale);
                products = vmlaq_laneq_s32::<3>(products, quads::<DOT>(zero, q[3], a[3]), scale);
            }
        }
        sums.products = vfmaq_n_f32(sums.products, vcvtq_f32_s32(products), w.d * d);
        if MIN {
            let (low, high) = (vld1q_s16(a.sums.as_ptr().add(16 * b)), vld1q_s16(a.sums.as_ptr().add(16 * b + 8)));
            let first = vmlal_high_s16(vmull_s16(vget_low_s16(w.min[0]), vget_low_s16(low)), w.min[0], low);
            let mins = vmlal_high_s16(vmlal_s16(first, vget_low_s16(w.min[1]), vget_low_s16(high)), w.min[1], high);
            sums.products = vfmsq_n_f32(sums.products, vcvtq_f32_s32(mins), w.dmin * d);
        }
    }
}

/// Sixteen signed bytes as f32.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn floats(q: int8x16_t) -> [float32x4_t; 4] {
    let (low, high) = (vmovl_s8(vget_low_s8(q)), vmovl_high_s8(q));
    [
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
        vcvtq_f32_s32(vmovl_high_s16(low)),
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
        vcvtq_f32_s32(vmovl_high_s16(high)),
    ]
}

/// The values of a block, with the decoder's roundings.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn decode_small<const MIN: bool>(w: &Small, out: &mut [f32; 32]) {
    for (&q, out) in w.q.iter().zip(out.as_chunks_mut::<16>().0) {
        for (q, out) in floats(q).into_iter().zip(out.as_chunks_mut::<4>().0) {
            let v = vmulq_n_f32(q, w.d);
            // SAFETY: four values.
            unsafe { vst1q_f32(out.as_mut_ptr(), if MIN { vaddq_f32(v, vdupq_n_f32(w.m)) } else { v }) }
        }
    }
}

/// The values of a block, with the decoder's roundings.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn decode_large<const MIN: bool>(w: &Large, out: &mut [f32; 256]) {
    let (mut scales, mut mins) = ([0i32; 16], [0i16; 16]);
    for (i, &scale) in w.scale.iter().enumerate() {
        // SAFETY: four times four values.
        unsafe { vst1q_s32(scales.as_mut_ptr().add(4 * i), scale) }
    }
    // SAFETY: twice eight values.
    unsafe {
        vst1q_s16(mins.as_mut_ptr(), w.min[0]);
        vst1q_s16(mins.as_mut_ptr().add(8), w.min[1]);
    }
    for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let (scale, min) = (w.d * scales[g] as f32, vdupq_n_f32(w.dmin * f32::from(mins[g])));
        for (q, out) in floats(w.q[g]).into_iter().zip(out.as_chunks_mut::<4>().0) {
            let v = vmulq_n_f32(q, scale);
            // SAFETY: four values.
            unsafe { vst1q_f32(out.as_mut_ptr(), if MIN { vsubq_f32(v, min) } else { v }) }
        }
    }
}

/// `dot` and `decode` of a type from the `unpack` beside the call: `$bytes` in a block of `$len`, `$step` and `$decode` of this file with
/// what they ask for. Functions with target features cannot be passed as closures and stay inlined, hence a macro.
macro_rules! kernels {
    ($bytes:literal, $len:literal, $step:ident $(, $wide:literal)?; $decode:ident, $min:literal) => {
        pub const INTEGER: $crate::kernels::ops::Integer = $crate::kernels::ops::Integer::Rows($crate::kernels::ops::Dots {
            one: dot::<true, 1>,
            two: dot::<true, 2>,
            four: dot::<true, 4>,
            eight: dot::<true, 8>,
        });

        /// Without the dot product instruction.
        pub const BASE: $crate::kernels::ops::Integer = $crate::kernels::ops::Integer::Rows($crate::kernels::ops::Dots {
            one: dot::<false, 1>,
            two: dot::<false, 2>,
            four: dot::<false, 4>,
            eight: dot::<false, 8>,
        });

        /// # Safety
        /// The machine has NEON and what `DOT` says; each activation row has as many values as the weight row.
        #[target_feature(enable = "neon")]
        pub unsafe fn dot<const DOT: bool, const N: usize>(row: &[u8], acts: &[$crate::kernels::blocks::QRow<'_>; N], out: &mut [f32; N]) {
            let mut sums = [$crate::kernels::quants::neon::Sums::zero(); N];
            for (b, block) in row.as_chunks::<$bytes>().0.iter().enumerate() {
                let w = unpack(block);
                for j in 0..N {
                    // SAFETY: activations have the row's blocks.
                    unsafe { $crate::kernels::quants::neon::$step::<DOT, $($wide,)? $min>(&w, &acts[j], b, &mut sums[j]) };
                }
            }
            for j in 0..N {
                out[j] = sums[j].total();
            }
        }

        /// # Safety
        /// The machine has NEON.
        #[target_feature(enable = "neon")]
        pub unsafe fn decode(row: &[u8], out: &mut [f32]) {
            for (block, out) in row.as_chunks::<$bytes>().0.iter().zip(out.as_chunks_mut::<$len>().0) {
                $crate::kernels::quants::neon::$decode::<$min>(&unpack(block), out);
            }
        }
    };
}

/// Kernels of a type with blocks of 32; the second argument: it has a minimum.
macro_rules! small {
    ($bytes:literal, $min:literal) => {
        $crate::kernels::quants::neon::kernels!($bytes, 32, step_small; decode_small, $min);
    };
}

/// Kernels of a type with blocks of 256; the second argument: a scale is for 32 values; the third: it has minima.
macro_rules! large {
    ($bytes:literal, $wide:literal, $min:literal) => {
        $crate::kernels::quants::neon::kernels!($bytes, 256, step_large, $wide; decode_large, $min);
    };
}

/// The `neon` module of a type whose blocks the format's decoder takes apart: `groups` beside the call.
macro_rules! points {
    ($bytes:literal, $wide:literal) => {
        #[cfg(target_arch = "aarch64")]
        pub mod neon {
            use crate::kernels::quants::neon::{self as arm, Large};

            arm::large!($bytes, $wide, false);

            #[inline(always)]
            fn unpack(block: &[u8; $bytes]) -> Large {
                arm::from_groups(&super::groups(block))
            }
        }
    };
}
pub(super) use {kernels, large, points, small};
