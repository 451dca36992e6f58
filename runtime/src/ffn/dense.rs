//! One gated feed-forward network in the trunk: a dense layer's, or the shared expert of a routed one.

use super::activate;
use crate::kernels::{Activations, Job};
use crate::scratch::{Step, carve};
use crate::store::Store;
use crate::trunk::TensorHandle;
use forebay_format::QuantType;
use forebay_format::model::Activation;

/// `down(activation(gate x) * (up x))`.
#[derive(Debug)]
pub struct DenseFfn {
    /// Neurons.
    pub inner: usize,
    /// Applied to the gate.
    pub activation: Activation,
    /// Gate, Up, Down.
    pub matrices: [TensorHandle; 3],
}

impl DenseFfn {
    /// Lengths of gate and up of `rows` rows: the arena of this network.
    pub fn parts(inner: usize, rows: usize) -> [usize; 2] {
        [rows * inner; 2]
    }

    /// Types of the matrices that read the input: what `input` must be loaded for.
    pub fn input_types(&self, store: &Store) -> [QuantType; 2] {
        let [gate, up, _] = self.matrices;
        [store.tensor(gate).qtype, store.tensor(up).qtype]
    }

    /// `input`, loaded with the step's rows, to `out` (`[rows, hidden]`).
    pub fn forward(&self, step: &Step, store: &Store, input: &Activations, inner: &mut Activations, arena: &mut [f32], out: &mut [f32]) {
        let (n, pool) = (step.rows, step.pool);
        let [wg, wu, wd] = self.matrices.map(|m| store.tensor(m));
        let [gate, up] = carve(arena, Self::parts(self.inner, n));
        let job = |weights, out| Job { weights, activations: input, picked: None, out };
        step.kernels.matmul_jobs(pool, &mut [job(wg, &mut *gate), job(wu, &mut *up)]);
        activate(step, self.activation, self.inner, gate, up);
        inner.load(pool, step.kernels, gate, n, wd.cols, &[wd.qtype]);
        step.kernels.matmul(pool, &wd, inner, out);
    }
}
