//! Phases of a run, measured.

use crate::engine::{Engine, Wanted};
use crate::error::Result;
use crate::store::IoStats;
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
    /// Time spent waiting for experts.
    pub stall: Duration,
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

    fn count(&mut self, before: &IoStats, after: &IoStats) {
        let over = |counter: fn(&IoStats) -> u64| counter(after).saturating_sub(counter(before));
        self.bytes = over(|s| s.bytes);
        self.requests = over(|s| s.requests);
        self.hits = over(|s| s.hits);
        self.misses = over(|s| s.misses);
        self.stall = after.stall.saturating_sub(before.stall);
    }
}

/// Called with the tokens done so far; an error ends the measurement.
pub type Watch<'a> = &'a mut dyn FnMut(usize) -> Result<()>;

/// Feeds `tokens` in the engine's longest steps, logits of the last one.
///
/// # Errors
/// Those of [`Engine::feed`] and of `watch`.
pub fn prompt(engine: &mut Engine, tokens: &[u32], watch: Watch<'_>) -> Result<Phase> {
    let before = engine.stats();
    let mut phase = Phase { tokens: tokens.len(), ..Phase::default() };
    for part in tokens.chunks(engine.chunk().max(1)) {
        let start = Instant::now();
        engine.feed(part, Wanted::Last, &mut |_, _| {})?;
        phase.time += start.elapsed();
        watch(part.len())?;
    }
    phase.count(&before, &engine.stats());
    Ok(phase)
}

/// Feeds `tokens` one at a time with logits of each, as an answer does.
///
/// # Errors
/// Those of [`Engine::feed`] and of `watch`.
pub fn decode(engine: &mut Engine, tokens: &[u32], watch: Watch<'_>) -> Result<Phase> {
    let before = engine.stats();
    let mut phase = Phase { tokens: tokens.len(), token_times: Vec::with_capacity(tokens.len()), ..Phase::default() };
    for token in tokens {
        let start = Instant::now();
        engine.feed(std::slice::from_ref(token), Wanted::Last, &mut |_, _| {})?;
        let time = start.elapsed();
        phase.token_times.push(time);
        phase.time += time;
        watch(1)?;
    }
    phase.count(&before, &engine.stats());
    Ok(phase)
}
