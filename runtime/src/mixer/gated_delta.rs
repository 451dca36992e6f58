//! Gated delta net: a causal convolution, then a recurrence token by token (Yang et al. 2024).
//!
//! Decode and prefill run the same code: the recurrence of one value head is done by one thread over all rows of the step in order, so the
//! cut into steps changes no bit.

use super::conv::Conv;
use crate::kernels::{Job, vector};
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
        self.conv.run(step, &mut state.conv, qkv, mixed, &|row| {
            for (i, head) in row[..2 * shape.keys()].chunks_exact_mut(shape.key_dim).enumerate() {
                vector::l2_norm(step.kernels, head, self.l2_eps);
                if i < shape.key_heads {
                    vector::scale(root, head);
                }
            }
        });
        let head_state = shape.key_dim * shape.value_dim;
        pool.split2((&mut state.heads, head_state), (&mut *heads, n * shape.value_dim), &|head, state, out, _| {
            self.recur(head, state, mixed, b, a, out);
        });
        let heads = &*heads;
        step.each_row(gated, shape.value_dim, &|item, out| {
            let (row, head) = (item / shape.value_heads, item % shape.value_heads);
            out.copy_from_slice(&heads[(head * n + row) * shape.value_dim..][..shape.value_dim]);
            self.norm.apply(step.kernels, out);
            let z = &z[item * shape.value_dim..][..shape.value_dim];
            out.iter_mut().zip(z).for_each(|(o, &z)| *o *= vector::silu(z));
        });
        scratch.inner.load(pool, step.kernels, gated, n, wo.cols, &[wo.qtype]);
        step.kernels.matmul(pool, &wo, &scratch.inner, &mut scratch.out[..n * wo.rows]);
    }

    /// All rows of one value head, in order: `state` `[key_dim][value_dim]`, `out` `[rows][value_dim]`.
    fn recur(&self, head: usize, state: &mut [f32], mixed: &[f32], b: &[f32], a: &[f32], out: &mut [f32]) {
        let shape = self.shape;
        let key_head = match self.order {
            ValueHeadOrder::Grouped => head / (shape.value_heads / shape.key_heads),
            ValueHeadOrder::Tiled => head % shape.key_heads,
        };
        for ((row, out), scalars) in mixed.chunks_exact(shape.channels()).zip(out.chunks_exact_mut(shape.value_dim)).zip(0..) {
            let at = scalars * shape.value_heads + head;
            let q = &row[key_head * shape.key_dim..][..shape.key_dim];
            let k = &row[shape.keys() + key_head * shape.key_dim..][..shape.key_dim];
            let v = &row[2 * shape.keys() + head * shape.value_dim..][..shape.value_dim];
            let beta = vector::sigmoid(b[at]);
            let decay = (self.decay[head] * vector::softplus(a[at] + self.dt_bias[head])).exp();
            delta_step(state, q, k, v, beta, decay, out);
        }
    }
}

/// Value columns done together, so that their sums stay in registers and on the stack.
const COLUMNS: usize = 32;

/// `S *= decay; S += k (beta (v - S^T k))^T; out = S^T q`, in two passes over S. Every sum runs over the key axis in order.
fn delta_step(state: &mut [f32], q: &[f32], k: &[f32], v: &[f32], beta: f32, decay: f32, out: &mut [f32]) {
    let width = v.len();
    for ((v, out), from) in v.chunks(COLUMNS).zip(out.chunks_mut(COLUMNS)).zip((0..).step_by(COLUMNS)) {
        let columns = from..from + v.len();
        let mut change = [0.0f32; COLUMNS];
        let change = &mut change[..v.len()];
        for (row, &k) in state.chunks_exact_mut(width).zip(k) {
            for (s, held) in row[columns.clone()].iter_mut().zip(change.iter_mut()) {
                *s *= decay;
                *held += k * *s;
            }
        }
        change.iter_mut().zip(v).for_each(|(c, &v)| *c = beta * (v - *c));
        out.fill(0.0);
        for ((row, &k), &q) in state.chunks_exact_mut(width).zip(k).zip(q) {
            for ((s, &c), o) in row[columns.clone()].iter_mut().zip(change.iter()).zip(out.iter_mut()) {
                *s += k * c;
                *o += q * *s;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two steps by hand: one key dimension pair, one value dimension.
    #[test]
    fn the_delta_rule_replaces_what_a_key_holds() {
        let mut state = vec![0.0; 2];
        let mut out = [0.0];
        delta_step(&mut state, &[1.0, 0.0], &[1.0, 0.0], &[3.0], 1.0, 0.5, &mut out);
        assert_eq!((state[0], state[1], out[0]), (3.0, 0.0, 3.0));
        // S decays to 1.5; with beta 1 the key's value becomes 7 whatever it was.
        delta_step(&mut state, &[1.0, 2.0], &[1.0, 0.0], &[7.0], 1.0, 0.5, &mut out);
        assert_eq!((state[0], state[1], out[0]), (7.0, 0.0, 7.0));
        // Another key leaves it alone but for the decay; beta halves what is written.
        delta_step(&mut state, &[1.0, 1.0], &[0.0, 1.0], &[4.0], 0.5, 0.5, &mut out);
        assert_eq!((state[0], state[1], out[0]), (3.5, 2.0, 5.5));
    }
}
