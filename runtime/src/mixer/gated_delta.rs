//! Gated delta net: a causal convolution, then a recurrence token by token (Yang et al. 2024).
//!
//! Decode and prefill run the same code: the recurrence of one value head is done by one thread over all rows of the step in order, so the
//! cut into steps changes no bit.

use super::conv::Conv;
use crate::kernels::delta::{self, Token};
use crate::kernels::{Job, Kernels, vector};
use crate::norm::RmsNorm;
use crate::scratch::{Scratch, Step, carve};
use crate::state::DeltaState;
use crate::store::Store;
use crate::trunk::TensorHandle;
use forebay_format::model::ValueHeadOrder;

/// Sizes of a gated delta layer; see [`forebay_format::model::GatedDelta`].
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Heads of queries and keys.
    pub key_heads: usize,
    /// Heads of values.
    pub value_heads: usize,
    /// Width of a query or key head.
    pub key_dim: usize,
    /// Width of a value head.
    pub value_dim: usize,
}

impl Shape {
    /// All queries, or all keys.
    fn keys(&self) -> usize {
        self.key_heads * self.key_dim
    }

    /// All values.
    fn values(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Queries, keys and values.
    pub fn channels(&self) -> usize {
        2 * self.keys() + self.values()
    }

    /// Channels of a row that one thread takes through the convolution: whole key heads, enough to be worth a claim.
    fn piece(&self) -> usize {
        let all = self.channels();
        (1..=8).rev().map(|heads| heads * self.key_dim).find(|&p| all.is_multiple_of(p)).unwrap_or(all)
    }

    /// Lengths of qkv, z, b, a, convolved qkv, heads' outputs (head-major) and gated outputs (row-major) of `rows` rows: the arena of this layer.
    pub fn parts(&self, rows: usize) -> [usize; 7] {
        let (channels, values, heads) = (rows * self.channels(), rows * self.values(), rows * self.value_heads);
        [channels, values, heads, heads, channels, values, values]
    }
}

/// A gated delta layer ready to run.
#[derive(Debug)]
pub struct GatedDeltaLayer {
    /// Sizes.
    pub shape: Shape,
    /// Which key head a value head uses.
    pub order: ValueHeadOrder,
    /// Added to the sum of squares of q and k.
    pub l2_eps: f32,
    /// Qkv, Z, B, A, Out.
    pub matrices: [TensorHandle; 5],
    /// The convolution.
    pub conv: Conv,
    /// Factor of the softplus, one a value head; below zero.
    pub decay: Vec<f32>,
    /// Added before the softplus, one a value head.
    pub dt_bias: Vec<f32>,
    /// Norm of a value head's output.
    pub norm: RmsNorm,
}

impl GatedDeltaLayer {
    /// `scratch.normed` to `scratch.out`; `state` moves on by the step's rows.
    pub fn forward(&self, step: &Step, store: &Store, state: &mut DeltaState, scratch: &mut Scratch) {
        let (n, pool, shape) = (step.rows, step.pool, self.shape);
        let [wqkv, wz, wb, wa, wo] = self.matrices.map(|m| store.tensor(m));
        let [qkv, z, b, a, mixed, heads, gated] = carve(&mut scratch.arena, shape.parts(n));
        let types = [wqkv.qtype, wz.qtype, wb.qtype, wa.qtype];
        scratch.input.load(pool, step.kernels, &scratch.normed[..n * wqkv.cols], n, wqkv.cols, &types);
        let job = |weights, out| Job { weights, activations: &scratch.input, picked: None, out };
        step.kernels.matmul_jobs(pool, &mut [job(wqkv, &mut *qkv), job(wz, &mut *z), job(wb, &mut *b), job(wa, &mut *a)]);
        let root = (shape.key_dim as f32).sqrt().recip();
        self.conv.run(step, &mut state.conv, qkv, mixed, shape.piece(), &|from, piece| {
            let first = from / shape.key_dim;
            let keys = (2 * shape.key_heads).saturating_sub(first);
            for (i, head) in piece.chunks_exact_mut(shape.key_dim).take(keys).enumerate() {
                vector::l2_norm(step.kernels, head, self.l2_eps);
                if first + i < shape.key_heads {
                    vector::scale(root, head);
                }
            }
        });
        let head_state = shape.key_dim * shape.value_dim;
        pool.split2((&mut state.heads, head_state), (&mut *heads, n * shape.value_dim), &|head, state, out, _| {
            self.recur(step.kernels, head, state, mixed, (b, a), out);
        });
        let heads = &*heads;
        step.each_row(gated, shape.value_dim, &|item, out| {
            let (row, head) = (item / shape.value_heads, item % shape.value_heads);
            out.copy_from_slice(&heads[(head * n + row) * shape.value_dim..][..shape.value_dim]);
            self.norm.apply(step.kernels, out);
            vector::mul_silu(out, &z[item * shape.value_dim..][..shape.value_dim]);
        });
        scratch.inner.load(pool, step.kernels, gated, n, wo.cols, &[wo.qtype]);
        step.kernels.matmul(pool, &wo, &scratch.inner, &mut scratch.out[..n * wo.rows]);
    }

    /// All rows of one value head, in order; `out` is `[rows][value_dim]`.
    fn recur(&self, kernels: &Kernels, head: usize, state: &mut [f32], mixed: &[f32], (b, a): (&[f32], &[f32]), out: &mut [f32]) {
        let shape = self.shape;
        let key_head = match self.order {
            ValueHeadOrder::Grouped => head / (shape.value_heads / shape.key_heads),
            ValueHeadOrder::Tiled => head % shape.key_heads,
        };
        let token = |number: usize| {
            let row = &mixed[number * shape.channels()..][..shape.channels()];
            let at = number * shape.value_heads + head;
            let q = &row[key_head * shape.key_dim..][..shape.key_dim];
            let k = &row[shape.keys() + key_head * shape.key_dim..][..shape.key_dim];
            let v = &row[2 * shape.keys() + head * shape.value_dim..][..shape.value_dim];
            let beta = vector::sigmoid(b[at]);
            let decay = (self.decay[head] * vector::softplus(a[at] + self.dt_bias[head])).exp();
            Token { q, k, v, beta, decay }
        };
        for (out, first) in out.chunks_mut(delta::MANY * shape.value_dim).zip((0..).step_by(delta::MANY)) {
            let rows = out.len() / shape.value_dim;
            let mut tokens = [token(first); delta::MANY];
            tokens[..rows].iter_mut().zip(first..).skip(1).for_each(|(t, number)| *t = token(number));
            delta::steps(kernels, state, &tokens[..rows], out);
        }
    }
}
