//! Channel mixing: one file per mechanism.

pub mod coarse;
pub mod dense;
pub mod neurons;
pub mod picks;
pub mod routed;
pub mod router;

use crate::kernels::vector;
use crate::scratch::Step;
use forebay_format::model::Activation;

/// `gate = activation(gate) * up`, `[rows, inner]` each.
pub fn activate(step: &Step, activation: Activation, inner: usize, gate: &mut [f32], up: &[f32]) {
    step.each_row(gate, inner, &|i, gate| {
        let up = &up[i * inner..(i + 1) * inner];
        match activation {
            Activation::Silu => vector::silu_mul(gate, up),
            Activation::Relu => vector::relu_mul(gate, up),
            _ => gate.iter_mut().zip(up).for_each(|(g, u)| *g = value(activation, *g) * u),
        }
    });
}

/// `x = activation(x)`, `[rows, inner]`: a network without a gate.
pub fn activate_alone(step: &Step, activation: Activation, inner: usize, x: &mut [f32]) {
    step.each_row(x, inner, &|_, x| match activation {
        Activation::Silu => vector::silu(x),
        _ => x.iter_mut().for_each(|v| *v = value(activation, *v)),
    });
}

/// Sets to zero what of the products `x` (`[rows, width]`, of networks with `inner` neurons; those that are not among them are zero) is small: below `step.cut` times the root mean square
/// of its row.
pub fn cut(step: &Step, inner: usize, width: usize, x: &mut [f32]) {
    if step.cut > 0.0 && width > 0 {
        step.each_row(x, width, &|_, row| {
            let squares: f64 = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
            let least = step.cut * (squares / inner.max(1) as f64).sqrt() as f32;
            row.iter_mut().filter(|v| v.abs() < least).for_each(|v| *v = 0.0);
        });
    }
}

/// The activation of one value, by its definition.
fn value(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Silu => x * vector::sigmoid(x),
        Activation::Relu => x.max(0.0),
        Activation::GeluTanh => gelu_tanh(x),
        Activation::FatRelu { threshold } => {
            if x > threshold {
                x
            } else {
                0.0
            }
        }
        Activation::SquaredRelu => x.max(0.0) * x.max(0.0),
    }
}

/// Tanh approximation of GELU (Hendrycks and Gimpel 2016).
fn gelu_tanh(x: f32) -> f32 {
    let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    0.5 * x * (1.0 + inner.tanh())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{ActivationMode, Kernels, Pool};
    use std::sync::atomic::AtomicBool;

    #[test]
    fn small_products_are_cut_by_the_scale_of_their_row() {
        let (pool, kernels) = (Pool::new(1), Kernels::detect(ActivationMode::F32));
        let mut step = Step { pool: &pool, kernels: &kernels, rows: 2, position: 0, cut: 0.5, cancel: &AtomicBool::new(false) };
        // Root mean squares over four neurons: 1 and 100.
        let rows = [0.4, -0.6, 1.857_417_6, 0.0, 40.0, -60.0, 185.741_76, 0.0];
        let mut x = rows;
        cut(&step, 4, 4, &mut x);
        assert_eq!(x, [0.0, -0.6, 1.857_417_6, 0.0, 0.0, -60.0, 185.741_76, 0.0]);
        step.cut = 0.0;
        let mut x = rows;
        cut(&step, 4, 4, &mut x);
        assert_eq!(x, rows);
    }

    #[test]
    fn activations_by_their_definitions() {
        let x = [-2.0f32, -0.5, 0.0, 0.5, 2.0];
        let run = |activation| {
            let mut gate = x.to_vec();
            let (pool, kernels) = (Pool::new(1), Kernels::detect(ActivationMode::F32));
            let step = Step { pool: &pool, kernels: &kernels, rows: 5, position: 0, cut: 0.0, cancel: &AtomicBool::new(false) };
            activate(&step, activation, 1, &mut gate, &[3.0; 5]);
            gate
        };
        assert_eq!(run(Activation::Relu), [0.0, 0.0, 0.0, 1.5, 6.0]);
        assert_eq!(run(Activation::FatRelu { threshold: 0.5 }), [0.0, 0.0, 0.0, 0.0, 6.0]);
        assert_eq!(run(Activation::SquaredRelu), [0.0, 0.0, 0.0, 0.75, 12.0]);
        for activation in [Activation::Relu, Activation::Silu, Activation::GeluTanh, Activation::SquaredRelu] {
            let mut alone = x.to_vec();
            let (pool, kernels) = (Pool::new(1), Kernels::detect(ActivationMode::F32));
            let step = Step { pool: &pool, kernels: &kernels, rows: 5, position: 0, cut: 0.0, cancel: &AtomicBool::new(false) };
            activate_alone(&step, activation, 1, &mut alone);
            assert!(alone.iter().zip(run(activation)).all(|(a, b)| (3.0 * a - b).abs() < 1e-6), "{activation:?}");
        }
        for (y, x) in run(Activation::Silu).iter().zip(x) {
            assert!((y - 3.0 * x / (1.0 + (-x).exp())).abs() < 1e-5);
        }
        // torch.nn.functional.gelu(x, approximate="tanh")
        for (y, want) in run(Activation::GeluTanh).iter().zip([-0.045_402, -0.154_286, 0.0, 0.345_714, 1.954_598]) {
            assert!((y - 3.0 * want).abs() < 1e-5, "{y} {want}");
        }
    }
}
