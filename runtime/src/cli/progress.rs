//! Reading a prompt, with the time left on standard error if it takes long.

use super::interrupt::Interrupt;
use crate::engine::{Engine, Wanted};
use crate::error::{Error, Result};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Shorter waits need no explanation.
const QUIET: Duration = Duration::from_secs(2);
/// Between lines where they cannot overwrite each other.
const LINES: Duration = Duration::from_secs(10);

/// Feeds `ids` and returns the logits after the last of them.
pub(super) fn feed(engine: &mut Engine, ids: &[u32], interrupt: &Interrupt) -> Result<Vec<f32>> {
    interrupt.prompt();
    let mut logits = Vec::new();
    let mut progress = Progress::new(ids.len());
    let mut done = 0;
    for part in ids.chunks(engine.chunk().max(1)) {
        if interrupt.stopped() {
            return Err(Error::Interrupted);
        }
        engine.feed(part, Wanted::Last, &mut |_, row| {
            logits.clear();
            logits.extend_from_slice(row);
        })?;
        done += part.len();
        progress.show(done);
    }
    progress.finish();
    Ok(logits)
}

/// A line about how far something is.
pub(super) struct Progress {
    what: String,
    unit: &'static str,
    total: usize,
    start: Instant,
    shown: Option<Instant>,
    overwrite: bool,
}

impl Progress {
    /// Of reading `total` tokens.
    pub(super) fn new(total: usize) -> Self {
        Progress::of("reading", total)
    }

    /// Of doing `what` with `total` tokens.
    pub(super) fn of(what: &str, total: usize) -> Self {
        Progress::counting(what, "tokens", total)
    }

    /// Of doing `what` with `total` things called `unit`.
    pub(super) fn counting(what: &str, unit: &'static str, total: usize) -> Self {
        Progress { what: what.to_string(), unit, total, start: Instant::now(), shown: None, overwrite: std::io::stderr().is_terminal() }
    }

    /// `done` tokens are read.
    pub(super) fn show(&mut self, done: usize) {
        let now = Instant::now();
        let elapsed = now - self.start;
        let pause = if self.overwrite { Duration::from_millis(100) } else { LINES };
        let recently = self.shown.is_some_and(|shown| now - shown < pause);
        if elapsed < QUIET || recently || done == 0 || (done >= self.total && self.shown.is_none()) {
            return;
        }
        self.shown = Some(now);
        let left = elapsed.mul_f64(self.total.saturating_sub(done) as f64 / done as f64);
        let line = format!("{}: {done} of {} {}, {} s left", self.what, self.total, self.unit, left.as_secs());
        let mut err = std::io::stderr().lock();
        // Progress is no answer: if it cannot be shown, nothing is lost.
        let _ = if self.overwrite { write!(err, "\r\x1b[K{line}") } else { writeln!(err, "{line}") };
        let _ = err.flush();
    }

    /// Removes the line.
    pub(super) fn finish(&mut self) {
        if self.overwrite && self.shown.take().is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
