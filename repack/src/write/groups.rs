//! Groups of neurons from the source: many at a time, because a group's part of down is a few columns of a matrix that lies row by row.

use super::fill::{Origin, Scratch};
use crate::encode;
use crate::error::Result;
use crate::plan::{Columns, Plan, Run};
use forebay_format::layout::manifest::NeuronDown;
use rustix::fs::Advice;

/// Rows of down that are looked at together: stored rows then grow by whole cache lines, and what was read of them stays in the second-level cache.
const TILE_ROWS: u64 = 64;

impl Origin<'_> {
    /// Fills `out` with groups of one layer that lie back to back. Errors as [`Origin::fill`].
    pub fn fill_groups(&self, plan: &Plan, runs: &[Run], out: &mut [u8], scratch: &mut Scratch) -> Result<()> {
        out.fill(0);
        let Some(first) = runs.first() else { return Ok(()) };
        let mut columns: Vec<(u64, Columns)> = Vec::with_capacity(runs.len());
        for run in runs {
            let base = run.offset - first.offset;
            for s in plan.segments(self.checkpoint(), run)? {
                let at = base + s.dest;
                let part = &mut out[at as usize..(base + s.dest_end()) as usize];
                self.part(&s, 0..s.rows * s.dest_row, part, scratch)?;
            }
            columns.extend(plan.columns(self.checkpoint(), run).map(|c| (base + c.dest, c)));
        }
        let (Some((_, c)), Some((_, last))) = (columns.first(), columns.last()) else { return Ok(()) };
        let bytes = |values: u64| values / c.from.block_len() as u64 * c.from.block_bytes() as u64;
        let (start, width) = (bytes(c.first), bytes(last.first + last.count - c.first) as usize);
        let Scratch { source, values, encoded, .. } = scratch;
        source.resize(width, 0);
        values.resize(width / c.from.block_bytes() * c.from.block_len(), 0.0);
        store_columns(&columns, out, encoded, |row, out| {
            self.read(c.tensor, source, c.source + row * c.source_row + start)?;
            if c.from.check_finite(source).is_some() {
                return Err(self.not_finite(c.tensor, row, None, c.to));
            }
            if c.from == c.to {
                out.copy_from_slice(source);
                return Ok(());
            }
            c.from.decode_row(source, values);
            let failed = |e: encode::NotFinite| self.not_finite(c.tensor, row, Some(c.first as usize + e.column), c.to);
            encode::encode_row(c.to, values, out).map_err(failed)
        })?;
        if bytes(last.first + last.count) == c.source_row {
            // Columns of a matrix share its pages: they are given back with the last of them.
            self.advise_range(c.tensor, c.source..c.source + c.rows * c.source_row, Advice::DontNeed);
        }
        Ok(())
    }
}

/// Stores columns of down at their places in `out`: `row` gives a row of the matrix, from the first of the columns to the last, in the pack's type. `tile` is room.
pub(crate) fn store_columns(
    columns: &[(u64, Columns)],
    out: &mut [u8],
    tile: &mut Vec<u8>,
    mut row: impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<()> {
    let (Some((_, c)), Some((_, last))) = (columns.first(), columns.last()) else { return Ok(()) };
    let bytes = |values: u64| values as usize / c.to.block_len() * c.to.block_bytes();
    let stride = bytes(last.first + last.count - c.first);
    for done in (0..c.rows).step_by(TILE_ROWS as usize) {
        let rows = (c.rows - done).min(TILE_ROWS);
        tile.resize(stride * rows as usize, 0);
        for (r, out) in (done..).zip(tile.chunks_exact_mut(stride)) {
            row(r, out)?;
        }
        for (at, group) in columns {
            scatter(group, &tile[bytes(group.first - c.first)..], stride, bytes(group.count), done, rows, &mut out[*at as usize..]);
        }
    }
    Ok(())
}

/// Stores rows `done .. done + rows` of a group's columns: `tile` has a row every `stride` bytes, of which the first `length` are the group's.
fn scatter(c: &Columns, tile: &[u8], stride: usize, length: usize, done: u64, rows: u64, out: &mut [u8]) {
    let size = c.to.block_bytes();
    let (done, rows, dest_row) = (done as usize, rows as usize, c.dest_row as usize);
    match c.order {
        NeuronDown::Blocks => {
            for (tile, out) in tile.chunks(stride).zip(out[done * dest_row..].chunks_exact_mut(dest_row)).take(rows) {
                out.copy_from_slice(&tile[..length]);
            }
        }
        NeuronDown::Transposed => {
            for (neuron, out) in out.chunks_mut(dest_row).take(c.count as usize).enumerate() {
                let out = &mut out[done * size..(done + rows) * size];
                match size {
                    2 => column::<2>(&tile[neuron * size..], stride, out),
                    _ => column::<4>(&tile[neuron * size..], stride, out),
                }
            }
        }
    }
}

/// A value of `N` bytes every `stride` bytes.
fn column<const N: usize>(from: &[u8], stride: usize, out: &mut [u8]) {
    for (value, row) in out.as_chunks_mut::<N>().0.iter_mut().zip(from.chunks(stride)) {
        if let Some(first) = row.first_chunk::<N>() {
            *value = *first;
        }
    }
}
