//! How far a long job is: a bar with an estimate on a terminal, a line now and then elsewhere, nothing for short jobs.

use crate::write::Watch;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Jobs shorter than this print nothing when stderr is not a terminal.
const QUIET: Duration = Duration::from_secs(2);
/// Time between lines.
const INTERVAL: Duration = Duration::from_secs(10);

/// Progress of one job, on stderr.
pub struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    total: u64,
    done: AtomicU64,
    start: Instant,
    next_line: Mutex<Instant>,
}

impl Progress {
    /// A job of `total` bytes.
    pub fn new(what: &'static str, total: u64) -> Self {
        let start = Instant::now();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let template = "{msg} {bar:30} {percent:>3}%  {binary_bytes} / {binary_total_bytes}  {binary_bytes_per_sec}  ETA {eta}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(what);
            bar
        });
        Progress { bar, what, total, done: AtomicU64::new(0), start, next_line: Mutex::new(start + QUIET) }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, done: u64) {
        let Ok(mut next) = self.next_line.try_lock() else { return };
        let now = Instant::now();
        if now < *next || done >= self.total {
            return;
        }
        *next = now + INTERVAL;
        let seconds = (now - self.start).as_secs_f64();
        let rate = done as f64 / seconds;
        let left = (self.total - done) as f64 / rate.max(1.0);
        let percent = done as f64 / self.total as f64 * 100.0;
        eprintln!("{}: {percent:.0}% of {}, {}/s, about {left:.0} s left", self.what, size(self.total), size(rate as u64));
    }
}

impl Watch for Progress {
    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        match &self.bar {
            Some(bar) => bar.set_position(done.min(self.total)),
            None => self.line(done),
        }
    }

    fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}

/// A byte count for people: `0 B`, `12.3 KB`, `1.81 GB` (powers of 1000, as disks are sold).
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KB", "MB", "GB", "TB"] {
        if value < 999.5 || unit == "TB" {
            let digits = if unit == "B" || value >= 99.95 {
                0
            } else if value >= 9.995 {
                1
            } else {
                2
            };
            return format!("{value:.digits$} {unit}");
        }
        value /= 1000.0;
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_read_well() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 KB"),
            (12_345, "12.3 KB"),
            (999_499, "999 KB"),
            (999_500, "1.00 MB"),
            (19_800_000_000, "19.8 GB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }
}
