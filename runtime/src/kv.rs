//! Keys and values of one attention layer, sized for the whole context when the model is opened.
//!
//! Layout: per key/value head one run of `[context][head_dim]`, so that attention of one head reads memory forwards.

use crate::kernels::{ActivationMode, Kernels, vector};
use crate::scratch::{SERIAL_VALUES, Step};
use forebay_format::model::Attention;

/// Type a cache cell is stored in.
pub trait Cell: Copy + Default + Send + Sync {
    /// Rounds to the stored type.
    fn put(k: &Kernels, from: &[f32], to: &mut [Self]);
    /// `sum(a[i] * b[i])`.
    fn dot(k: &Kernels, a: &[f32], b: &[Self]) -> f32;
    /// `y[i] += a * x[i]`.
    fn axpy(k: &Kernels, a: f32, x: &[Self], y: &mut [f32]);
}

impl Cell for f32 {
    fn put(_: &Kernels, from: &[f32], to: &mut [Self]) {
        to.copy_from_slice(from);
    }

    fn dot(k: &Kernels, a: &[f32], b: &[Self]) -> f32 {
        vector::dot(k, a, b)
    }

    fn axpy(k: &Kernels, a: f32, x: &[Self], y: &mut [f32]) {
        vector::axpy(k, a, x, y);
    }
}

/// Bits of a half.
impl Cell for u16 {
    fn put(k: &Kernels, from: &[f32], to: &mut [Self]) {
        vector::to_f16(k, from, to);
    }

    fn dot(k: &Kernels, a: &[f32], b: &[Self]) -> f32 {
        vector::dot_f16(k, a, b)
    }

    fn axpy(k: &Kernels, a: f32, x: &[Self], y: &mut [f32]) {
        vector::axpy_f16(k, a, x, y);
    }
}

/// Keys and values in one type.
#[derive(Debug)]
pub struct Cells<T> {
    keys: Vec<T>,
    values: Vec<T>,
    context: usize,
    head_dim: usize,
}

impl<T: Cell> Cells<T> {
    fn new(heads: usize, head_dim: usize, context: usize) -> Self {
        let zeros = || vec![T::default(); heads * context * head_dim];
        Cells { keys: zeros(), values: zeros(), context, head_dim }
    }

    /// Key of `head` at `position`.
    pub fn key(&self, head: usize, position: usize) -> &[T] {
        let at = (head * self.context + position) * self.head_dim;
        &self.keys[at..at + self.head_dim]
    }

    /// Value of `head` at `position`.
    pub fn value(&self, head: usize, position: usize) -> &[T] {
        let at = (head * self.context + position) * self.head_dim;
        &self.values[at..at + self.head_dim]
    }

    fn store(&mut self, step: &Step, keys: &[f32], values: &[f32]) {
        let (dim, run) = (self.head_dim, self.context * self.head_dim);
        let width = self.keys.len() / self.context; // all heads' head_dim
        let put = |head: usize, cells: &mut [T], rows: &[f32]| {
            let cells = cells[step.position * dim..].chunks_exact_mut(dim);
            for (cell, row) in cells.zip(rows.chunks_exact(width)) {
                T::put(step.kernels, &row[head * dim..(head + 1) * dim], cell);
            }
        };
        let both = |head: usize, k: &mut [T], v: &mut [T]| {
            put(head, k, keys);
            put(head, v, values);
        };
        // A fork is worth its price only for many rows; who stores changes nothing of what is stored.
        if keys.len() > SERIAL_VALUES {
            step.pool.split2((&mut self.keys, run), (&mut self.values, run), &|head, k, v, _| both(head, k, v));
        } else {
            let heads = self.keys.chunks_mut(run).zip(self.values.chunks_mut(run));
            heads.enumerate().for_each(|(head, (k, v))| both(head, k, v));
        }
    }
}

/// The cache of one layer.
#[derive(Debug)]
pub enum KvCache {
    /// Half precision: the default.
    F16(Cells<u16>),
    /// Single precision: the exact path.
    F32(Cells<f32>),
}

impl KvCache {
    /// A cache for `context` positions. Memory is reserved here and nowhere later.
    pub fn new(spec: &Attention, context: usize, mode: ActivationMode) -> Self {
        let (heads, dim) = (spec.kv_heads as usize, spec.head_dim as usize);
        match mode {
            ActivationMode::F32 => KvCache::F32(Cells::new(heads, dim, context)),
            ActivationMode::Int8 => KvCache::F16(Cells::new(heads, dim, context)),
        }
    }

    /// Bytes that [`KvCache::new`] takes; saturates.
    pub fn bytes(spec: &Attention, context: u32, mode: ActivationMode) -> u64 {
        let cell = match mode {
            ActivationMode::F32 => size_of::<f32>(),
            ActivationMode::Int8 => size_of::<u16>(),
        };
        (spec.kv_heads as u64 * spec.head_dim as u64).saturating_mul(context as u64).saturating_mul(2 * cell as u64)
    }

    /// Stores the step's keys and values (`[rows, kv_heads * head_dim]` each) at its positions.
    pub fn store(&mut self, step: &Step, keys: &[f32], values: &[f32]) {
        match self {
            KvCache::F16(cells) => cells.store(step, keys, values),
            KvCache::F32(cells) => cells.store(step, keys, values),
        }
    }
}
