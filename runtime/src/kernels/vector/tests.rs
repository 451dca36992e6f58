use super::*;
use crate::kernels::{ActivationMode, KernelSet};

fn sets() -> Vec<Kernels> {
    [KernelSet::Scalar, KernelSet::Avx2, KernelSet::Avx512, KernelSet::Neon]
        .into_iter()
        .filter_map(|s| Kernels::with_set(s, ActivationMode::F32))
        .collect()
}

fn values(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32)
        .map(|i| ((i.wrapping_mul(2_654_435_761).wrapping_add(seed.wrapping_mul(40_503)) >> 8) as f32 / (1 << 23) as f32) - 1.0)
        .collect()
}

fn close(a: f32, b: f64, scale: f64) -> bool {
    (f64::from(a) - b).abs() <= 1e-6 * scale.max(1e-3)
}

#[test]
fn dots_of_every_length() {
    for k in sets() {
        for n in (0..70).chain([127, 128, 129, 1000]) {
            let (a, b) = (values(n, 1), values(n, 2));
            let truth: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!(close(dot(&k, &a, &b), truth, n as f64), "{} {n}", k.name());
        }
    }
}

#[test]
fn axpy_of_every_length() {
    for k in sets() {
        for n in 0..40 {
            let (x, y) = (values(n, 3), values(n, 4));
            let mut out = y.clone();
            axpy(&k, 0.7, &x, &mut out);
            for i in 0..n {
                assert!(close(out[i], f64::from(y[i]) + f64::from(0.7f32) * f64::from(x[i]), 1.0));
            }
        }
    }
}

#[test]
fn halves_are_the_same_in_every_set() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let hard: Vec<f32> =
        (0..40_000u32).map(|i| f32::from_bits(0x3300_0000 + i * 0x1357)).chain([65519.9, 65520.0, 1e-8, 0.0, -0.0, 1e9]).collect();
    for k in sets() {
        let mut wide = vec![0.0; all.len()];
        from_f16(&k, &all, &mut wide);
        for (&bits, &v) in all.iter().zip(&wide) {
            let expected = half::f16::from_bits(bits).to_f32();
            assert!(v == expected || v.is_nan() && expected.is_nan());
        }
        let mut narrow = vec![0; hard.len()];
        to_f16(&k, &hard, &mut narrow);
        for (&bits, &v) in narrow.iter().zip(&hard) {
            let expected = half::f16::from_f32(v);
            assert!(bits == expected.to_bits() || expected.is_nan(), "{v}");
        }
    }
}

#[test]
fn norms() {
    for k in sets() {
        let x = values(100, 5);
        let weight = values(100, 6);
        let squares: f64 = x.iter().map(|v| f64::from(*v).powi(2)).sum();
        let mut out = vec![0.0; 100];
        rms_norm(&k, &x, &weight, 1e-5, &mut out);
        let mut again = x.clone();
        rms_norm_in_place(&k, &mut again, &weight, 1e-5);
        assert_eq!(out, again);
        for i in 0..100 {
            assert!(close(out[i], f64::from(x[i]) / (squares / 100.0 + 1e-5).sqrt() * f64::from(weight[i]), 2.0));
        }
        let mut unit = x.clone();
        l2_norm(&k, &mut unit, 1e-6);
        assert!(close(dot(&k, &unit, &unit), squares / (squares + 1e-6), 1.0));
        let bias = values(100, 7);
        layer_norm(&k, &x, &weight, &bias, 1e-5, &mut out);
        let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / 100.0;
        let variance = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / 100.0;
        for i in 0..100 {
            let expected = (f64::from(x[i]) - mean) / (variance + 1e-5).sqrt() * f64::from(weight[i]) + f64::from(bias[i]);
            assert!(close(out[i], expected, 3.0));
        }
    }
}

#[test]
fn softmax_and_its_parts() {
    for n in [1, 2, 31, 32, 33, 500] {
        let mut x: Vec<f32> = values(n, 8).iter().map(|v| v * 20.0).collect();
        assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let truth: Vec<f64> = x.iter().map(|v| f64::from(*v).exp()).collect();
        let total: f64 = truth.iter().sum();
        softmax_in_place(&mut x);
        assert!(x.iter().zip(&truth).all(|(a, b)| close(*a, b / total, 2.0)));
        assert!(close(sum(&x), 1.0, 1.0));
    }
    assert_eq!(max(&[]), f32::NEG_INFINITY);
    let mut one_left = [f32::NEG_INFINITY, 3.0, f32::NEG_INFINITY];
    softmax_in_place(&mut one_left);
    assert_eq!(one_left, [0.0, 1.0, 0.0]);
}

#[test]
fn activations() {
    for i in -400..400 {
        let x = i as f32 * 0.25;
        let wide = f64::from(x);
        assert!(close(sigmoid(x), 1.0 / (1.0 + (-wide).exp()), 1.0));
        let (mut plain, mut product) = ([x], [3.0]);
        silu(&mut plain);
        mul_silu(&mut product, &[x]);
        let truth = wide / (1.0 + (-wide).exp());
        assert!(close(plain[0], truth, wide.abs() + 1.0) && close(product[0], 3.0 * truth, 3.0 * wide.abs() + 3.0));
        assert!(close(softplus(x), wide.exp().ln_1p(), wide.abs() + 1.0), "{x}");
    }
    let (mut silu_out, mut relu_out, mut sigmoid_out) = ([2.0, -1.0], [2.0, -1.0], [2.0, -1.0]);
    silu_mul(&mut silu_out, &[0.5, 2.0]);
    relu_mul(&mut relu_out, &[0.5, 2.0]);
    sigmoid_mul(&mut sigmoid_out, &[0.0, 0.0]);
    let mut plain = [2.0, -1.0];
    silu(&mut plain);
    assert_eq!((silu_out, relu_out, sigmoid_out), ([plain[0] * 0.5, plain[1] * 2.0], [1.0, 0.0], [1.0, -0.5]));
    let mut y = [1.0, 2.0];
    mul_add(&[2.0, 3.0], &[0.5, -1.0], &mut y);
    assert_eq!(y, [2.0, -1.0]);
}
