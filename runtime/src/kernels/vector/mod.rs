//! Arithmetic on f32 vectors. Each function sums in one fixed order per kernel set, whatever the thread: dot products as in
//! `strip` (a tail of fewer than 32 values is padded with zeros), plain sums in the same 32 lanes.
//!
//! Functions that take `&Kernels` differ between kernel sets in rounding; the others are the same everywhere. Slices of different
//! lengths are a mistake of the caller and panic.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
pub(super) mod exp;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;
pub(super) mod scalar;

use super::strip::{LANES, Sums};
use super::{Kernels, ops};

/// Sum of `a[i] * b[i]`.
pub fn dot(k: &Kernels, a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let (body_a, tail_a) = a.split_at(a.len() / LANES * LANES);
    let (body_b, tail_b) = b.split_at(body_a.len());
    let mut sums = Sums::ZERO;
    // SAFETY: the set runs on this machine; lengths are equal and multiples of 32.
    unsafe {
        (k.ops.add)(body_a, body_b, &mut sums);
        if !tail_a.is_empty() {
            (k.ops.add)(&padded(tail_a), &padded(tail_b), &mut sums);
        }
    }
    sums.total()
}

/// `values` (fewer than 32) with zeros behind.
fn padded(values: &[f32]) -> [f32; LANES] {
    let mut block = [0.0; LANES];
    block[..values.len()].copy_from_slice(values);
    block
}

/// `y += a * x`.
pub fn axpy(k: &Kernels, a: f32, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    // SAFETY: the set runs on this machine; lengths are equal.
    unsafe { (k.ops.axpy)(a, x, y) }
}

/// Rounds `from` to half precision (bits), ties to even; the same in every kernel set but for the payload of a NaN.
pub fn to_f16(k: &Kernels, from: &[f32], to: &mut [u16]) {
    assert_eq!(from.len(), to.len());
    // SAFETY: the set runs on this machine; lengths are equal.
    unsafe { (k.ops.to_f16)(from, to) }
}

/// Widens half precision (bits); exact.
pub fn from_f16(k: &Kernels, from: &[u16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    // SAFETY: the set runs on this machine; lengths are equal.
    unsafe { (k.ops.from_f16)(from, to) }
}

/// Sum of all values.
pub fn sum(x: &[f32]) -> f32 {
    let (body, tail) = x.as_chunks::<LANES>();
    let mut sums = Sums::ZERO;
    for chunk in body {
        sums.0.iter_mut().zip(chunk).for_each(|(s, v)| *s += v);
    }
    sums.0.iter_mut().zip(tail).for_each(|(s, v)| *s += v);
    sums.total()
}

/// Largest value; negative infinity for no values. NaN is skipped.
pub fn max(x: &[f32]) -> f32 {
    let (body, tail) = x.as_chunks::<8>();
    let mut lanes = [f32::NEG_INFINITY; 8];
    for chunk in body {
        lanes.iter_mut().zip(chunk).for_each(|(m, &v)| *m = if v > *m { v } else { *m });
    }
    tail.iter().chain(&lanes).fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m })
}

/// `out = x / sqrt(mean(x^2) + eps) * weight` (RMSNorm, arXiv:1910.07467).
pub fn rms_norm(k: &Kernels, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len());
    let scale = rms_scale(k, x, eps);
    out.iter_mut().zip(x).zip(weight).for_each(|((o, v), w)| *o = v * scale * w);
}

/// [`rms_norm`] in place.
pub fn rms_norm_in_place(k: &Kernels, x: &mut [f32], weight: &[f32], eps: f32) {
    assert_eq!(x.len(), weight.len());
    let scale = rms_scale(k, x, eps);
    x.iter_mut().zip(weight).for_each(|(v, w)| *v = *v * scale * w);
}

fn rms_scale(k: &Kernels, x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(k, x, x) / x.len() as f32 + eps).sqrt()
}

/// `x / sqrt(sum(x^2) + eps)`, in place: the L2 norm of the gated delta rule.
pub fn l2_norm(k: &Kernels, x: &mut [f32], eps: f32) {
    let scale = 1.0 / (dot(k, x, x) + eps).sqrt();
    x.iter_mut().for_each(|v| *v *= scale);
}

/// `out = (x - mean) / sqrt(variance + eps) * weight + bias`.
pub fn layer_norm(k: &Kernels, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == bias.len() && x.len() == out.len());
    let mean = sum(x) / x.len() as f32;
    out.iter_mut().zip(x).for_each(|(o, v)| *o = v - mean);
    let scale = 1.0 / (dot(k, out, out) / x.len() as f32 + eps).sqrt();
    out.iter_mut().zip(weight).zip(bias).for_each(|((o, w), b)| *o = *o * scale * w + b);
}

/// `y += x`.
pub fn add(x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
}

/// `y *= x`.
pub fn mul(x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    y.iter_mut().zip(x).for_each(|(y, x)| *y *= x);
}

/// `y *= a`.
pub fn scale(a: f32, y: &mut [f32]) {
    y.iter_mut().for_each(|v| *v *= a);
}

/// `1 / (1 + exp(-x))`.
#[inline]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + exp(x))`; above 20 it is `x` to within f32.
#[inline]
pub fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// `gate = silu(gate) * up`.
pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    // SAFETY: the set runs on this machine; lengths are equal.
    unsafe { (ops::best().exp.silu_mul)(gate, up) }
}

/// `x = silu(x)`, where `silu(x) = x * sigmoid(x)`.
pub fn silu(x: &mut [f32]) {
    // SAFETY: the set runs on this machine.
    unsafe { (ops::best().exp.silu)(x) }
}

/// `x *= silu(gate)`.
pub fn mul_silu(x: &mut [f32], gate: &[f32]) {
    assert_eq!(x.len(), gate.len());
    // SAFETY: the set runs on this machine; lengths are equal.
    unsafe { (ops::best().exp.mul_silu)(x, gate) }
}

/// `y += w * x`, value by value.
pub fn mul_add(w: &[f32], x: &[f32], y: &mut [f32]) {
    assert!(w.len() == y.len() && x.len() == y.len());
    // SAFETY: the set runs on this machine; lengths are equal.
    unsafe { (ops::best().mul_add)(w, x, y) }
}

/// `gate = max(gate, 0) * up`.
pub fn relu_mul(gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    gate.iter_mut().zip(up).for_each(|(g, u)| *g = g.max(0.0) * u);
}

/// `x *= sigmoid(gate)`.
pub fn sigmoid_mul(x: &mut [f32], gate: &[f32]) {
    assert_eq!(x.len(), gate.len());
    // SAFETY: the set runs on this machine; lengths are equal.
    unsafe { (ops::best().exp.sigmoid_mul)(x, gate) }
}

/// `x = exp(x - max) / sum(exp(x - max))`.
pub fn softmax_in_place(x: &mut [f32]) {
    let total = exp_in_place(x, max(x));
    scale(1.0 / total, x);
}

/// `x = exp(x - shift)`; returns the sum. The two halves of a softmax whose scaling is done later.
pub fn exp_in_place(x: &mut [f32], shift: f32) -> f32 {
    // SAFETY: the set runs on this machine.
    unsafe { (ops::best().exp.exp_minus)(x, shift) }
    sum(x)
}

#[cfg(test)]
mod tests;
