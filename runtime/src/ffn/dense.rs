//! One feed-forward network in the trunk: a dense layer's, or the shared expert of a routed one.

use super::{activate, activate_alone, cut};
use crate::kernels::{Activations, Job};
use crate::scratch::{Step, add_bias, carve};
use crate::store::Store;
use crate::trunk::TensorHandle;
use forebay_format::QuantType;
use forebay_format::model::Activation;

/// `down(activation(gate x) * (up x))`, or without a gate `down(activation(up x))`.
#[derive(Debug)]
pub struct DenseFfn {
    /// Neurons.
    pub inner: usize,
    /// Applied to the gate, or to up where there is none.
    pub activation: Activation,
    /// `[inner, hidden]`.
    pub gate: Option<TensorHandle>,
    /// `[inner, hidden]`.
    pub up: TensorHandle,
    /// `[hidden, inner]`.
    pub down: TensorHandle,
    /// Added to the matrices' outputs.
    pub biases: Option<Biases>,
}

/// Biases of a network.
#[derive(Debug)]
pub struct Biases {
    /// `[inner]`; empty without a gate.
    pub gate: Vec<f32>,
    /// `[inner]`.
    pub up: Vec<f32>,
    /// `[hidden]`.
    pub down: Vec<f32>,
}

impl DenseFfn {
    /// Lengths of gate and up of `rows` rows: the arena of this network.
    pub fn parts(inner: usize, rows: usize) -> [usize; 2] {
        [rows * inner; 2]
    }

    /// Types of the matrices that read the input: what `input` must be loaded for.
    pub fn input_types(&self, store: &Store) -> [QuantType; 2] {
        [store.tensor(self.gate.unwrap_or(self.up)).qtype, store.tensor(self.up).qtype]
    }

    /// `input`, loaded with the step's rows, to `out` (`[rows, hidden]`).
    pub fn forward(&self, step: &Step, store: &Store, input: &Activations, inner: &mut Activations, arena: &mut [f32], out: &mut [f32]) {
        let (n, pool) = (step.rows, step.pool);
        let [gate, up] = carve(arena, Self::parts(self.inner, n));
        let (wu, wd) = (store.tensor(self.up), store.tensor(self.down));
        let job = |weights, out| Job { weights, activations: input, picked: None, out };
        let product = match self.gate {
            Some(handle) => {
                step.kernels.matmul_jobs(pool, &mut [job(store.tensor(handle), &mut *gate), job(wu, &mut *up)]);
                if let Some(biases) = &self.biases {
                    add_bias(gate, &biases.gate);
                    add_bias(up, &biases.up);
                }
                activate(step, self.activation, self.inner, gate, up);
                gate
            }
            None => {
                step.kernels.matmul(pool, &wu, input, up);
                if let Some(biases) = &self.biases {
                    add_bias(up, &biases.up);
                }
                activate_alone(step, self.activation, self.inner, up);
                up
            }
        };
        cut(step, self.inner, self.inner, product);
        inner.load(pool, step.kernels, product, n, wd.cols, &[wd.qtype]);
        step.kernels.matmul(pool, &wd, inner, out);
        if let Some(biases) = &self.biases {
            add_bias(out, &biases.down);
        }
    }
}
