//! Softmax attention with grouped key/value heads.
//!
//! One (row, head) is one item of work: it walks its keys in position order, in blocks at fixed absolute positions, with a running maximum (Milakov and
//! Gimelshein 2018). So its result depends on the position and on what is cached, never on the number of rows or threads.

use super::rope::RopeTable;
use crate::kernels::{Job, Kernels, vector};
use crate::kv::{Cell, Cells, KvCache};
use crate::norm::RmsNorm;
use crate::scratch::{Scratch, Step, add_bias, carve};
use crate::store::Store;
use crate::trunk::TensorHandle;
use std::ops::Range;

/// Keys in a block: one score each is kept on the stack.
const BLOCK: usize = 64;

/// Norm of queries and keys, weights included.
#[derive(Debug)]
pub enum QkNorms {
    /// None.
    None,
    /// Of each head by itself: queries, keys.
    PerHead(RmsNorm, RmsNorm),
    /// Of all heads together: queries, keys.
    FullWidth(RmsNorm, RmsNorm),
}

/// Sizes of an attention layer; see [`forebay_format::model::Attention`].
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Each query head is followed by its gate.
    pub output_gate: bool,
}

impl Shape {
    /// Values from one query head to the next.
    fn query_stride(&self) -> usize {
        if self.output_gate { 2 * self.head_dim } else { self.head_dim }
    }

    /// Lengths of the queries, keys, values and heads' outputs of `rows` rows: the arena of this layer.
    pub fn parts(&self, rows: usize) -> [usize; 4] {
        let kv = rows * self.kv_heads * self.head_dim;
        [rows * self.heads * self.query_stride(), kv, kv, rows * self.heads * self.head_dim]
    }
}

/// An attention layer ready to run.
#[derive(Debug)]
pub struct AttentionLayer {
    /// Sizes.
    pub shape: Shape,
    /// Multiplies the scores.
    pub scale: f32,
    /// Positions a query sees, itself included.
    pub window: usize,
    /// Number of the rotary table; `None`: queries and keys stay as they are.
    pub rope: Option<usize>,
    /// Q, K, V, O.
    pub matrices: [TensorHandle; 4],
    /// Biases of Q, K and V.
    pub qkv_bias: Option<[Vec<f32>; 3]>,
    /// Bias of O.
    pub out_bias: Option<Vec<f32>>,
    /// Norm of queries and keys.
    pub qk_norm: QkNorms,
}

impl AttentionLayer {
    /// `scratch.normed` to `scratch.out`; keys and values of the step go into `cache`.
    pub fn forward(&self, step: &Step, store: &Store, ropes: &[RopeTable], cache: &mut KvCache, scratch: &mut Scratch) {
        let (n, pool) = (step.rows, step.pool);
        let [wq, wk, wv, wo] = self.matrices.map(|m| store.tensor(m));
        let [q, k, v, heads] = carve(&mut scratch.arena, self.shape.parts(n));
        scratch.input.load(pool, step.kernels, &scratch.normed[..n * wq.cols], n, wq.cols, &[wq.qtype, wk.qtype, wv.qtype]);
        let job = |weights, out| Job { weights, activations: &scratch.input, picked: None, out };
        step.kernels.matmul_jobs(pool, &mut [job(wq, &mut *q), job(wk, &mut *k), job(wv, &mut *v)]);
        if let Some([bq, bk, bv]) = &self.qkv_bias {
            for (rows, bias) in [(&mut *q, bq), (&mut *k, bk), (&mut *v, bv)] {
                add_bias(rows, bias);
            }
        }
        let rope = self.rope.map(|i| (&ropes[i], &scratch.turns[i]));
        let (q_norm, k_norm, whole) = match &self.qk_norm {
            QkNorms::None => (None, None, false),
            QkNorms::PerHead(q, k) => (Some(q), Some(k), false),
            QkNorms::FullWidth(q, k) => (Some(q), Some(k), true),
        };
        let place = |rows: &mut [f32], width: usize, stride: usize, norm: Option<&RmsNorm>| {
            step.each_row(rows, width, &|t, row| {
                if whole && let Some(norm) = norm {
                    norm.apply(step.kernels, row);
                }
                for head in row.chunks_exact_mut(stride) {
                    let head = &mut head[..self.shape.head_dim];
                    if !whole && let Some(norm) = norm {
                        norm.apply(step.kernels, head);
                    }
                    if let Some((rope, turns)) = rope {
                        let width = 2 * rope.pairs();
                        rope.rotate(&turns[t * width..][..width], &mut head[..width]);
                    }
                }
            });
        };
        place(q, wq.rows, self.shape.query_stride(), q_norm);
        place(k, wk.rows, self.shape.head_dim, k_norm);
        cache.store(step, k, v);
        match cache {
            KvCache::F16(cells) => self.attend_all(step, cells, q, heads),
            KvCache::F32(cells) => self.attend_all(step, cells, q, heads),
        }
        scratch.inner.load(pool, step.kernels, heads, n, wo.cols, &[wo.qtype]);
        step.kernels.matmul(pool, &wo, &scratch.inner, &mut scratch.out[..n * wo.rows]);
        if let Some(bias) = &self.out_bias {
            add_bias(&mut scratch.out[..n * wo.rows], bias);
        }
    }

    fn attend_all<T: Cell>(&self, step: &Step, cells: &Cells<T>, q: &[f32], out: &mut [f32]) {
        let Shape { heads, kv_heads, head_dim, output_gate } = self.shape;
        let stride = self.shape.query_stride();
        step.pool.split(out, head_dim, &|item, out, _| {
            let (row, head) = (item / heads, item % heads);
            let (query, gate) = q[item * stride..(item + 1) * stride].split_at(head_dim);
            let last = step.position + row;
            let first = (last + 1).saturating_sub(self.window);
            attend(step.kernels, cells, head / (heads / kv_heads), first..last + 1, query, self.scale, out);
            if output_gate {
                vector::sigmoid_mul(out, gate);
            }
        });
    }
}

/// Softmax-weighted mean of the values at `positions`.
fn attend<T: Cell>(kernels: &Kernels, cells: &Cells<T>, head: usize, positions: Range<usize>, query: &[f32], scale: f32, out: &mut [f32]) {
    out.fill(0.0);
    let (mut largest, mut sum) = (f32::NEG_INFINITY, 0.0f32);
    let mut from = positions.start;
    while from < positions.end {
        let to = ((from / BLOCK + 1) * BLOCK).min(positions.end);
        let mut scores = [0.0f32; BLOCK];
        let scores = &mut scores[..to - from];
        for (score, position) in scores.iter_mut().zip(from..to) {
            *score = T::dot(kernels, query, cells.key(head, position)) * scale;
        }
        let new = scores.iter().fold(largest, |m, &s| m.max(s));
        if new > largest {
            let shrink = (largest - new).exp(); // 0 in the first block
            sum *= shrink;
            vector::scale(shrink, out);
            largest = new;
        }
        for (score, position) in scores.iter().zip(from..to) {
            let weight = (score - largest).exp();
            sum += weight;
            T::axpy(kernels, weight, cells.value(head, position), out);
        }
        from = to;
    }
    vector::scale(1.0 / sum, out);
}
