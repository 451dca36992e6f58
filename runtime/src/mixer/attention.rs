//! Softmax attention with grouped key/value heads: projections, norms, rotary positions; what is between them is in [`super::attend`].

use super::attend::{self, Attend};
use super::rope::RopeTable;
use crate::kernels::Job;
use crate::kernels::panel::COLUMNS;
use crate::kv::KvCache;
use crate::norm::RmsNorm;
use crate::scratch::{Scratch, Step, add_bias, carve};
use crate::store::Store;
use crate::trunk::TensorHandle;

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
    pub fn query_stride(&self) -> usize {
        if self.output_gate { 2 * self.head_dim } else { self.head_dim }
    }

    /// Query heads of a key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Width of a head in whole panels.
    pub fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(COLUMNS)
    }

    /// Lengths of the queries, keys, values, outputs of the heads by tiles of rows (whole ones), and outputs of `rows` rows: the arena of this layer.
    pub fn parts(&self, rows: usize) -> [usize; 5] {
        let kv = rows * self.kv_heads * self.head_dim;
        let tiles = rows.next_multiple_of(attend::tile_rows(self, rows)) * self.heads * self.padded_dim();
        [rows * self.heads * self.query_stride(), kv, kv, tiles, rows * self.heads * self.head_dim]
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
        let [q, k, v, tiles, heads] = carve(&mut scratch.arena, self.shape.parts(n));
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
        let attend = Attend { shape: self.shape, scale: self.scale, window: self.window, cache, queries: q };
        attend.run(step, &mut scratch.attention, tiles, heads);
        scratch.inner.load(pool, step.kernels, heads, n, wo.cols, &[wo.qtype]);
        step.kernels.matmul(pool, &wo, &scratch.inner, &mut scratch.out[..n * wo.rows]);
        if let Some(bias) = &self.out_bias {
            add_bias(&mut scratch.out[..n * wo.rows], bias);
        }
    }
}
