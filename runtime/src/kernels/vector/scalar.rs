//! Element-wise functions in plain Rust. Slices have equal lengths.

use half::f16;

pub fn axpy(a: f32, x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}

pub fn to_f16(from: &[f32], to: &mut [u16]) {
    to.iter_mut().zip(from).for_each(|(to, &v)| *to = f16::from_f32(v).to_bits());
}

pub fn from_f16(from: &[u16], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, &v)| *to = f16::from_bits(v).to_f32());
}

pub fn mul_add(w: &[f32], x: &[f32], y: &mut [f32]) {
    y.iter_mut().zip(w).zip(x).for_each(|((y, w), x)| *y += w * x);
}
