//! Cutting a dense feed-forward network into groups of neurons.

use super::segments::{Segment, segment};
use super::{Plan, Planner, Run, Runs, types};
use crate::arch::{Bound, Rows};
use crate::encode::WeightClass;
use crate::error::{Error, Result};
use crate::source::Checkpoint;
use forebay_format::QuantType;
use forebay_format::layout::align_up;
use forebay_format::layout::index::BundleId;
use forebay_format::layout::manifest::{NeuronDown, NeuronPlace};
use forebay_format::model::{Ffn, GatedFfn, Role};
use forebay_format::neurons::{GroupShape, MAX_GROUP_BYTES};
use forebay_format::shapes::in_group;
use forebay_format::validate_pack::TENSOR_ALIGNMENT;

/// Whether dense networks whose neurons may be exactly zero are cut into groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neurons {
    /// Wherever it can be done exactly.
    Auto,
    /// Never: they stay in the trunk runs.
    Off,
}

/// A group may be padded by this share of its bytes (1/50 = 2%). With less allowed, rows of 5,760 bytes (a width of 2,880 in 16 bits) would need groups of 32.
const MAX_WASTE_SHARE: u64 = 50;
/// Not padded at all is better, as long as it does not take longer groups than this.
const FULL_PAGES_BYTES: u64 = 64 << 10;

/// The network of a layer whose neurons are in groups.
#[derive(Clone, Debug)]
pub(super) struct BoundNeurons {
    gate: Option<Rows>,
    up: Rows,
    down: Rows,
    shape: GroupShape,
}

impl BoundNeurons {
    /// Rows that decide whether a neuron fires.
    fn trigger(&self) -> &Rows {
        self.gate.as_ref().unwrap_or(&self.up)
    }
}

/// Columns of a down matrix that lie in one or several groups back to back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Position in [`Checkpoint::tensors`].
    pub tensor: usize,
    /// First byte of the matrix in its file.
    pub source: u64,
    /// Bytes of a row of the matrix.
    pub source_row: u64,
    /// Rows of the matrix.
    pub rows: u64,
    /// First column, the number of a neuron.
    pub first: u64,
    /// Columns.
    pub count: u64,
    /// Type in the source.
    pub from: QuantType,
    /// Type in the pack.
    pub to: QuantType,
    /// How they are stored.
    pub order: NeuronDown,
    /// First byte in the run.
    pub dest: u64,
    /// Bytes of a stored row.
    pub dest_row: u64,
}

impl Columns {
    /// Row and column of the matrix that byte `at` of the run belongs to (the first column of its block); `None` if it is none of theirs.
    pub fn at(&self, at: u64) -> Option<(u64, u64)> {
        let (block, values) = (self.to.block_bytes() as u64, self.to.block_len() as u64);
        let at = at.checked_sub(self.dest)?;
        let (stored, value) = (at.checked_div(self.dest_row)?, at % self.dest_row / block * values);
        let (row, column) = match self.order {
            NeuronDown::Transposed => (value, stored),
            NeuronDown::Blocks => (stored, value),
        };
        (row < self.rows && column < self.count).then_some((row, self.first + column))
    }
}

impl Planner<'_> {
    /// The network of a layer cut into groups, and its place; `None` where it stays in the trunk run. A layer that could be cut but for its size is named in `remarks`.
    pub(super) fn cut(
        &self,
        layer: u32,
        bound: &[Bound],
        ffn: &Ffn,
        hidden: u32,
        remarks: &mut Vec<String>,
    ) -> Result<Option<(BoundNeurons, NeuronPlace)>> {
        let Ffn::Dense(ffn) = ffn else { return Ok(None) };
        let of = |role: Role| bound.iter().find(|b| b.role == role);
        let (Some(up), Some(down), true) = (of(Role::FfnUp), of(Role::FfnDown), ffn.activation.is_sparse()) else { return Ok(None) };
        let gate = of(Role::FfnGate);
        let stored = |b: &Bound| {
            let tensor = self.check_rows(&b.source, b.rows as u64, b.cols as u64)?;
            self.quantize.stored(tensor, WeightClass::of(b.role, layer as usize, self.layers, self.tied), b.cols)
        };
        let (gate_type, up_type, down_type) = (gate.map(stored).transpose()?, stored(up)?, stored(down)?);
        let name = |b: &Bound| Ok::<_, Error>(self.tensor(b.source.tensor)?.name.clone());
        let source = gate.into_iter().chain([up, down]).map(name).collect::<Result<Vec<_>>>()?;
        let place = |group: u32| {
            let down_order = if down_type.is_float() { NeuronDown::Transposed } else { NeuronDown::Blocks };
            let mut place =
                NeuronPlace { group, gate: gate_type, up: up_type, down: down_type, down_order, down_offset: 0, source: Vec::new() };
            if gate_type.is_some() {
                let rows = up_type.row_bytes(hidden as usize)?.checked_mul(group as usize)?;
                place.down_offset = align_up(rows as u64, TENSOR_ALIGNMENT)?;
            }
            Some(place)
        };
        let unit = if down_type.is_float() { 1 } else { down_type.block_len() as u32 };
        let Some((mut place, shape)) = best(ffn, hidden, unit, place) else {
            remarks.push(format!("layer {layer}: stays dense, a group of {unit} neurons is longer than {MAX_GROUP_BYTES} bytes"));
            return Ok(None);
        };
        place.source = source;
        Ok(Some((BoundNeurons { gate: gate.map(|b| b.source), up: up.source, down: down.source, shape }, place)))
    }

    /// Lays out the groups of a layer.
    pub(super) fn groups(&self, runs: &mut Runs, layer: u32, neurons: &BoundNeurons) -> Result<()> {
        let shape = &neurons.shape;
        for ordinal in 0..shape.groups() {
            let used = shape.used(shape.neurons(ordinal).len() as u32);
            // A group is at most `MAX_GROUP_BYTES`: nothing overflows.
            let slices = used.iter().map(|u| u.next_multiple_of(runs.alignment)).collect();
            runs.push(BundleId::neurons(layer, ordinal), used.iter().sum(), slices, 1)?;
        }
        Ok(())
    }
}

/// The smallest group that fills its pages, unless it is long; else the smallest that wastes little, or else the one that wastes least.
fn best(ffn: &GatedFfn, hidden: u32, unit: u32, place: impl Fn(u32) -> Option<NeuronPlace>) -> Option<(NeuronPlace, GroupShape)> {
    let mut found: Option<(u64, u64, NeuronPlace, GroupShape)> = None;
    for group in (unit..).step_by(unit as usize).map(|n| n.min(ffn.inner)) {
        let Some((place, shape)) = place(group).and_then(|p| GroupShape::new(&p, ffn, hidden).ok().map(|s| (p, s))) else { break };
        let used = shape.used(group);
        let bytes: u64 = used.iter().sum();
        let padded: u64 = used.iter().map(|u| u.next_multiple_of(super::DEFAULT_ALIGNMENT as u64)).sum();
        let little = found.as_ref().is_some_and(|(waste, bytes, ..)| waste * MAX_WASTE_SHARE <= *bytes);
        if padded > if little { FULL_PAGES_BYTES } else { MAX_GROUP_BYTES } {
            break;
        }
        let waste = padded - bytes;
        // Shares as fractions: bytes are below 2^23, so the products fit.
        if waste == 0 || found.as_ref().is_none_or(|(w, b, ..)| !little && waste * b < w * bytes) {
            found = Some((waste, bytes, place, shape));
        }
        if waste == 0 || group == ffn.inner {
            break;
        }
    }
    found.map(|(_, _, place, shape)| (place, shape))
}

/// What stays of a trunk when its neurons are in groups: everything else, and the sketch, made of the trigger rows.
pub(super) fn beside(bound: &[Bound], neurons: &BoundNeurons) -> Vec<Bound> {
    let sketch = Bound { role: Role::NeuronSketch, source: *neurons.trigger(), rows: neurons.shape.inner, cols: neurons.shape.hidden };
    bound.iter().filter(|b| !in_group(b.role)).cloned().chain([sketch]).collect()
}

impl Plan {
    fn neurons(&self, run: &Run) -> Option<&BoundNeurons> {
        self.binding.neurons.get(run.id.layer as usize)?.as_ref()
    }

    /// Trigger rows of a group, and up rows beside a gate.
    pub(super) fn group_rows(&self, checkpoint: &Checkpoint, run: &Run) -> Option<Vec<Segment>> {
        let (n, shape) = self.neurons(run).map(|n| (n, &n.shape))?;
        let neurons = shape.neurons(run.id.ordinal);
        let part = |rows: &Rows, dest: u64, to: QuantType| {
            let count = neurons.len() as u64;
            let picked = Rows { tensor: rows.tensor, first: rows.first + neurons.start as u64, count };
            segment(checkpoint, &picked, count, shape.hidden as u64, dest, to)
        };
        let trigger = part(n.trigger(), 0, shape.trigger)?;
        let up = shape.up.map(|to| part(&n.up, self.layout(run).slices.first().copied()?, to));
        match up {
            None => Some(vec![trigger]),
            Some(up) => Some(vec![trigger, up?]),
        }
    }

    /// A group's part of down; `None` for a run that is not a group of neurons.
    pub fn columns(&self, checkpoint: &Checkpoint, run: &Run) -> Option<Columns> {
        let (n, shape) = self.neurons(run).map(|n| (n, &n.shape))?;
        let tensor = checkpoint.tensors.get(n.down.tensor)?;
        let from = types::weight_type(tensor).ok()?;
        let neurons = shape.neurons(run.id.ordinal);
        let count = neurons.len() as u32;
        Some(Columns {
            tensor: n.down.tensor,
            source: tensor.range.start.checked_add(n.down.first.checked_mul(from.row_bytes(shape.inner as usize)? as u64)?)?,
            source_row: from.row_bytes(shape.inner as usize)? as u64,
            rows: shape.hidden as u64,
            first: neurons.start as u64,
            count: count as u64,
            from,
            to: shape.down,
            order: shape.down_order,
            dest: self.layout(run).slices.first()?.checked_add(shape.down_offset)?,
            dest_row: shape.down_row(count),
        })
    }
}
