//! Guesses: what is read before it is sure that somebody wants it.

use forebay_format::BundleId;

use super::{DECODE_ROWS, NONE, Schedule, Store};
use crate::error::Result;
use crate::io::{Urgency, Verdict};
use crate::window::plan;

impl Store {
    /// There is room for guesses, and reading them is not pointless.
    pub fn looks_ahead(&self) -> bool {
        self.schedule == Schedule::Ahead && self.state.stages() && !self.bench.pretends()
    }

    /// Reads experts of a layer that will be wanted soon, as far as anybody can tell, the likeliest first: into slots of their own, so that
    /// a wrong guess evicts nothing, and only while nothing that is wanted for sure waits to be read. What was guessed for the layer before, is not any more
    /// and has not been started, is given up: nearer guesses are better ones.
    pub fn look_ahead(&mut self, layer: u32, experts: impl Iterator<Item = u32> + Clone) -> Result<()> {
        let state = &self.state;
        self.io.settle(|span| match state.guessed(span as u32) {
            Some((guessed, expert)) if guessed == layer && !experts.clone().any(|e| e == expert) => Verdict::GiveUp,
            _ => Verdict::Keep,
        });
        self.take_back();
        for expert in experts {
            let slots = &self.slots;
            let idle = |slot: u32| slots.get(slot as usize).is_some_and(|s| s.fetch == NONE);
            if let Some(slot) = self.state.stage(layer, expert, idle) {
                self.fetch(BundleId::expert(layer, expert), slot, Urgency::Ahead)?;
                self.guesses += 1;
            }
        }
        self.start()
    }

    /// A step of so many rows is one for [`Store::prepare`].
    pub fn prepares(&self, rows: usize) -> bool {
        // What is prepared and what is wanted after all must have room beside each other.
        rows > DECODE_ROWS && 2 * self.prompt_share() <= self.capacity()
    }

    /// Reads experts of the next layer for a prompt, of which most will be wanted: into the prompt's own part of the window, while a mixer runs.
    /// A wrong guess costs its reading only.
    pub fn prepare(&mut self, layer: u32, experts: impl Iterator<Item = u32>) -> Result<()> {
        if self.warming > 0 {
            return Ok(());
        }
        let mut list = std::mem::take(&mut self.guessed);
        list.clear();
        list.extend(experts.take(self.prompt_share()));
        let planned = plan(&self.state, layer, &list, self.purpose, false, &mut self.read_plan);
        self.guessed = list;
        if planned.is_err() {
            // Whoever wants them asks for them.
            return Ok(());
        }
        self.state.apply(&self.read_plan);
        self.settle();
        self.read_misses(layer)?;
        for i in 0..self.read_plan.misses.len() {
            let miss = self.read_plan.misses[i];
            self.guesses += u64::from(!miss.staged);
            if let Some(slot) = self.slots.get_mut(miss.slot as usize).filter(|s| s.fetch != NONE) {
                slot.prepared = true;
                // Nobody may have the slot while the drive writes to it.
                self.read_plan.pin(miss.slot);
            }
        }
        Ok(())
    }

    /// Guesses that turned out right become demands; of the others, what has not been started is given up.
    pub(super) fn settle(&mut self) {
        let (plan, slots, state) = (&self.read_plan, &self.slots, &self.state);
        self.io.settle(|span| match slots.get(span) {
            _ if plan.asks_for(span as u32) => Verdict::Demand,
            Some(slot) if slot.warm => Verdict::Keep,
            // A guess for a layer that is still to come.
            _ if state.guessed(span as u32).is_some_and(|(layer, _)| layer != plan.layer()) => Verdict::Keep,
            _ => Verdict::GiveUp,
        });
        self.take_back();
    }

    /// The memory of what was given up, and its slots.
    fn take_back(&mut self) {
        while let Some((fetch, last, lease)) = self.io.next_dropped() {
            self.window.restore(lease);
            self.state.unstage(fetch.span as u32);
            if let Some(slot) = self.slots.get_mut(fetch.span).filter(|_| last) {
                slot.fetch = NONE;
            }
        }
    }
}
