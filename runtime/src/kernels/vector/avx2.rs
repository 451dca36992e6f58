//! Element-wise functions with AVX2, FMA and F16C. A tail of fewer than eight values takes the same fused operation one by one.
//!
//! Safety of all: the machine has the three features; slices have equal lengths.

use std::arch::x86_64::*;

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    let factor = _mm256_set1_ps(a);
    let (x, x_tail) = x.as_chunks::<8>();
    let (y, y_tail) = y.as_chunks_mut::<8>();
    for (x, y) in x.iter().zip(y) {
        // SAFETY: both arrays have eight values.
        unsafe { _mm256_storeu_ps(y.as_mut_ptr(), _mm256_fmadd_ps(factor, _mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(y.as_ptr()))) }
    }
    y_tail.iter_mut().zip(x_tail).for_each(|(y, x)| *y = a.mul_add(*x, *y));
}

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn to_f16(from: &[f32], to: &mut [u16]) {
    let (from, from_tail) = from.as_chunks::<8>();
    let (to, to_tail) = to.as_chunks_mut::<8>();
    for (from, to) in from.iter().zip(to) {
        // SAFETY: both arrays have eight values.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(from.as_ptr()))) }
    }
    super::scalar::to_f16(from_tail, to_tail);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn from_f16(from: &[u16], to: &mut [f32]) {
    let (from, from_tail) = from.as_chunks::<8>();
    let (to, to_tail) = to.as_chunks_mut::<8>();
    for (from, to) in from.iter().zip(to) {
        // SAFETY: both arrays have eight values.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast()))) }
    }
    super::scalar::from_f16(from_tail, to_tail);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub unsafe fn mul_add(w: &[f32], x: &[f32], y: &mut [f32]) {
    // Wider registers are all that this set adds: the products are rounded as everywhere.
    y.iter_mut().zip(w).zip(x).for_each(|((y, w), x)| *y += w * x);
}
