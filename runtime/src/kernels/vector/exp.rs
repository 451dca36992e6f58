//! Functions built on the exponential, for whole slices. They are plain Rust, compiled once per instruction set for its vector width; products
//! are rounded before they are added everywhere, so every set gives the same bits.

/// Largest argument with a finite result here; `e^x` itself overflows at 88.72.
const HIGH: f32 = 88.37;
/// Below this the result would be subnormal: it is zero.
const LOW: f32 = -87.33;
/// Adding it moves the whole part of a number into the lowest bits: 1.5 * 2^23.
const SHIFT: f32 = 12_582_912.0;

/// `e^x` to about 1e-7: `2^n * e^r` with whole `n` and `|r| <= ln(2) / 2`, the polynomial of Cephes' `expf` (Moshier 1989). Zero below -87.33, infinite above
/// 88.37; NaN stays NaN.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let shifted = x * std::f32::consts::LOG2_E + SHIFT;
    let n = shifted - SHIFT;
    // ln(2) in two parts, the first with few enough bits that its product with `n` is exact.
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(SHIFT.to_bits()).wrapping_add(127) << 23);
    let y = (p * (r * r) + r + 1.0) * power;
    let y = if x < LOW { 0.0 } else { y };
    if x > HIGH { f32::INFINITY } else { y }
}

/// `x = x / (1 + e^-x)`.
#[inline(always)]
fn silu(x: &mut [f32]) {
    x.iter_mut().for_each(|v| *v /= 1.0 + exp(-*v));
}

/// `gate = silu(gate) * up`, lengths equal.
#[inline(always)]
fn silu_mul(gate: &mut [f32], up: &[f32]) {
    gate.iter_mut().zip(up).for_each(|(g, u)| *g = *g / (1.0 + exp(-*g)) * u);
}

/// `x *= silu(gate)`, lengths equal.
#[inline(always)]
fn mul_silu(x: &mut [f32], gate: &[f32]) {
    x.iter_mut().zip(gate).for_each(|(x, g)| *x *= *g / (1.0 + exp(-*g)));
}

/// `x *= 1 / (1 + e^-gate)`, lengths equal.
#[inline(always)]
fn sigmoid_mul(x: &mut [f32], gate: &[f32]) {
    x.iter_mut().zip(gate).for_each(|(x, g)| *x *= 1.0 / (1.0 + exp(-*g)));
}

/// `x = e^(x - shift)`.
#[inline(always)]
fn exp_minus(x: &mut [f32], shift: f32) {
    x.iter_mut().for_each(|v| *v = exp(*v - shift));
}

/// The functions of this file in one instruction set.
///
/// # Safety
/// Of all: the machine has it; lengths are equal.
pub(in crate::kernels) struct Exp {
    pub silu: unsafe fn(&mut [f32]),
    pub silu_mul: unsafe fn(&mut [f32], &[f32]),
    pub mul_silu: unsafe fn(&mut [f32], &[f32]),
    pub sigmoid_mul: unsafe fn(&mut [f32], &[f32]),
    pub exp_minus: unsafe fn(&mut [f32], f32),
}

/// [`Exp`] for a set of features.
macro_rules! set {
    ($name:ident $(, $features:literal)?) => {
        pub(in crate::kernels) static $name: Exp = {
            $(#[target_feature(enable = $features)])?
            fn silu(x: &mut [f32]) {
                super::exp::silu(x);
            }
            $(#[target_feature(enable = $features)])?
            fn silu_mul(gate: &mut [f32], up: &[f32]) {
                super::exp::silu_mul(gate, up);
            }
            $(#[target_feature(enable = $features)])?
            fn mul_silu(x: &mut [f32], gate: &[f32]) {
                super::exp::mul_silu(x, gate);
            }
            $(#[target_feature(enable = $features)])?
            fn sigmoid_mul(x: &mut [f32], gate: &[f32]) {
                super::exp::sigmoid_mul(x, gate);
            }
            $(#[target_feature(enable = $features)])?
            fn exp_minus(x: &mut [f32], shift: f32) {
                super::exp::exp_minus(x, shift);
            }
            Exp { silu, silu_mul, mul_silu, sigmoid_mul, exp_minus }
        };
    };
}
set!(SCALAR);
#[cfg(target_arch = "x86_64")]
set!(AVX2, "avx2");
#[cfg(target_arch = "x86_64")]
set!(AVX512, "avx512f,avx512bw,avx512dq,avx512vl");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_the_exponential() {
        let mut worst = 0.0f64;
        for i in -870_000..883_000 {
            let x = i as f32 * 1e-4;
            let truth = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - truth).abs() / truth);
        }
        assert!(worst < 2e-7, "{worst}");
        assert_eq!((exp(0.0), exp(-0.0), exp(-88.0), exp(f32::NEG_INFINITY)), (1.0, 1.0, 0.0, 0.0));
        assert_eq!((exp(89.0), exp(f32::INFINITY)), (f32::INFINITY, f32::INFINITY));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn every_set_gives_the_same_bits() {
        let x: Vec<f32> = (0..9973).map(|i| (i as f32 - 5000.0) * 0.021).chain([f32::NAN, f32::INFINITY, -0.0, 1e-40]).collect();
        let up: Vec<f32> = x.iter().rev().copied().collect();
        let run = |f: &Exp| {
            let mut all = [x.clone(), x.clone(), x.clone(), x.clone(), x.clone()];
            let [a, b, c, d, e] = &mut all;
            // SAFETY: only sets that the machine has come here; lengths are equal.
            unsafe {
                (f.silu)(a);
                (f.silu_mul)(b, &up);
                (f.mul_silu)(c, &up);
                (f.sigmoid_mul)(d, &up);
                (f.exp_minus)(e, 3.0);
            }
            all.map(|v| v.into_iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect::<Vec<_>>())
        };
        let plain = run(&SCALAR);
        for ops in crate::kernels::ops::all() {
            assert_eq!(run(ops.exp), plain, "{}", ops.name);
        }
    }
}
