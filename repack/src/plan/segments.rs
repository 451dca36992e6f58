//! Which source rows make up a run.

use super::{Plan, Run, types};
use crate::arch::{Bound, Rows};
use crate::error::{Error, Result};
use crate::source::Checkpoint;
use forebay_format::layout::index::Kind;
use forebay_format::layout::manifest::{ExpertSlice, TensorPlace};
use forebay_format::model::Role;
use forebay_format::{QuantType, Tiling};

/// Whole rows of one source tensor that lie back to back in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Position in [`Checkpoint::tensors`].
    pub tensor: usize,
    /// First byte in the tensor's file.
    pub source: u64,
    /// First byte in the run.
    pub dest: u64,
    /// Rows.
    pub rows: u64,
    /// Bytes of a row in the source.
    pub source_row: u64,
    /// Bytes of a row in the pack.
    pub dest_row: u64,
    /// Type in the source.
    pub from: QuantType,
    /// Type in the pack.
    pub to: QuantType,
    /// A sketch: made of rows that are elsewhere in the pack too.
    pub sketch: bool,
    /// Order of the bytes of rows in the pack.
    pub tiling: Tiling,
}

impl Segment {
    /// End in the run.
    pub fn dest_end(&self) -> u64 {
        self.dest + self.rows * self.dest_row
    }

    /// Row that byte `at` of the run is of.
    pub fn row_at(&self, at: u64) -> u64 {
        self.tiling.row_of_byte(self.dest_row, at - self.dest)
    }
}

impl Plan {
    /// Segments of a run, by destination. What lies between them is zero, but for a group of neurons, which also has [`Plan::columns`].
    pub fn segments(&self, checkpoint: &Checkpoint, run: &Run) -> Result<Vec<Segment>> {
        let (layer, ordinal) = (run.id.layer as usize, run.id.ordinal as usize);
        let b = &self.binding;
        let found = match run.id.kind {
            Kind::Embedding => bound(checkpoint, &b.embedding, &self.manifest.embedding),
            Kind::Head => bound(checkpoint, &b.head, &self.manifest.head),
            Kind::Trunk => match (b.trunk.get(layer), self.manifest.trunk.get(layer)) {
                (Some(b), Some(places)) => bound(checkpoint, b, places),
                _ => None,
            },
            Kind::Expert => self.expert(checkpoint, run),
            Kind::Carried => b.carried.get(ordinal).and_then(|&tensor| {
                let t = checkpoint.tensors.get(tensor)?;
                let q = types::weight_type(t).ok()?;
                let rows = Rows { tensor, first: 0, count: t.rows() };
                Some(vec![segment(checkpoint, &rows, rows.count, t.cols(), 0, q)?])
            }),
            Kind::NeuronGroup => self.group_rows(checkpoint, run),
        };
        // `Plan::new` has checked every size that is computed here.
        found.ok_or_else(|| Error::Usage(format!("the plan does not fit the checkpoint at {}", run.id)))
    }

    fn expert(&self, checkpoint: &Checkpoint, run: &Run) -> Option<Vec<Segment>> {
        let layer = run.id.layer as usize;
        let expert = self.binding.experts.get(layer)?.get(run.id.ordinal as usize)?;
        let place = self.manifest.experts.get(layer)?.as_ref()?;
        let mut out = Vec::with_capacity(2 * place.slices.len());
        let mut part = |rows: &Rows, first: u32, count: u32, dest: u64, (to, tiling): (QuantType, Tiling)| {
            let picked = Rows { tensor: rows.tensor, first: rows.first + first as u64, count: count as u64 };
            let cols = checkpoint.tensors.get(rows.tensor)?.cols();
            out.push(Segment { tiling, ..segment(checkpoint, &picked, count as u64, cols, dest, to)? });
            Some(())
        };
        let (gate, up, down) = ((place.gate, place.tiling), (place.up, place.tiling), (place.down, place.down_tiling));
        for (slice, range) in place.slices.iter().zip(self.layout(run).slice_ranges()) {
            match *slice {
                ExpertSlice::GateUp { first_row, rows, up_offset } => {
                    part(&expert.gate, first_row, rows, range.start, gate)?;
                    part(&expert.up, first_row, rows, range.start + up_offset, up)?;
                }
                ExpertSlice::Down { first_row, rows } => part(&expert.down, first_row, rows, range.start, down)?,
            }
        }
        Some(out)
    }
}

fn bound(checkpoint: &Checkpoint, bound: &[Bound], places: &[TensorPlace]) -> Option<Vec<Segment>> {
    let one = |(b, p): (&Bound, &TensorPlace)| {
        let s = segment(checkpoint, &b.source, b.rows as u64, b.cols as u64, p.offset, p.qtype)?;
        Some(Segment { sketch: b.role == Role::NeuronSketch, tiling: p.tiling, ..s })
    };
    bound.iter().zip(places).map(one).collect()
}

/// `rows` seen as `count` rows of `cols` values.
pub(super) fn segment(checkpoint: &Checkpoint, rows: &Rows, count: u64, cols: u64, dest: u64, to: QuantType) -> Option<Segment> {
    let tensor = checkpoint.tensors.get(rows.tensor)?;
    let from = types::weight_type(tensor).ok()?;
    let tensor_row = from.row_bytes(usize::try_from(tensor.cols()).ok()?)? as u64;
    let source = tensor.range.start.checked_add(rows.first.checked_mul(tensor_row)?)?;
    let cols = usize::try_from(cols).ok()?;
    let (source_row, dest_row) = (from.row_bytes(cols)? as u64, to.row_bytes(cols)? as u64);
    Some(Segment {
        tensor: rows.tensor,
        source,
        dest,
        rows: count,
        source_row,
        dest_row,
        from,
        to,
        sketch: false,
        tiling: Tiling::RowMajor,
    })
}
