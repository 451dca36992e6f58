//! A mixture of experts: the router chooses, the window holds, each expert runs once for all of its rows.
//!
//! All experts of a step are asked for at once, as far as the window can hold them, in file order. While they are being read the shared expert and those that
//! are there already are computed, then the others as they arrive: an expert of one row slice by slice, of many rows when it is whole. Every (row, choice)
//! has a place of its own for its output, and outputs are added in router order at the end: when and how experts came leaves no trace in the result.

use super::coarse::CoarseRouter;
use super::dense::DenseFfn;
use super::picks::Picks;
use super::{activate, cut, router};
use crate::error::{Error, Result};
use crate::kernels::{Activations, Job, Matrix, vector};
use crate::scratch::{Scratch, Step, carve, recycle};
use crate::store::{SliceView, Store};
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

/// Weights (in bytes times rows) of a prompt's experts that are computed before arrivals are looked at again: about 5 ms of two threads, which
/// is what the reads in flight last on a fast drive.
const ROUND_BYTES: usize = 128 << 20;

/// A guess for the next layer, and one for those behind it, counts if its weight is this many times that of the best expert that is not chosen. Measured on the trained
/// 8-layer model with half of its experts in the window, for the next layer: 69% of all guesses are right, 79% of those above 1.1 (which are 57% of all misses instead of 65%),
/// 92% above 1.4 (38%). With 1.1 for both 52% of its guesses were right at 87% hits; with 1.5 for the second layer 72%, and 94% of the right ones are left.
const CERTAINTY: [f32; 2] = [1.1, 1.5];

/// What the experts of one step work in: places `[choices, ..]` of all of them.
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
    /// The same in 8 bits, to guess with; `None` if it cannot be cut into blocks.
    pub coarse: Option<CoarseRouter>,
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
        choice.reserve(step.kernels, n * top_k, self.shape.inner, &[self.types[2]]);
        let mut work = Work { input, choice, gate, up, outputs, jobs };
        let needed = picks.needed.len();
        let most = store.begin(n).max(1);
        // Where they do not fit at once, two groups are in flight: one is read while the other is computed.
        let most = if needed > most { (most / 2).max(1) } else { most };
        store.request(self.layer, &picks.needed[..most.min(needed)], false)?;
        store.take_turns(step.pool)?;
        if let Some(shared) = &self.shared {
            shared.ffn.forward(step, store, work.input, inner, shared_arena, shared_out);
        }
        for first in (0..needed).step_by(most) {
            let group = first..(first + most).min(needed);
            let next = group.end..(group.end + most).min(needed);
            if !next.is_empty() {
                store.request(self.layer, &picks.needed[next], true)?;
                store.take_turns(step.pool)?;
            }
            self.run_group(step, store, picks, group, &mut work)?;
        }
        self.sum(step, picks, normed, work.outputs, shared_out, &mut out[..n * hidden]);
        Ok(())
    }

    /// The choices that this layer would make if its input were `scratch.normed`, into `scratch.ahead`, the likeliest first; how many. Asked before the
    /// mixers of this layer and of `distance` layers before it have run, it is a guess, and only what it is sure of counts: see [`CERTAINTY`]. Without a coarse
    /// router the layer's trunk must be in memory ([`Store::has_layer`]).
    pub fn guess(&self, step: &Step, store: &Store, scratch: &mut Scratch, distance: usize) -> usize {
        let Shape { hidden, experts, top_k, .. } = self.shape;
        let n = step.rows;
        let Scratch { arena, normed, input, ahead, .. } = scratch;
        let w = self.coarse.as_ref().map_or_else(|| store.tensor(self.logits), CoarseRouter::matrix);
        let logits = &mut arena[..n * experts];
        input.load(step.pool, step.kernels, &normed[..n * hidden], n, hidden, &[w.qtype]);
        step.kernels.matmul(step.pool, &w, input, logits);
        if n == 1 {
            let most = (top_k + 1).min(experts);
            router::route(&self.router, experts, most, logits, &mut ahead[..most]);
            let last = if most > top_k { ahead[top_k].1 } else { 0.0 };
            return ahead[..top_k].iter().take_while(|c| c.1 >= last * CERTAINTY[distance.min(1)]).count();
        }
        // Of a prompt, all that any row would choose; the order is the file's.
        router::route(&self.router, experts, top_k, logits, &mut ahead[..n * top_k]);
        let votes = &mut logits[..experts];
        votes.fill(0.0);
        ahead[..n * top_k].iter().for_each(|c| votes[c.0 as usize] += 1.0);
        let wanted = (0u32..).zip(votes).filter(|(_, votes)| **votes > 0.0);
        wanted.zip(ahead).map(|((expert, votes), place)| *place = (expert, *votes)).count()
    }

    /// Computes the experts `picks.needed[group]`, all of them asked for, as they arrive.
    fn run_group(&self, step: &Step, store: &mut Store, picks: &mut Picks, group: Range<usize>, work: &mut Work) -> Result<()> {
        loop {
            store.advance(step.pool, false)?;
            let mut worked = self.run_inputs(step, store, picks, group.clone(), work);
            self.run_inner(step, store, picks, group.clone(), work);
            worked |= self.run_outputs(step, store, picks, group.clone(), work);
            if picks.progress[group.clone()].iter().all(|p| p.done) {
                return Ok(());
            }
            if !worked && !store.advance(step.pool, true)? {
                return Err(Error::Unsupported(format!("layer {}: an expert that was asked for never came: a bug", self.layer)));
            }
        }
    }

    /// Gate and up rows that have arrived, of experts in `group`. False if there was nothing to do.
    fn run_inputs(&self, step: &Step, store: &Store, picks: &mut Picks, group: Range<usize>, work: &mut Work) -> bool {
        let inner = self.shape.inner;
        let Picks { needed, starts, rows, progress, .. } = picks;
        let mut batch = Batch { jobs: std::mem::take(work.jobs), activations: work.input };
        let (mut gates, mut ups) = (Cutter::new(work.gate), Cutter::new(work.up));
        let mut bytes = 0;
        for i in group {
            let (first, picked) = (starts[i], &rows[starts[i]..starts[i + 1]]);
            let (expert, so_far) = (needed[i], &mut progress[i]);
            if so_far.inner || so_far.slices == u64::MAX || bytes >= ROUND_BYTES {
                continue;
            }
            let arrived = store.arrived(self.layer, expert);
            let complete = so_far.slices == 0 && arrived.slices == arrived.gate_up | arrived.down;
            if picked.len() > 1 || arrived.gate_up == 0 || complete {
                let Some(whole) = store.expert(self.layer, expert) else { continue };
                let at = first * inner..(first + picked.len()) * inner;
                batch.add(whole.gate, picked, gates.take(at.clone()));
                batch.add(whole.up, picked, ups.take(at));
                bytes += (whole.gate.bytes.len() + whole.up.bytes.len()) * picked.len();
                so_far.slices = u64::MAX;
                continue;
            }
            for slice in bits(arrived.slices & arrived.gate_up & !so_far.slices) {
                if let Some(SliceView::GateUp { rows, gate, up }) = store.slice(self.layer, expert, slice) {
                    let at = first * inner + rows.start..first * inner + rows.end;
                    batch.add(gate, picked, gates.take(at.clone()));
                    batch.add(up, picked, ups.take(at));
                    so_far.slices |= 1 << slice;
                }
            }
        }
        batch.run(step, work.jobs)
    }

    /// What lies between gate and up and down, of experts whose gate and up are complete: neighbours together.
    fn run_inner(&self, step: &Step, store: &Store, picks: &mut Picks, group: Range<usize>, work: &mut Work) {
        let inner = self.shape.inner;
        let mut run = |places: Range<usize>| {
            let values = places.start * inner..places.end * inner;
            let gate = &mut work.gate[values.clone()];
            activate(step, self.activation, inner, gate, &work.up[values]);
            cut(step, inner, inner, gate);
            work.choice.fill(step.pool, step.kernels, places.start, gate);
        };
        let mut ready = 0..0;
        for i in group {
            let gate_up = store.arrived(self.layer, picks.needed[i]).gate_up;
            let so_far = &mut picks.progress[i];
            let complete = so_far.slices != 0 && so_far.slices & gate_up == gate_up;
            if so_far.inner || !complete {
                continue;
            }
            so_far.inner = true;
            let places = picks.places_of(i);
            if ready.end == places.start && !ready.is_empty() {
                ready.end = places.end;
            } else {
                run(std::mem::replace(&mut ready, places));
            }
        }
        run(ready);
    }

    /// Down rows that have arrived, of experts in `group` whose input is ready. False if there was nothing to do.
    fn run_outputs(&self, step: &Step, store: &Store, picks: &mut Picks, group: Range<usize>, work: &mut Work) -> bool {
        let hidden = self.shape.hidden;
        let Picks { needed, starts, identity, progress, .. } = picks;
        let mut batch = Batch { jobs: std::mem::take(work.jobs), activations: work.choice };
        let mut outs = Cutter::new(work.outputs);
        for i in group {
            let (first, places) = (starts[i], &identity[starts[i]..starts[i + 1]]);
            let (expert, so_far) = (needed[i], &mut progress[i]);
            if so_far.done || !so_far.inner {
                continue;
            }
            let arrived = store.arrived(self.layer, expert);
            if so_far.slices == u64::MAX {
                let Some(whole) = store.expert(self.layer, expert) else { continue };
                batch.add(whole.down, places, outs.take(first * hidden..(first + places.len()) * hidden));
                so_far.done = true;
                continue;
            }
            for slice in bits(arrived.slices & arrived.down & !so_far.slices) {
                if let Some(SliceView::Down { rows, down }) = store.slice(self.layer, expert, slice) {
                    batch.add(down, places, outs.take(first * hidden + rows.start..first * hidden + rows.end));
                    so_far.slices |= 1 << slice;
                }
            }
            so_far.done = so_far.slices & arrived.down == arrived.down;
        }
        batch.run(step, work.jobs)
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

/// Products of one fork-join, on the same activations.
struct Batch<'a> {
    jobs: Vec<Job<'a>>,
    activations: &'a Activations,
}

impl<'a> Batch<'a> {
    fn add(&mut self, weights: Matrix<'a>, picked: &'a [u32], out: &'a mut [f32]) {
        self.jobs.push(Job { weights, activations: self.activations, picked: Some(picked), out });
    }

    /// Computes them; their list goes back to `list`. False if there were none.
    fn run(mut self, step: &Step, list: &mut Vec<Job<'static>>) -> bool {
        let any = !self.jobs.is_empty();
        step.kernels.matmul_jobs(step.pool, &mut self.jobs);
        *list = recycle(self.jobs);
        any
    }
}

/// Numbers of the bits that are set, lowest first.
fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = (mask != 0).then(|| mask.trailing_zeros() as usize)?;
        mask &= mask - 1;
        Some(bit)
    })
}

/// Lends ranges of a slice, each behind the one before.
struct Cutter<'a> {
    rest: &'a mut [f32],
    /// Place of the first of `rest`.
    at: usize,
}

impl<'a> Cutter<'a> {
    fn new(all: &'a mut [f32]) -> Self {
        Cutter { rest: all, at: 0 }
    }

    /// # Panics
    /// If the range does not lie behind those taken before, inside the slice.
    fn take(&mut self, range: Range<usize>) -> &'a mut [f32] {
        let (_, rest) = std::mem::take(&mut self.rest).split_at_mut(range.start - self.at);
        let (taken, rest) = rest.split_at_mut(range.len());
        (self.rest, self.at) = (rest, range.end);
        taken
    }
}
