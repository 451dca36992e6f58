//! A network whose neurons are in groups, of which those that fire are read ("LLM in a flash", Alizadeh et al. 2023). The activation is exactly zero for a range of
//! inputs, so that a neuron that does not fire adds nothing to the result, and neither its up row nor its down column is needed.
//!
//! With [`Selection::Exact`] and [`Selection::All`] the result has the bits of the network with all its matrices in the trunk: products of rows are the same products,
//! and what is left out of the sums of down are zeros (`kernels::transposed`; whole quant blocks of zeros where down is quantised). With [`Selection::Predicted`] a low-bit copy of
//! the triggers says which groups are worth reading. A row gets the neurons that its own scores ask for, whatever else is in the window or wanted by other rows.

use super::dense::Biases;
use super::{activate, activate_alone, cut, value};
use crate::calibration::tally::Tally;
use crate::error::Result;
use crate::kernels::{Activations, Lanes, Matrix};
use crate::scratch::{Scratch, Step, add_bias, carve};
use crate::store::{GroupPart, Resident, Store};
use crate::trunk::TensorHandle;
use forebay_format::Manifest;
use forebay_format::layout::manifest::NeuronDown;
use forebay_format::model::{Activation, Ffn};
use forebay_format::neurons::GroupShape;
use std::ops::Range;

/// Which groups are wanted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Selection {
    /// Those with a neuron that fires. Needs the triggers in memory.
    Exact,
    /// Those with a neuron whose score by the sketch lies above this.
    Predicted(f32),
    /// Every one.
    All,
}

/// Into so many parts triggers (or the sketch) are cut when one row is computed, so that groups of the first are read while the next is computed.
const PARTS: usize = 4;
/// Fewer bytes are computed in one part: cutting them would cost more than it hides.
const LEAST_PART: usize = 1 << 20;
/// Whole blocks of down are taken or left out in units of so many values, or of a group if that is more: kernels take up to eight blocks of 32 together, and which of
/// their sums a block is added to must not change.
const UNIT: usize = 256;

/// The network of a layer.
#[derive(Debug)]
pub struct NeuronFfn {
    /// Number of the layer, as the store knows it.
    pub layer: u32,
    /// Where a group's rows are.
    pub shape: GroupShape,
    /// Applied to the gate, or to up where there is none.
    pub activation: Activation,
    /// `[inner, hidden]` in few bits: the triggers.
    pub sketch: TensorHandle,
    /// Added to the matrices' outputs.
    pub biases: Option<Biases>,
    /// Which groups are wanted.
    pub selection: Selection,
}

/// What a step with neuron groups works in, beside the arena. All memory is reserved in [`NeuronScratch::new`].
#[derive(Debug, Default)]
pub struct NeuronScratch {
    /// Groups that rows want: a bit each, row after row.
    bits: Vec<u64>,
    /// Those of any row, ascending.
    groups: Vec<u32>,
    /// Their neurons.
    neurons: Vec<u32>,
    lanes: Lanes,
    /// Empty between uses; kept for its allocation.
    pieces: Vec<&'static [u8]>,
    /// Blocks of down, gathered.
    blocks: Vec<u8>,
    /// Neurons that were active, and groups wanted, of all rows and layers since the start.
    pub counts: Counts,
    /// Counts scores, while exact, if somebody wants that.
    pub tally: Option<Tally>,
}

/// What rows and layers asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Neurons whose product was not zero.
    pub active: u64,
    /// Neurons there are.
    pub neurons: u64,
    /// Groups that rows wanted.
    pub asked: u64,
    /// Those of rows with another before them in their step, unless all groups are wanted.
    pub followed: u64,
    /// Those of these that the row before wanted too.
    pub again: u64,
    /// Groups there are.
    pub groups: u64,
}

impl Counts {
    /// Counts all that `other` has counted.
    pub fn merge(&mut self, other: &Counts) {
        self.active += other.active;
        self.neurons += other.neurons;
        self.asked += other.asked;
        self.followed += other.followed;
        self.again += other.again;
        self.groups += other.groups;
    }

    /// What was added since `before`.
    pub fn since(&self, before: &Counts) -> Counts {
        Counts {
            active: self.active - before.active,
            neurons: self.neurons - before.neurons,
            asked: self.asked - before.asked,
            followed: self.followed - before.followed,
            again: self.again - before.again,
            groups: self.groups - before.groups,
        }
    }

    /// Share of the groups that rows wanted.
    pub fn asked_share(&self) -> f64 {
        self.asked as f64 / self.groups.max(1) as f64
    }

    /// Share of a row's groups that the row before it wanted too.
    pub fn again_share(&self) -> f64 {
        self.again as f64 / self.followed.max(1) as f64
    }

    /// Share of the neurons that were active; `None` without neuron groups.
    pub fn active_share(&self) -> Option<f64> {
        (self.neurons > 0).then(|| self.active as f64 / self.neurons as f64)
    }
}

/// Sizes of a [`NeuronScratch`].
struct NeuronSizes {
    rows: usize,
    groups: usize,
    inner: usize,
    blocks: usize,
}

impl NeuronSizes {
    fn new(manifest: &Manifest, rows: usize) -> NeuronSizes {
        let mut sizes = NeuronSizes { rows, groups: 0, inner: 0, blocks: 0 };
        for (layer, place) in manifest.spec.layers.iter().zip(&manifest.neurons) {
            let (Ffn::Dense(ffn), Some(place)) = (&layer.ffn, place) else { continue };
            sizes.inner = sizes.inner.max(ffn.inner as usize);
            sizes.groups = sizes.groups.max(ffn.inner.div_ceil(place.group.max(1)) as usize);
            if place.down_order == NeuronDown::Blocks {
                let row = place.down.row_bytes(ffn.inner as usize).unwrap_or(0);
                sizes.blocks = sizes.blocks.max(row.saturating_mul(manifest.spec.hidden as usize));
            }
        }
        sizes
    }

    fn words(&self) -> usize {
        self.groups.div_ceil(64)
    }

    fn bytes(&self) -> u64 {
        let bits = self.rows.saturating_mul(self.words() * size_of::<u64>());
        let lists = self.groups * (size_of::<u32>() + size_of::<&[u8]>()) + self.inner * size_of::<u32>();
        (bits.saturating_add(lists).saturating_add(self.blocks) as u64).saturating_add(Lanes::bytes(self.inner as u64))
    }
}

impl NeuronScratch {
    /// Allocates everything for steps of at most `rows` rows.
    pub fn new(manifest: &Manifest, rows: usize) -> NeuronScratch {
        let sizes = NeuronSizes::new(manifest, rows);
        NeuronScratch {
            bits: vec![0; rows * sizes.words()],
            groups: Vec::with_capacity(sizes.groups),
            neurons: Vec::with_capacity(sizes.inner),
            lanes: Lanes::new(sizes.inner),
            pieces: Vec::with_capacity(sizes.groups),
            blocks: vec![0; sizes.blocks],
            counts: Counts::default(),
            tally: None,
        }
    }

    /// Bytes that [`NeuronScratch::new`] takes.
    pub fn bytes(manifest: &Manifest, rows: usize) -> u64 {
        NeuronSizes::new(manifest, rows).bytes()
    }
}

impl NeuronFfn {
    /// `scratch.normed` to `scratch.out`.
    ///
    /// # Errors
    /// Those of reading groups.
    pub fn forward(&self, step: &Step, store: &mut Store, scratch: &mut Scratch) -> Result<()> {
        let (n, hidden, inner) = (step.rows, self.shape.hidden as usize, self.shape.inner as usize);
        let Scratch { arena, normed, out, input, inner: products, neurons: work, .. } = scratch;
        let [gate, up] = carve(arena, super::dense::DenseFfn::parts(inner, n));
        let out = &mut out[..n * hidden];
        let sketch = store.tensor(self.sketch).qtype;
        let types = [self.shape.trigger, self.shape.up.unwrap_or(self.shape.trigger), sketch];
        let scores = matches!(self.selection, Selection::Predicted(_)) || work.tally.is_some();
        let types = if scores { &types[..] } else { &types[..2] };
        input.load(step.pool, step.kernels, &normed[..n * hidden], n, hidden, types);
        store.visit_groups(self.layer, n)?;
        self.select(step, store, input, gate, work)?;
        self.tally(step, store, input, gate, up, work);
        store.await_groups(step.pool)?;
        let width = self.products(step, store, input, gate, up, work)?;
        let gate = &mut gate[..n * width];
        work.counts.active += gate.iter().filter(|v| **v != 0.0).count() as u64;
        work.counts.neurons += (n * inner) as u64;
        self.count(&work.bits[..n * self.words()], n, &mut work.counts);
        self.down(step, store, gate, up, products, work, out)?;
        if let Some(biases) = &self.biases {
            add_bias(out, &biases.down);
        }
        store.leave_groups(step.pool)
    }

    /// Words of a row of bits.
    fn words(&self) -> usize {
        (self.shape.groups() as usize).div_ceil(64)
    }

    /// Counts the groups that rows want.
    fn count(&self, bits: &[u64], rows: usize, counts: &mut Counts) {
        let all = rows as u64 * self.shape.groups() as u64;
        counts.groups += all;
        if self.selection == Selection::All {
            counts.asked += all;
            return;
        }
        let ones = |bits: &[u64]| bits.iter().map(|b| u64::from(b.count_ones())).sum::<u64>();
        let later = bits.get(self.words()..).unwrap_or_default();
        counts.asked += ones(bits);
        counts.followed += ones(later);
        counts.again += bits.iter().zip(later).map(|(before, now)| u64::from((before & now).count_ones())).sum::<u64>();
    }

    /// Counts scores and what fires, if that is wanted and `triggers` (`[n, inner]`) has the exact products.
    fn tally(&self, step: &Step, store: &Store, input: &Activations, triggers: &[f32], scores: &mut [f32], work: &mut NeuronScratch) {
        let Some(tally) = work.tally.as_mut().filter(|_| self.selection == Selection::Exact) else { return };
        self.scores(step, store, input, 0..self.shape.inner as usize, scores);
        tally.add(self.layer, scores, |i| value(self.activation, triggers[i]) != 0.0);
    }

    /// Scores of the neurons `part` by the sketch, `[n, part]`.
    fn scores(&self, step: &Step, store: &Store, input: &Activations, part: Range<usize>, scores: &mut [f32]) {
        let all = store.tensor(self.sketch);
        let bytes = all.bytes.get(part.start * all.row_bytes()..).unwrap_or_default();
        step.kernels.matmul(step.pool, &Matrix { rows: part.len(), bytes, ..all }, input, scores);
        if let Some(bias) = self.trigger_bias() {
            add_bias(scores, &bias[part]);
        }
    }

    /// The bias of the triggers.
    fn trigger_bias(&self) -> Option<&[f32]> {
        self.biases.as_ref().map(|b| if self.shape.up.is_some() { b.gate.as_slice() } else { b.up.as_slice() })
    }

    /// Decides which groups are wanted and has them read. If triggers are in memory, `gate` (`[n, inner]`) holds their products afterwards.
    fn select(&self, step: &Step, store: &mut Store, input: &Activations, gate: &mut [f32], work: &mut NeuronScratch) -> Result<()> {
        let (n, inner) = (step.rows, self.shape.inner as usize);
        let words = self.words();
        work.groups.clear();
        let resident = store.resident() == Resident::Triggers;
        if self.selection == Selection::All {
            work.bits[..n * words].fill(u64::MAX);
            self.collect(0..inner, &work.bits[..n * words], &mut work.groups);
            store.want_groups(self.layer, &work.groups, step.pool)?;
        } else {
            // What decides comes in parts, so that groups of the first are read while the next is computed.
            let row = match self.selection {
                Selection::Predicted(_) => store.tensor(self.sketch).row_bytes(),
                _ => self.shape.trigger_row as usize,
            };
            let parts = if n == 1 && row * inner >= LEAST_PART { PARTS } else { 1 };
            let each = inner.div_ceil(parts).next_multiple_of(self.shape.group as usize);
            for first in (0..inner).step_by(each) {
                let part = first..(first + each).min(inner);
                let out = if parts == 1 { &mut *gate } else { &mut gate[part.clone()] };
                let bits = &mut work.bits[..n * words];
                if let Selection::Predicted(threshold) = self.selection {
                    self.scores(step, store, input, part.clone(), out);
                    self.mark(part.clone(), &gate[..n * inner], bits, &|score| score > threshold);
                } else {
                    self.trigger_products(step, store, input, part.clone(), out);
                    self.mark(part.clone(), &gate[..n * inner], bits, &|x| value(self.activation, x) != 0.0);
                }
                let new = self.collect(part, bits, &mut work.groups);
                store.want_groups(self.layer, &work.groups[new..], step.pool)?;
                store.groups_meanwhile(step.pool)?;
            }
        }
        if resident && self.selection != Selection::Exact {
            self.trigger_products(step, store, input, 0..inner, gate);
        }
        Ok(())
    }

    /// Products of resident triggers and their biases: those of the neurons `part`, into `out` (`[n, part]`).
    fn trigger_products(&self, step: &Step, store: &Store, input: &Activations, part: Range<usize>, out: &mut [f32]) {
        let all = store.triggers(self.layer);
        let first = part.start / all.piece_rows * all.piece_stride;
        let rows = Matrix { rows: part.len(), bytes: all.bytes.get(first..).unwrap_or_default(), ..all };
        step.kernels.matmul(step.pool, &rows, input, out);
        if let Some(bias) = self.trigger_bias() {
            add_bias(out, &bias[part]);
        }
    }

    /// Sets in each row of `bits` those of the groups of `part` that have a value in `values` (`[n, inner]`) which `wants`, and clears the others.
    fn mark(&self, part: Range<usize>, values: &[f32], bits: &mut [u64], wants: &(dyn Fn(f32) -> bool + Sync)) {
        let (inner, group) = (self.shape.inner as usize, self.shape.group as usize);
        let words = self.words();
        for (values, bits) in values.chunks_exact(inner).zip(bits.chunks_exact_mut(words)) {
            for (number, values) in (part.start / group..).zip(values[part.clone()].chunks(group)) {
                let wanted = values.iter().any(|&v| wants(v));
                let (word, bit) = (&mut bits[number / 64], 1 << (number % 64));
                *word = if wanted { *word | bit } else { *word & !bit };
            }
        }
    }

    /// Appends the groups of `part` that any row wants to `groups`; where they begin.
    fn collect(&self, part: Range<usize>, bits: &[u64], groups: &mut Vec<u32>) -> usize {
        let new = groups.len();
        let words = self.words();
        let group = self.shape.group as usize;
        let (first, end) = (part.start / group, part.end.div_ceil(group));
        for word in first / 64..end.div_ceil(64) {
            let mut any = bits.iter().skip(word).step_by(words).fold(0, |all, b| all | b);
            while any != 0 {
                let number = word * 64 + any.trailing_zeros() as usize;
                any &= any - 1;
                if (first..end).contains(&number) {
                    groups.push(number as u32);
                }
            }
        }
        new
    }

    /// The products that down reads, of the neurons of all wanted groups, into `gate` as `[n, width]`; returns their number, `width`.
    fn products(
        &self,
        step: &Step,
        store: &Store,
        input: &Activations,
        gate: &mut [f32],
        up: &mut [f32],
        work: &mut NeuronScratch,
    ) -> Result<usize> {
        let (n, inner, hidden) = (step.rows, self.shape.inner as usize, self.shape.hidden as usize);
        let group = self.shape.group as usize;
        work.neurons.clear();
        work.groups.iter().for_each(|&g| work.neurons.extend(self.shape.neurons(g)));
        let width = work.neurons.len();
        if store.resident() == Resident::Triggers {
            // Rows get shorter in place: no value moves behind one that is still to be read.
            for row in 0..n {
                for (i, &neuron) in work.neurons.iter().enumerate() {
                    gate[row * width + i] = gate[row * inner + neuron as usize];
                }
            }
        } else {
            let mut pieces = recycle(std::mem::take(&mut work.pieces));
            store.group_rows(self.layer, &work.groups, GroupPart::Trigger, &mut pieces)?;
            let rows = Matrix::scattered(self.shape.trigger, width, hidden, group, &pieces);
            step.kernels.matmul(step.pool, &rows, input, &mut gate[..n * width]);
            work.pieces = recycle(pieces);
            if let Some(bias) = self.trigger_bias() {
                for row in gate[..n * width].chunks_exact_mut(width.max(1)) {
                    row.iter_mut().zip(&work.neurons).for_each(|(v, &neuron)| *v += bias[neuron as usize]);
                }
            }
        }
        let gate = &mut gate[..n * width];
        if width == 0 {
            return Ok(0);
        }
        match self.shape.up {
            None => activate_alone(step, self.activation, width, gate),
            Some(qtype) => {
                let up = &mut up[..n * width];
                let mut pieces = recycle(std::mem::take(&mut work.pieces));
                store.group_rows(self.layer, &work.groups, GroupPart::Up, &mut pieces)?;
                step.kernels.matmul(step.pool, &Matrix::scattered(qtype, width, hidden, group, &pieces), input, up);
                work.pieces = recycle(pieces);
                if let Some(biases) = &self.biases {
                    for row in up.chunks_exact_mut(width) {
                        row.iter_mut().zip(&work.neurons).for_each(|(v, &neuron)| *v += biases.up[neuron as usize]);
                    }
                }
                activate(step, self.activation, width, gate, up);
            }
        }
        if n > 1 && matches!(self.selection, Selection::Predicted(_)) {
            // What other rows asked for must not change this one.
            let words = self.words();
            for (row, bits) in gate.chunks_exact_mut(width).zip(work.bits.chunks_exact(words)) {
                for (value, &neuron) in row.iter_mut().zip(&work.neurons) {
                    let number = neuron as usize / group;
                    if bits[number / 64] >> (number % 64) & 1 == 0 {
                        *value = 0.0;
                    }
                }
            }
        }
        cut(step, inner, width, gate);
        Ok(width)
    }

    /// `out = down products`, of `values` (`[n, width]`); `spare` is as long as the arena's part for `[n, inner]`.
    #[allow(clippy::too_many_arguments)]
    fn down(
        &self,
        step: &Step,
        store: &Store,
        values: &[f32],
        spare: &mut [f32],
        products: &mut Activations,
        work: &mut NeuronScratch,
        out: &mut [f32],
    ) -> Result<()> {
        if work.groups.is_empty() {
            out.fill(0.0);
            return Ok(());
        }
        let (width, hidden, group) = (work.neurons.len(), self.shape.hidden as usize, self.shape.group as usize);
        let mut pieces = recycle(std::mem::take(&mut work.pieces));
        store.group_rows(self.layer, &work.groups, GroupPart::Down, &mut pieces)?;
        match self.shape.down_order {
            NeuronDown::Transposed => {
                let w = Matrix::scattered(self.shape.down, width, hidden, group, &pieces);
                work.lanes.sort(&work.neurons);
                step.kernels.matmul_transposed(step.pool, &w, &work.lanes, values, out);
            }
            NeuronDown::Blocks => {
                let cols = self.spread(step, &work.groups, values, spare);
                let n = step.rows;
                let row_bytes = self.shape.down.row_bytes(cols).unwrap_or(0);
                let blocks = &mut work.blocks[..hidden * row_bytes];
                self.gather(step, &work.groups, &pieces, row_bytes, blocks);
                products.load(step.pool, step.kernels, &spare[..n * cols], n, cols, &[self.shape.down]);
                step.kernels.matmul(step.pool, &Matrix::whole(self.shape.down, hidden, cols, blocks), products, out);
            }
        }
        work.pieces = recycle(pieces);
        Ok(())
    }

    /// Neurons of a unit of whole blocks.
    fn unit(&self) -> usize {
        let group = self.shape.group as usize;
        if group.is_multiple_of(UNIT) { group } else { group * UNIT / gcd(group, UNIT) }
    }

    /// The columns of down that are computed with: for each unit that holds a wanted group, in order, the neurons of the unit. Calls `f` with each wanted group's place in
    /// `groups` and its first column; returns the number of columns.
    fn columns(&self, groups: &[u32], mut f: impl FnMut(usize, usize)) -> usize {
        let (unit, inner) = (self.unit(), self.shape.inner as usize);
        let (mut cols, mut open) = (0, usize::MAX);
        for (i, &group) in groups.iter().enumerate() {
            let first = self.shape.neurons(group).start as usize;
            if first / unit != open {
                open = first / unit;
                cols += unit.min(inner - open * unit);
            }
            let unit_length = unit.min(inner - open * unit);
            f(i, cols - unit_length + first - open * unit);
        }
        cols
    }

    /// Products `[n, width]` to the columns of [`NeuronFfn::columns`], with zeros for groups that are not wanted.
    fn spread(&self, step: &Step, groups: &[u32], values: &[f32], to: &mut [f32]) -> usize {
        let cols = self.columns(groups, |_, _| ());
        let width = values.len() / step.rows;
        let to = &mut to[..step.rows * cols];
        to.fill(0.0);
        for (row, to) in values.chunks_exact(width).zip(to.chunks_exact_mut(cols)) {
            let mut rest = row;
            self.columns(groups, |i, at| {
                let (now, later) = rest.split_at(self.shape.neurons(groups[i]).len());
                to[at..at + now.len()].copy_from_slice(now);
                rest = later;
            });
        }
        cols
    }

    /// Blocks of down of the wanted groups, as rows of `row_bytes`; zeros, which every type reads as zero scales, for the others in their units.
    fn gather(&self, step: &Step, groups: &[u32], pieces: &[&[u8]], row_bytes: usize, to: &mut [u8]) {
        let bytes = |values: usize| self.shape.down.row_bytes(values).unwrap_or(0);
        step.pool.split(to, row_bytes, &|row, to, _| {
            to.fill(0);
            self.columns(groups, |i, at| {
                let length = bytes(self.shape.neurons(groups[i]).len());
                to[bytes(at)..bytes(at) + length].copy_from_slice(&pieces[i][row * length..(row + 1) * length]);
            });
        });
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// An empty list with the allocation of a used one.
#[allow(clippy::unnecessary_filter_map)] // a filter would keep the elements' lifetime
fn recycle<'b>(mut list: Vec<&[u8]>) -> Vec<&'b [u8]> {
    list.clear();
    list.into_iter().filter_map(|_| None).collect()
}
