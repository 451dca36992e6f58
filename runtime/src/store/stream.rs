//! Layers that do not fit: a ring of spans through which their runs pass, in the order in which they are computed.
//!
//! While a layer is computed the next ones are being read, past the end of the step: the next step begins with the first layer again. A cache would not
//! help here: over a cyclic walk longer than itself the least recently used entry is always the next one wanted.

use std::time::Instant;

use forebay_format::BundleId;

use super::reader::Fetch;
use super::{NONE, Store, lost};
use crate::budget::MemoryPlan;
use crate::error::{Error, Result};
use crate::io::Urgency;
use crate::kernels::Pool;

/// A span of the ring.
struct Cell {
    /// Layer that is in it or on its way, or [`NONE`].
    layer: u32,
    /// The fetch on its way, or [`NONE`].
    fetch: u32,
    /// Why the layer could not be read. Told when it is wanted.
    failed: Option<Error>,
}

/// Which run of the trunk is where.
pub(super) struct Stream {
    /// Span of each run; [`NONE`] for those that are not in memory.
    span_of: Vec<u32>,
    /// Layers that pass through the ring, ascending.
    layers: Vec<u32>,
    ring: Vec<Cell>,
    /// Span of the first cell.
    first: usize,
}

impl Stream {
    /// Runs have the spans of their numbers, and the ring's spans follow.
    pub fn new(runs: usize, plan: &MemoryPlan) -> Stream {
        let cell = || Cell { layer: NONE, fetch: NONE, failed: None };
        let mut span_of: Vec<u32> = (0..runs as u32).collect();
        for &layer in &plan.streamed {
            if let Some(span) = span_of.get_mut(run(layer)) {
                *span = NONE;
            }
        }
        let ring = std::iter::repeat_with(cell).take(if plan.streamed.is_empty() { 0 } else { plan.ring_spans.max(1) as usize });
        Stream { span_of, layers: plan.streamed.clone(), ring: ring.collect(), first: runs }
    }

    /// Span of a run, if all of it is in memory.
    pub fn span(&self, run: usize) -> Option<usize> {
        self.span_of.get(run).filter(|&&s| s != NONE).map(|&s| s as usize)
    }

    /// Spans of the ring.
    pub fn spans(&self) -> usize {
        self.ring.len()
    }

    /// The layer that is `distance` places behind the first streamed one at or after `layer`, around the cycle.
    fn ahead(&self, layer: u32, distance: usize) -> Option<u32> {
        let at = self.layers.partition_point(|&l| l < layer) + distance;
        self.layers.get(at.checked_rem(self.layers.len())?).copied()
    }

    /// Empties the cells that hold none of the layers that come next, as far as nothing is on its way to them.
    fn clear_behind(&mut self, layer: u32) {
        for i in 0..self.ring.len() {
            let held = self.ring[i].layer;
            let next = (0..self.ring.len()).any(|d| self.ahead(layer, d) == Some(held));
            if held != NONE && !next && self.ring[i].fetch == NONE {
                self.clear(i);
            }
        }
    }

    fn clear(&mut self, cell: usize) -> Option<Error> {
        let cell = self.ring.get_mut(cell)?;
        if let Some(span) = self.span_of.get_mut(run(cell.layer)) {
            *span = NONE;
        }
        cell.layer = NONE;
        cell.failed.take()
    }

    /// The error that kept a layer away; it is read again when it is wanted again.
    fn take_failure(&mut self, layer: u32) -> Option<Error> {
        let cell = self.ring.iter().position(|c| c.layer == layer && c.fetch == NONE && c.failed.is_some())?;
        self.clear(cell)
    }

    /// Notes what arrived.
    pub fn take_in(&mut self, fetch: Fetch, number: u32, result: Result<()>, last: bool) {
        let cell = fetch.span.checked_sub(self.first).and_then(|i| self.ring.get_mut(i));
        let Some(cell) = cell.filter(|c| c.fetch == number) else { return };
        if let Err(e) = result {
            cell.failed.get_or_insert(e);
        }
        if last {
            cell.fetch = NONE;
            if let Some(span) = self.span_of.get_mut(run(cell.layer)).filter(|_| cell.failed.is_none()) {
                *span = fetch.span as u32;
            }
        }
    }
}

/// Number of a layer's run, behind the embedding.
fn run(layer: u32) -> usize {
    (layer as usize).saturating_add(1)
}

impl Store {
    /// A layer is about to be computed: waits until its run is there, and has the next ones of the cycle read into what is free of the ring. The number
    /// after the last layer stands for the head, during which the first layers of the next step are read.
    ///
    /// Errors: as [`Store::advance`]; [`Error::Io`] or [`Error::Format`] naming the layer whose run cannot be read. It is tried again when it is wanted again.
    pub fn enter(&mut self, layer: u32, pool: &Pool) -> Result<()> {
        if self.stream.layers.is_empty() {
            return Ok(());
        }
        loop {
            let start = Instant::now();
            self.read_on(layer)?;
            // Handing requests to the kernel waits when the drive's own queue is full.
            self.stall += start.elapsed();
            if self.has_layer(layer) {
                return Ok(());
            }
            if let Some(error) = self.stream.take_failure(layer) {
                return Err(error);
            }
            if !self.advance(pool, true)? {
                return Err(lost(&self.pack, BundleId::trunk(layer)));
            }
        }
    }

    /// The run of a layer is in memory. True for the number after the last layer.
    pub fn has_layer(&self, layer: u32) -> bool {
        self.stream.span(run(layer)).is_some() || run(layer) >= self.stream.span_of.len()
    }

    /// Where layers are streamed, takes in what has arrived and has more started, without waiting. To be called now and then while computing long.
    ///
    /// Errors: as [`Store::advance`].
    pub fn keep_reading(&mut self, pool: &Pool) -> Result<()> {
        if !self.stream.layers.is_empty() {
            while self.advance(pool, false)? {}
        }
        Ok(())
    }

    fn read_on(&mut self, layer: u32) -> Result<()> {
        self.stream.clear_behind(layer);
        for distance in 0..self.stream.ring.len().min(self.stream.layers.len()) {
            let Some(next) = self.stream.ahead(layer, distance) else { break };
            if self.stream.ring.iter().any(|c| c.layer == next) {
                continue;
            }
            let Some(free) = self.stream.ring.iter().position(|c| c.layer == NONE) else { break };
            let id = BundleId::trunk(next);
            let record = self.pack.index.get(id).map_err(|error| Error::Format { file: self.pack.path.clone(), error })?;
            let span = self.stream.first + free;
            let fetch = self.io.read_run(&self.pack, &mut self.trunk, span, record, Urgency::Stream);
            let fetch = fetch.ok_or_else(|| lost(&self.pack, id))?;
            self.stream.ring[free] = Cell { layer: next, fetch, failed: None };
        }
        self.start()
    }
}

#[cfg(test)]
mod tests;
