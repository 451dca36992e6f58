//! A mixture of experts: the router chooses, the window holds, each expert runs once for all of its rows.
//!
//! The experts a step needs are taken in file order, as many at a time as the window can hold. Every (row, choice) has a place of its own for its output,
//! and outputs are added in router order at the end: how the experts were grouped leaves no trace in the result.

use super::dense::DenseFfn;
use super::picks::Picks;
use super::{activate, router};
use crate::error::{Error, Result};
use crate::kernels::{Activations, Job, vector};
use crate::scratch::{Scratch, Step, carve, recycle};
use crate::store::{ExpertView, Store};
use crate::trunk::TensorHandle;
use forebay_format::QuantType;
use forebay_format::model::{Activation, Router};
use std::ops::Range;

/// Sizes of a routed layer; see [`forebay_format::model::Routed`].
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Experts.
    pub experts: usize,
    /// Experts per token.
    pub top_k: usize,
    /// Neurons of an expert.
    pub inner: usize,
    /// Neurons of the shared expert; 0 without one.
    pub shared: usize,
}

impl Shape {
    /// Lengths of router logits, gate and up of all choices, all choices' outputs, the shared expert's arena and its output, for `rows` rows:
    /// the arena of this layer.
    pub fn parts(&self, rows: usize) -> [usize; 6] {
        let choices = rows * self.top_k;
        let shared: usize = DenseFfn::parts(self.shared, rows).iter().sum();
        let shared_out = if self.shared == 0 { 0 } else { rows * self.hidden };
        [rows * self.experts, choices * self.inner, choices * self.inner, choices * self.hidden, shared, shared_out]
    }
}

/// The expert that every row uses.
#[derive(Debug)]
pub struct Shared {
    /// The network.
    pub ffn: DenseFfn,
    /// Its output is multiplied by the sigmoid of this row times the input.
    pub gate: Option<Vec<f32>>,
}

/// What the groups of experts of one step work in: places `[choices, ..]` of all of them.
struct Work<'a> {
    input: &'a Activations,
    choice: &'a mut Activations,
    gate: &'a mut [f32],
    up: &'a mut [f32],
    outputs: &'a mut [f32],
    jobs: &'a mut Vec<Job<'static>>,
}

/// A routed layer ready to run.
#[derive(Debug)]
pub struct RoutedFfn {
    /// Sizes.
    pub shape: Shape,
    /// Number of the layer, as the store knows it.
    pub layer: u32,
    /// How logits become choices.
    pub router: Router,
    /// `[experts, hidden]`.
    pub logits: TensorHandle,
    /// Element types of an expert's gate, up and down.
    pub types: [QuantType; 3],
    /// Activation of the experts.
    pub activation: Activation,
    /// The shared expert.
    pub shared: Option<Shared>,
}

impl RoutedFfn {
    /// `scratch.normed` to `scratch.out`; the choices stay in `scratch.picks`.
    pub fn forward(&self, step: &Step, store: &mut Store, scratch: &mut Scratch) -> Result<()> {
        let Shape { hidden, experts, top_k, .. } = self.shape;
        let n = step.rows;
        let Scratch { arena, normed, out, input, inner, choice, picks, jobs, .. } = scratch;
        let normed = &normed[..n * hidden];
        let [logits, gate, up, outputs, shared_arena, shared_out] = carve(arena, self.shape.parts(n));
        let w = store.tensor(self.logits);
        let [shared_gate, shared_up] = self.shared.as_ref().map_or([w.qtype; 2], |s| s.ffn.input_types(store));
        let types = [w.qtype, self.types[0], self.types[1], shared_gate, shared_up];
        input.load(step.pool, step.kernels, normed, n, hidden, &types);
        step.kernels.matmul(step.pool, &w, input, logits);
        router::route(&self.router, experts, top_k, logits, &mut picks.chosen[..n * top_k]);
        picks.sort(experts, n * top_k, top_k);
        let mut work = Work { input, choice, gate, up, outputs, jobs };
        let most = store.begin(n).max(1);
        for first in (0..picks.needed.len()).step_by(most) {
            let group = first..(first + most).min(picks.needed.len());
            store.hold(self.layer, &picks.needed[group.clone()])?;
            self.run_group(step, store, picks, group, &mut work)?;
        }
        if let Some(shared) = &self.shared {
            shared.ffn.forward(step, store, work.input, inner, shared_arena, shared_out);
        }
        self.sum(step, picks, normed, work.outputs, shared_out, &mut out[..n * hidden]);
        Ok(())
    }

    /// Gate, up and down of the held experts `picks.needed[group]`, each for all of its rows.
    fn run_group(&self, step: &Step, store: &Store, picks: &Picks, group: Range<usize>, work: &mut Work) -> Result<()> {
        let Shape { hidden, inner, .. } = self.shape;
        let places = picks.starts[group.start]..picks.starts[group.end];
        let neurons = places.start * inner..places.end * inner;
        let (gate, up) = (&mut work.gate[neurons.clone()], &mut work.up[neurons]);
        let mut jobs = std::mem::take(work.jobs);
        let (mut gates, mut ups) = (&mut *gate, &mut *up);
        for i in group.clone() {
            let expert = self.held(store, picks.needed[i])?;
            let picked = &picks.rows[picks.starts[i]..picks.starts[i + 1]];
            for (weights, rest) in [(expert.gate, &mut gates), (expert.up, &mut ups)] {
                let out = take_front(rest, picked.len() * inner);
                jobs.push(Job { weights, activations: work.input, picked: Some(picked), out });
            }
        }
        step.kernels.matmul_jobs(step.pool, &mut jobs);
        *work.jobs = recycle(jobs);
        activate(step, self.activation, inner, gate, up);
        work.choice.load(step.pool, step.kernels, gate, places.len(), inner, &[self.types[2]]);
        let mut jobs = std::mem::take(work.jobs);
        let mut outs = &mut work.outputs[places.start * hidden..places.end * hidden];
        for i in group {
            let picked = &picks.identity[picks.starts[i] - places.start..picks.starts[i + 1] - places.start];
            let out = take_front(&mut outs, picked.len() * hidden);
            jobs.push(Job { weights: self.held(store, picks.needed[i])?.down, activations: work.choice, picked: Some(picked), out });
        }
        step.kernels.matmul_jobs(step.pool, &mut jobs);
        *work.jobs = recycle(jobs);
        Ok(())
    }

    fn held<'a>(&self, store: &'a Store, expert: u32) -> Result<ExpertView<'a>> {
        let lost =
            || Error::Unsupported(format!("layer {} expert {expert} is not in the window after it was asked for: a bug", self.layer));
        store.expert(self.layer, expert).ok_or_else(lost)
    }

    /// Adds each row's outputs in router order, then the shared expert's.
    fn sum(&self, step: &Step, picks: &Picks, normed: &[f32], outputs: &[f32], shared_out: &[f32], out: &mut [f32]) {
        let Shape { hidden, top_k, .. } = self.shape;
        step.each_row(out, hidden, &|row, out| {
            out.fill(0.0);
            let choices = row * top_k..(row + 1) * top_k;
            for (&(_, weight), &place) in picks.chosen[choices.clone()].iter().zip(&picks.places[choices]) {
                vector::axpy(step.kernels, weight, &outputs[place as usize * hidden..][..hidden], out);
            }
            let here = row * hidden..(row + 1) * hidden;
            if let Some(shared) = &self.shared {
                let weight = shared.gate.as_ref().map_or(1.0, |g| vector::sigmoid(vector::dot(step.kernels, g, &normed[here.clone()])));
                vector::axpy(step.kernels, weight, &shared_out[here], out);
            }
        });
    }
}

/// Cuts the first `len` values off `rest`.
fn take_front<'a>(rest: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    let (front, back) = std::mem::take(rest).split_at_mut(len);
    *rest = back;
    front
}
