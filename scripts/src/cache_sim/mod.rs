//! `cargo x cache-sim TRACE... [--svg OUT]`: hit rates of cache policies on recorded traces, from small windows to half of the experts.

mod policies;
mod queues;

use anyhow::{Context, Result, bail};
use forebay::bench::trace::Trace;
use forebay::window::policy::{DecayedLfu, Shape};
use policies::{Belady, Cache, LeastStale, Lru, Ruled, Window, next_uses};
use queues::{S3Fifo, WTinyLfu};

/// Windows, in percent of the experts.
const WINDOWS: [usize; 10] = [3, 4, 6, 8, 12, 16, 24, 32, 40, 50];
/// One part in this many of a trace's steps fills the window and is not counted.
const WARMUP_SHARE: usize = 4;

/// A trace, ready to be replayed.
struct Load {
    name: String,
    shape: Shape,
    top_k: usize,
    /// Layer and keys of every visit of a decode step.
    visits: Vec<(u32, Vec<u32>)>,
    next: Vec<Vec<usize>>,
    steps: usize,
}

impl Load {
    fn new(path: &str) -> Result<Load> {
        let trace = Trace::read(path.as_ref())?;
        let shape = Shape::new(trace.header.layers.iter().copied()).context("too many experts")?;
        let mut visits = Vec::new();
        let mut steps = 0;
        let first = trace.header.layers.iter().position(|l| l.1 > 0).unwrap_or(0) as u32;
        for visit in trace.visits.iter().filter(|v| !v.prompt) {
            let base = shape.range(visit.layer).start;
            visits.push((visit.layer, visit.experts.iter().map(|e| base + e).collect()));
            steps += usize::from(visit.layer == first);
        }
        let name = std::path::Path::new(path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if steps < 2 * WARMUP_SHARE {
            bail!("{path}: {steps} decode steps say nothing");
        }
        let next = next_uses(shape.keys(), &visits);
        Ok(Load { name, top_k: shape.max_top_k() as usize, shape, visits, next, steps })
    }

    fn hit_rate(&self, cache: &mut dyn Cache) -> f64 {
        let from = self.visits.len() / WARMUP_SHARE;
        let (mut hits, mut all) = (0, 0);
        for (i, (layer, keys)) in self.visits.iter().enumerate() {
            let found = cache.visit(*layer, keys);
            if i >= from {
                hits += found;
                all += keys.len();
            }
        }
        hits as f64 / all as f64
    }
}

/// Makes a cache with a number of slots for a load.
type Make = for<'a> fn(&'a Load, usize) -> Box<dyn Cache + 'a>;

/// What is compared: name and how it is made. The first is what the product does, the last knows the future.
const POLICIES: [(&str, Make); 6] = [
    ("shipped: decayed LFU", |l, slots| Box::new(Window::new(&l.shape, slots, DecayedLfu::new(&l.shape)))),
    ("LRU", |l, slots| Box::new(Ruled::new(l.shape.keys(), slots, Lru::new(l.shape.keys())))),
    ("least-stale", |l, slots| Box::new(Ruled::new(l.shape.keys(), slots, LeastStale::new(l.shape.keys(), l.shape.layers() as u32)))),
    ("S3-FIFO", |l, slots| Box::new(S3Fifo::new(l.shape.keys(), slots))),
    ("W-TinyLFU", |l, slots| Box::new(WTinyLfu::new(l.shape.keys(), slots, l.top_k))),
    ("Belady", |l, slots| Box::new(Ruled::new(l.shape.keys(), slots, Belady::new(l.shape.keys(), &l.next)))),
];

/// Horizons of the decayed LFU, in steps.
const HORIZONS: [f32; 7] = [8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0];

/// Replays the traces and prints a table for each.
pub fn run(arguments: &[String]) -> Result<()> {
    if arguments.is_empty() || arguments.iter().any(|a| a.starts_with('-')) {
        bail!("usage: cargo x cache-sim TRACE...");
    }
    for path in arguments {
        let load = Load::new(path)?;
        println!("{}", table(&load));
    }
    Ok(())
}

/// Markdown: hit rates in percent, a row a policy, a column a window.
fn table<'a>(load: &'a Load) -> String {
    let keys = load.shape.keys();
    let cliff = 100.0 * (load.visits.len() / load.steps * load.top_k) as f64 / keys as f64;
    let mut text = format!("{}: {} decode steps, {keys} experts, a step uses {cliff:.1}% of them\n\n| window |", load.name, load.steps);
    WINDOWS.iter().for_each(|w| text += &format!(" {w}% |"));
    text += &format!("\n|---|{}\n", "---:|".repeat(WINDOWS.len()));
    let mut row = |name: &str, make: &dyn Fn(usize) -> Box<dyn Cache + 'a>| {
        text += &format!("| {name} |");
        for w in WINDOWS {
            // No window of the product is smaller than one layer and one layer ahead.
            let slots = (keys * w).div_ceil(100).max(2 * load.top_k);
            text += &format!(" {:.1} |", 100.0 * load.hit_rate(&mut *make(slots)));
        }
        text.push('\n');
    };
    for (name, make) in POLICIES {
        row(name, &|slots| make(load, slots));
    }
    for horizon in HORIZONS {
        row(&format!("decayed LFU, horizon {horizon}"), &|slots| {
            Box::new(Window::new(&load.shape, slots, DecayedLfu::with_horizon(&load.shape, horizon)))
        });
    }
    text
}

#[cfg(test)]
mod tests;
