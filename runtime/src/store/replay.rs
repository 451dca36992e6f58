//! What a benchmark asks of a store: which reads a run made, the same reads without computing, and computing without reads.

use std::ops::Range;
use std::time::{Duration, Instant};

use forebay_format::BundleId;

use super::{NONE, Slot, Store};
use crate::error::Result;
use crate::io::Urgency;
use crate::kernels::Pool;
use crate::window::policy::{Key, Shape};

/// Reads that were queued together, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadLog {
    /// Layer and expert.
    experts: Vec<(u32, u32)>,
    /// Ends of the batches.
    ends: Vec<usize>,
}

impl ReadLog {
    /// Experts read.
    pub fn len(&self) -> usize {
        self.experts.len()
    }

    /// Nothing was read.
    pub fn is_empty(&self) -> bool {
        self.experts.is_empty()
    }

    fn batches(&self) -> impl Iterator<Item = &[(u32, u32)]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).filter_map(|(start, &end)| self.experts.get(start..end))
    }
}

/// State of a benchmark; nothing of it is on in normal use.
#[derive(Default)]
pub(super) struct Bench {
    log: Option<ReadLog>,
    pretence: Option<Pretence>,
}

/// Each expert is said to be in some slot.
struct Pretence {
    shape: Shape,
    slot_of: Vec<u32>,
}

impl Bench {
    /// Adds a batch to the log, if one is kept.
    pub fn record(&mut self, layer: u32, experts: impl Iterator<Item = u32>) {
        if let Some(log) = &mut self.log {
            log.experts.extend(experts.map(|e| (layer, e)));
            log.ends.push(log.experts.len());
        }
    }

    pub fn pretends(&self) -> bool {
        self.pretence.is_some()
    }

    /// The slot that stands for an expert.
    pub fn pretended(&self, layer: u32, expert: u32) -> Option<u32> {
        let pretence = self.pretence.as_ref()?;
        pretence.slot_of.get(pretence.shape.key(layer, expert)? as usize).copied()
    }
}

impl Store {
    /// Keeps a log of the reads from here on, if there was none, and returns the log so far.
    pub fn log_reads(&mut self) -> ReadLog {
        self.bench.log.replace(ReadLog::default()).unwrap_or_default()
    }

    /// From here on every expert is said to be in the window: its own slot if it is, or another expert's, of the same layer if possible. Results are wrong,
    /// but the work is that of a window which holds everything. `false` ends it. With an empty window it has no effect.
    pub fn pretend_resident(&mut self, on: bool) {
        let shape = self.state.shape().clone();
        let mut by_layer: Vec<Vec<u32>> = vec![Vec::new(); shape.layers()];
        let mut slot_of = vec![NONE; shape.keys()];
        for (layer, expert, slot) in self.state.held() {
            if let (Some(list), Some(key)) = (by_layer.get_mut(layer as usize), shape.key(layer, expert))
                && self.slots[slot as usize].fetch == NONE
            {
                list.push(slot);
                slot_of[key as usize] = slot;
            }
        }
        let all: Vec<u32> = by_layer.iter().flatten().copied().collect();
        for layer in 0..shape.layers() as u32 {
            let Range::<Key> { start, end } = shape.range(layer);
            let own = &by_layer[layer as usize];
            let stand_ins = if own.is_empty() { &all } else { own };
            let missing = (start..end).filter(|&k| slot_of[k as usize] == NONE).collect::<Vec<_>>();
            for (key, &slot) in missing.into_iter().zip(stand_ins.iter().cycle()) {
                slot_of[key as usize] = slot;
            }
        }
        self.bench.pretence = (on && !all.is_empty()).then_some(Pretence { shape, slot_of });
    }

    /// Forgets all experts and what the policy has learned, so that the next run starts cold.
    ///
    /// Errors: those of reads that were still on their way.
    pub fn clear_window(&mut self, pool: &Pool) -> Result<()> {
        self.end_warm_start()?;
        while self.advance(pool, true)? {}
        let held: Vec<_> = self.state.held().collect();
        held.into_iter().for_each(|(layer, expert, _)| self.state.forget(layer, expert));
        self.state.clear_staging();
        self.state.relearn();
        self.clear_groups(pool)
    }

    /// Reads the batches of `log` again, each as one, the next when the last is there, as a run does whose computing takes no time. Time taken and
    /// bytes read. The window is empty afterwards.
    ///
    /// Errors: as [`Store::advance`].
    pub fn replay(&mut self, log: &ReadLog, pool: &Pool) -> Result<(Duration, u64)> {
        self.clear_window(pool)?;
        let before = self.io.queue.stats().bytes;
        let start = Instant::now();
        let check = std::mem::replace(&mut self.io.check, false);
        let result = log.batches().try_for_each(|batch| self.replay_batch(batch, pool));
        self.io.check = check;
        result?;
        Ok((start.elapsed(), self.io.queue.stats().bytes - before))
    }

    fn replay_batch(&mut self, batch: &[(u32, u32)], pool: &Pool) -> Result<()> {
        for part in batch.chunks(self.slots.len().max(1)) {
            for (slot, &(layer, expert)) in (0u32..).zip(part) {
                self.fetch(BundleId::expert(layer, expert), slot, Urgency::Demand)?;
            }
            while self.io.collect(&self.pack, pool, true)? {
                while let Some(arrival) = self.io.next(&self.pack) {
                    self.window.restore(arrival.lease);
                    arrival.result?;
                    if arrival.last {
                        self.slots[arrival.fetch.span] = Slot { arrived: 0, fetch: NONE, warm: false, prepared: false };
                    }
                }
            }
        }
        Ok(())
    }
}
