//! Phases of a run, measured.

use crate::engine::{Engine, Wanted};
use crate::error::Result;
use crate::ffn::neurons::Counts;
use crate::io::Histogram;
use crate::store::{IoStats, ReadLog};
use std::time::{Duration, Instant};

/// What a phase took.
#[derive(Clone, Debug, Default)]
pub struct Phase {
    /// Tokens fed.
    pub tokens: usize,
    /// Time for all of them.
    pub time: Duration,
    /// Time of each step of one token, in order; empty for a prompt.
    pub token_times: Vec<Duration>,
    /// Bytes read.
    pub bytes: u64,
    /// Requests to the kernel.
    pub requests: u64,
    /// Experts that were in the window.
    pub hits: u64,
    /// Experts that were not.
    pub misses: u64,
    /// Experts read on a guess that the next layer will want them.
    pub guesses: u64,
    /// Guesses that were right.
    pub guesses_used: u64,
    /// Time spent waiting for experts.
    pub stall: Duration,
    /// Time from asking for a layer's neuron groups until the last of them was there.
    pub group_time: Duration,
    /// Neurons that were active, and groups that were wanted.
    pub neurons: Counts,
    /// Bytes of each request.
    pub sizes: Histogram,
    /// Microseconds of each request, from asking the kernel to seeing it complete.
    pub latencies: Histogram,
    /// What the phase is measured against, if that was wanted.
    pub bounds: Option<Bounds>,
}

/// The two things that a token needs, each alone: no schedule of the same work is faster than the slower of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The same tokens with every expert in memory.
    pub compute: Duration,
    /// The same batches of reads, one after the other, without computing.
    pub io: Duration,
    /// Bytes of those reads.
    pub io_bytes: u64,
}

impl Phase {
    /// Tokens a second; 0 for no time.
    pub fn rate(&self) -> f64 {
        let seconds = self.time.as_secs_f64();
        if seconds > 0.0 { self.tokens as f64 / seconds } else { 0.0 }
    }

    /// Share of experts that were in the window; `None` if none was asked for.
    pub fn hit_rate(&self) -> Option<f64> {
        let all = self.hits + self.misses;
        (all > 0).then(|| self.hits as f64 / all as f64)
    }

    /// Bytes read for each token; 0 for no tokens.
    pub fn bytes_per_token(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.bytes as f64 / self.tokens as f64 }
    }

    /// max(compute only, reads only) / measured: 1 for perfect overlap, about 1/2 for equal parts in turns. `None` without bounds.
    pub fn efficiency(&self) -> Option<f64> {
        let bounds = self.bounds.filter(|_| !self.time.is_zero())?;
        Some(bounds.compute.max(bounds.io).as_secs_f64() / self.time.as_secs_f64())
    }

    /// Adds what another phase of the same kind took, as if it had gone on; bounds stay as they are.
    pub fn merge(&mut self, other: Phase) {
        self.tokens += other.tokens;
        self.time += other.time;
        self.token_times.extend(other.token_times);
        self.bytes += other.bytes;
        self.requests += other.requests;
        self.hits += other.hits;
        self.misses += other.misses;
        self.guesses += other.guesses;
        self.guesses_used += other.guesses_used;
        self.stall += other.stall;
        self.group_time += other.group_time;
        self.neurons.merge(&other.neurons);
        self.sizes.merge(&other.sizes);
        self.latencies.merge(&other.latencies);
    }

    fn count(&mut self, before: &IoStats, after: &IoStats) {
        let over = |counter: fn(&IoStats) -> u64| counter(after).saturating_sub(counter(before));
        self.bytes = over(|s| s.bytes);
        self.requests = over(|s| s.requests);
        self.hits = over(|s| s.hits);
        self.misses = over(|s| s.misses);
        self.guesses = over(|s| s.guesses);
        self.guesses_used = over(|s| s.guesses_used);
        self.sizes = after.sizes.since(&before.sizes);
        self.latencies = after.latency.since(&before.latency);
        self.stall = after.stall.saturating_sub(before.stall);
        self.group_time = after.group_time.saturating_sub(before.group_time);
    }
}

/// Called with the tokens done so far; an error ends the measurement.
pub type Watch<'a> = &'a mut dyn FnMut(usize) -> Result<()>;

/// How a phase feeds its tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// In the engine's longest steps, logits of the last token: as a prompt is read.
    Prompt,
    /// One at a time with logits of each: as an answer is made.
    Decode,
}

impl Feed {
    /// Feeds `tokens` and measures.
    ///
    /// # Errors
    /// Those of [`Engine::feed`] and of `watch`.
    pub fn run(self, engine: &mut Engine, tokens: &[u32], watch: Watch<'_>) -> Result<Phase> {
        let before = engine.stats();
        let neurons = engine.neuron_counts();
        let longest = if self == Feed::Prompt { engine.chunk().max(1) } else { 1 };
        let mut phase = Phase { tokens: tokens.len(), token_times: Vec::with_capacity(tokens.len()), ..Phase::default() };
        for part in tokens.chunks(longest) {
            let start = Instant::now();
            engine.feed(part, Wanted::Last, &mut |_, _| {})?;
            let time = start.elapsed();
            phase.time += time;
            if self == Feed::Decode {
                phase.token_times.push(time);
            }
            watch(part.len())?;
        }
        phase.count(&before, &engine.stats());
        phase.neurons = engine.neuron_counts().since(&neurons);
        Ok(phase)
    }
}

/// Time of the same `tokens` after the same `context`, with every expert said to be in memory. For right after the phase, while the window holds what it held; results of the engine are
/// wrong meanwhile, and the sequence is empty afterwards.
///
/// # Errors
/// Those of [`Feed::run`].
pub fn compute_only(engine: &mut Engine, context: &[u32], tokens: &[u32], feed: Feed, watch: Watch<'_>) -> Result<Duration> {
    engine.pretend_resident(true);
    engine.reset();
    let fed = Feed::Decode.run(engine, context, watch).and_then(|_| feed.run(engine, tokens, watch));
    engine.pretend_resident(false);
    engine.reset();
    Ok(fed?.time)
}

/// Time and bytes of the reads in `log`, without computing. The window is empty afterwards.
///
/// # Errors
/// Those of reading.
pub fn io_only(engine: &mut Engine, log: &ReadLog) -> Result<(Duration, u64)> {
    if log.is_empty() { Ok((Duration::ZERO, 0)) } else { engine.replay_reads(log) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_turns_are_one_longer_one() {
        let turn = |reads: u64| {
            let time = Duration::from_millis(10 * reads);
            let mut phase = Phase { tokens: 1, time, token_times: vec![time], bytes: reads << 20, requests: reads, ..Phase::default() };
            (phase.hits, phase.misses, phase.guesses, phase.guesses_used) = (8 - reads, reads, reads + 1, reads);
            (phase.stall, phase.group_time) = (time / 2, time / 4);
            phase.neurons = Counts { active: reads, neurons: 9, asked: reads + 2, followed: 3, again: 2, groups: 5 };
            for i in 1..=reads {
                phase.sizes.add(1 << 20);
                phase.latencies.add(100 * i);
            }
            phase
        };
        let (mut both, one, other) = (turn(2), turn(2), turn(3));
        both.merge(other.clone());
        assert_eq!((both.tokens, both.requests, both.bytes, both.time), (2, 5, 5 << 20, one.time + other.time));
        assert_eq!((both.hits, both.misses, both.guesses, both.guesses_used), (11, 5, 7, 5));
        assert_eq!((both.token_times, both.stall, both.group_time), (vec![one.time, other.time], both.time / 2, both.time / 4));
        assert_eq!(both.neurons, Counts { active: 5, neurons: 18, asked: 9, followed: 6, again: 4, groups: 10 });
        assert_eq!((both.sizes.total(), both.latencies.total()), (5, 5));
        assert_eq!(both.latencies.percentile(100.0), other.latencies.percentile(100.0));
    }

    #[test]
    fn efficiency_is_the_slower_bound_over_what_was_measured() {
        let seconds = Duration::from_secs;
        let phase = |compute, io, time| Phase {
            time: seconds(time),
            bounds: Some(Bounds { compute: seconds(compute), io: seconds(io), io_bytes: 0 }),
            ..Phase::default()
        };
        assert_eq!(phase(9, 3, 10).efficiency(), Some(0.9));
        assert_eq!(phase(3, 8, 10).efficiency(), Some(0.8));
        assert_eq!(phase(3, 8, 0).efficiency(), None);
        assert_eq!(Phase { time: seconds(1), ..Phase::default() }.efficiency(), None);
    }
}
