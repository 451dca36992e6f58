//! All memory a step works in, allocated when the model is opened, and its size, known before.

use crate::ffn::dense::DenseFfn;
use crate::ffn::neurons::NeuronScratch;
use crate::ffn::picks::Picks;
use crate::kernels::{ActivationMode, Activations, Job, Kernels, Pool};
use crate::mixer::attend::{Workspace, WorkspaceSizes};
use crate::model;
use forebay_format::model::{Ffn, Mixer, ModelSpec};
use std::sync::atomic::AtomicBool;

/// Cheap work on at most this many values stays on the calling thread: a fork and join would cost more.
pub const SERIAL_VALUES: usize = 16 * 1024;
/// Most logits computed at once, in bytes: enough rows to read the head seldom, few enough to stay small.
const LOGITS_BYTES: usize = 16 << 20;
/// Most rows of logits computed at once.
const LOGITS_ROWS: usize = 32;
/// Gate and up of the slices that a bundle has at most, as the converter cuts it.
const JOBS_PER_EXPERT: usize = 16;
/// Parts of the arena start on multiples of this many values.
const PART_ALIGNMENT: usize = 16;

/// What is common to all layers of a step.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Threads.
    pub pool: &'a Pool,
    /// Arithmetic.
    pub kernels: &'a Kernels,
    /// Tokens in this step.
    pub rows: usize,
    /// Position of the first.
    pub position: usize,
    /// Products of gate and up below this many times their row's root mean square count as zero; 0: none does. Not exact.
    pub cut: f32,
    /// Looked at between layers.
    pub cancel: &'a AtomicBool,
}

impl Step<'_> {
    /// Calls `f(i, row)` for each row of `width` values of `data`: on all threads if there is enough to do. What is written must depend on `i` only.
    pub fn each_row(&self, data: &mut [f32], width: usize, f: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        if data.len() > SERIAL_VALUES {
            self.pool.split(data, width, &|i, row, _| f(i, row));
        } else {
            data.chunks_mut(width).enumerate().for_each(|(i, row)| f(i, row));
        }
    }
}

/// Lengths of everything in a [`Scratch`], from the spec and the rows of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    rows: usize,
    hidden: usize,
    vocab: usize,
    /// Values of the largest layer's parts.
    arena: usize,
    /// Widest input of an output or down projection, experts aside.
    inner: usize,
    /// Rows times top_k, and neurons of an expert: largest of all layers.
    choices: usize,
    expert: usize,
    experts: usize,
    /// Cosines and sines of a row, all tables together.
    turns: usize,
    attention: WorkspaceSizes,
}

impl Sizes {
    /// For steps of at most `rows` rows by so many threads, and `context` positions. The spec must have passed [`model::check`].
    pub fn new(spec: &ModelSpec, rows: usize, context: usize, threads: usize) -> Self {
        let (hidden, vocab) = (spec.hidden as usize, spec.vocab as usize);
        let mut s = Sizes { rows, hidden, vocab, ..Sizes::default() };
        for layer in &spec.layers {
            let arena = match &layer.mixer {
                Mixer::Attention(a) => {
                    let shape = model::attention_shape(a);
                    s.inner = s.inner.max(shape.heads * shape.head_dim);
                    total(&shape.parts(rows))
                }
                Mixer::GatedDelta(d) => {
                    let shape = model::delta_shape(d);
                    s.inner = s.inner.max(shape.value_heads * shape.value_dim);
                    total(&shape.parts(rows))
                }
            };
            s.arena = s.arena.max(arena);
            let arena = match &layer.ffn {
                Ffn::Dense(f) => {
                    s.inner = s.inner.max(f.inner as usize);
                    total(&DenseFfn::parts(f.inner as usize, rows))
                }
                Ffn::Routed(r) => {
                    let shape = model::routed_shape(r, hidden);
                    s.inner = s.inner.max(shape.shared);
                    s.choices = s.choices.max(rows * shape.top_k);
                    s.expert = s.expert.max(shape.inner);
                    s.experts = s.experts.max(shape.experts);
                    total(&shape.parts(rows))
                }
            };
            s.arena = s.arena.max(arena);
        }
        // Where embedding and head are of another width, their rows go through the arena and are the input of a projection.
        if let Some(width) = spec.embedding_width {
            s.arena = s.arena.max(rows * width as usize);
            s.inner = s.inner.max(width as usize);
        }
        let attention = spec.layers.iter().filter_map(|l| match &l.mixer {
            Mixer::Attention(a) => Some(model::attention_shape(a)),
            Mixer::GatedDelta(_) => None,
        });
        s.attention = WorkspaceSizes::new(attention, rows, context, threads);
        s.turns = model::ropes(spec).iter().map(|r| r.dim as usize).sum();
        s
    }

    /// Rows of logits computed at once.
    pub fn logits_rows(&self) -> usize {
        (LOGITS_BYTES / size_of::<f32>() / self.vocab).clamp(1, LOGITS_ROWS).min(self.rows)
    }

    /// Bytes that [`Scratch::new`] takes.
    pub fn bytes(&self, mode: ActivationMode) -> u64 {
        let residual = 3 * self.rows * self.hidden;
        let floats = residual + self.arena + self.rows * self.turns + self.logits_rows() * self.vocab;
        let activations = Activations::bytes(self.rows, self.hidden, mode)
            + Activations::bytes(self.rows, self.inner, mode)
            + Activations::bytes(self.choices, self.expert, mode);
        let jobs = JOBS_PER_EXPERT * self.experts * size_of::<Job<'static>>();
        activations
            + self.attention.bytes()
            + Picks::bytes(self.choices as u64, self.experts as u64)
            + 8 * self.choices as u64
            + (floats * size_of::<f32>() + jobs) as u64
    }
}

/// The memory of a step.
pub struct Scratch {
    /// Residual stream `[rows, hidden]`.
    pub x: Vec<f32>,
    /// Its norm: the input of a mixer or a feed-forward part.
    pub normed: Vec<f32>,
    /// The output of a mixer or a feed-forward part.
    pub out: Vec<f32>,
    /// Everything that lives inside one mixer or one feed-forward part.
    pub arena: Vec<f32>,
    /// `normed`, as kernels read it.
    pub input: Activations,
    /// Memory of attention.
    pub attention: Workspace,
    /// Input of output and down projections.
    pub inner: Activations,
    /// Input of the experts' down projections, one row a choice.
    pub choice: Activations,
    /// Which experts.
    pub picks: Picks,
    /// For layers with neuron groups; empty until somebody fills it in.
    pub neurons: NeuronScratch,
    /// Experts that the next layer may want, with their weights.
    pub ahead: Vec<(u32, f32)>,
    /// Empty between uses; kept for its allocation.
    pub jobs: Vec<Job<'static>>,
    /// Per rotary table `[rows][cosines, sines]`.
    pub turns: Vec<Vec<f32>>,
    /// `[logits_rows, vocab]`.
    pub logits: Vec<f32>,
}

impl Scratch {
    /// Allocates everything.
    pub fn new(spec: &ModelSpec, sizes: &Sizes, mode: ActivationMode) -> Self {
        let residual = || vec![0.0; sizes.rows * sizes.hidden];
        Scratch {
            x: residual(),
            normed: residual(),
            out: residual(),
            arena: vec![0.0; sizes.arena],
            attention: Workspace::new(&sizes.attention),
            input: Activations::new(sizes.rows, sizes.hidden, mode),
            inner: Activations::new(sizes.rows, sizes.inner, mode),
            choice: Activations::new(sizes.choices, sizes.expert, mode),
            picks: Picks::new(sizes.choices, sizes.experts),
            neurons: NeuronScratch::default(),
            ahead: vec![(0, 0.0); sizes.choices + 1],
            jobs: Vec::with_capacity(JOBS_PER_EXPERT * sizes.experts),
            turns: model::ropes(spec).iter().map(|r| vec![0.0; sizes.rows * r.dim as usize]).collect(),
            logits: vec![0.0; sizes.logits_rows() * sizes.vocab],
        }
    }
}

/// Values of an arena with these parts.
fn total(parts: &[usize]) -> usize {
    parts.iter().map(|p| p.next_multiple_of(PART_ALIGNMENT)).sum()
}

/// Cuts the front of `arena` into parts of these lengths. What they hold is whatever was there.
pub fn carve<const N: usize>(arena: &mut [f32], parts: [usize; N]) -> [&mut [f32]; N] {
    let mut rest = arena;
    parts.map(|len| {
        let (part, back) = std::mem::take(&mut rest).split_at_mut(len.next_multiple_of(PART_ALIGNMENT));
        rest = back;
        &mut part[..len]
    })
}

/// An empty list of jobs with the allocation of a used one, so that a step allocates nothing. (Collecting from the list's own iterator reuses
/// its memory, and no element is ever moved: there is none.)
#[allow(clippy::unnecessary_filter_map)] // a filter would keep the element's lifetime
pub fn recycle<'b>(mut jobs: Vec<Job<'_>>) -> Vec<Job<'b>> {
    jobs.clear();
    jobs.into_iter().filter_map(|_| None).collect()
}

/// Adds `bias` to each row.
pub fn add_bias(rows: &mut [f32], bias: &[f32]) {
    for row in rows.chunks_exact_mut(bias.len()) {
        row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recycling_keeps_the_allocation() {
        let jobs: Vec<Job<'static>> = Vec::with_capacity(37);
        let (at, capacity) = (jobs.as_ptr(), jobs.capacity());
        let again: Vec<Job<'_>> = recycle(jobs);
        assert_eq!((again.as_ptr(), again.capacity()), (at, capacity));
    }

    #[test]
    fn parts_are_disjoint_and_of_the_asked_length() {
        let mut arena = vec![0.0; total(&[3, 0, 17, 16])];
        let parts = carve(&mut arena, [3, 0, 17, 16]);
        for (i, part) in parts.into_iter().enumerate() {
            assert_eq!(part.len(), [3, 0, 17, 16][i]);
            assert!(part.iter().all(|&x| x == 0.0));
            part.fill(1.0);
        }
        assert_eq!(arena.iter().sum::<f32>(), 36.0);
    }
}
