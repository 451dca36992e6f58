//! Element-wise functions with NEON. A tail of fewer than four values takes the same fused operation one by one.
//!
//! Safety of all: the machine has NEON; slices have equal lengths.

use std::arch::aarch64::*;

/// Four half-precision numbers.
#[inline]
#[target_feature(enable = "neon")]
fn halves(x: &[u16; 4]) -> float32x4_t {
    // SAFETY: four values.
    vcvt_f32_f16(vreinterpret_f16_u16(unsafe { vld1_u16(x.as_ptr()) }))
}

#[target_feature(enable = "neon")]
pub unsafe fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    let (x, x_tail) = x.as_chunks::<4>();
    let (y, y_tail) = y.as_chunks_mut::<4>();
    for (x, y) in x.iter().zip(y) {
        // SAFETY: both arrays have four values.
        unsafe { vst1q_f32(y.as_mut_ptr(), vfmaq_n_f32(vld1q_f32(y.as_ptr()), vld1q_f32(x.as_ptr()), a)) }
    }
    y_tail.iter_mut().zip(x_tail).for_each(|(y, x)| *y = a.mul_add(*x, *y));
}

#[target_feature(enable = "neon")]
pub unsafe fn to_f16(from: &[f32], to: &mut [u16]) {
    let (from, from_tail) = from.as_chunks::<4>();
    let (to, to_tail) = to.as_chunks_mut::<4>();
    for (from, to) in from.iter().zip(to) {
        // The conversion rounds as the control register says, and Rust keeps that at ties to even.
        // SAFETY: both arrays have four values.
        unsafe { vst1_u16(to.as_mut_ptr(), vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(from.as_ptr())))) }
    }
    super::scalar::to_f16(from_tail, to_tail);
}

#[target_feature(enable = "neon")]
pub unsafe fn from_f16(from: &[u16], to: &mut [f32]) {
    let (from, from_tail) = from.as_chunks::<4>();
    let (to, to_tail) = to.as_chunks_mut::<4>();
    for (from, to) in from.iter().zip(to) {
        // SAFETY: four values.
        unsafe { vst1q_f32(to.as_mut_ptr(), halves(from)) }
    }
    super::scalar::from_f16(from_tail, to_tail);
}
