//! `cargo x cache-sim [--svg OUT] [TRACE]...`: hit rates of cache policies on recorded traces, from small windows to half of the experts.

mod load;
mod policies;
mod queues;
mod svg;

use anyhow::{Context, Result, bail};
use forebay::window::policy::ReturnRate;
use load::Load;
use policies::{Belady, Cache, DecayedLfu, LeastStale, Lru, Ruled, Window};
use queues::{S3Fifo, WTinyLfu};

/// Windows, in percent of the experts.
const WINDOWS: [usize; 10] = [3, 4, 6, 8, 12, 16, 24, 32, 40, 50];

/// Makes a cache with a number of slots for a load.
type Make = for<'a> fn(&'a Load, usize) -> Box<dyn Cache + 'a>;

/// Makes a cache with a number of slots.
type MakeSized<'a> = dyn Fn(usize) -> Box<dyn Cache + 'a> + 'a;

/// What is compared: name and how it is made. The first is what the product does, the last knows the future.
const POLICIES: [(&str, Make); 7] = [
    ("return rate", |l, slots| Box::new(Window::new(&l.shape, slots, ReturnRate::new(&l.shape)))),
    ("decayed LFU", |l, slots| Box::new(Ruled::new(l, slots, DecayedLfu::new(l, 64.0)))),
    ("LRU", |l, slots| Box::new(Ruled::new(l, slots, Lru::new(l)))),
    ("least-stale", |l, slots| Box::new(Ruled::new(l, slots, LeastStale::new(l)))),
    ("S3-FIFO", |l, slots| Box::new(S3Fifo::new(l.shape.keys(), slots))),
    ("W-TinyLFU", |l, slots| Box::new(WTinyLfu::new(l.shape.keys(), slots, l.top_k))),
    ("Belady", |l, slots| Box::new(Ruled::new(l, slots, Belady::new(l)))),
];

/// Horizons of the shipped policy and of the decayed LFU, in steps.
const HORIZONS: [f32; 5] = [16.0, 32.0, 64.0, 128.0, 256.0];

/// Replays the traces and two made up loads, prints a table for each, and draws them.
pub fn run(arguments: &[String]) -> Result<()> {
    let (mut picture, mut paths) = (None, Vec::new());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--svg" => picture = Some(rest.next().context("--svg needs a file")?),
            other if other.starts_with('-') => bail!("usage: cargo x cache-sim [--svg OUT] [TRACE]..."),
            path => paths.push(path),
        }
    }
    let mut loads: Vec<Load> = paths.into_iter().map(Load::read).collect::<Result<_>>()?;
    loads.extend([Load::repeating(), Load::uniform()]);
    let mut panels = Vec::new();
    for load in &loads {
        let rates: Vec<Vec<f64>> = POLICIES.iter().map(|(_, make)| rates(load, &|slots| make(load, slots))).collect();
        println!("{}", table(load, &rates));
        panels.push(svg::Panel { title: load.name.clone(), cliff: 100.0 * load.cliff(), rates });
    }
    if let Some(path) = picture {
        let names = POLICIES.map(|(name, _)| name);
        std::fs::write(path, svg::picture(&names, &WINDOWS, &panels)).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

/// Hit rates in percent, one for each window.
fn rates(load: &Load, make: &MakeSized<'_>) -> Vec<f64> {
    let rate = |percent: usize| {
        // No window of the product is smaller than one layer and one layer ahead.
        let slots = (load.shape.keys() * percent).div_ceil(100).max(2 * load.top_k);
        100.0 * load.hit_rate(&mut *make(slots))
    };
    WINDOWS.map(rate).to_vec()
}

/// Markdown: a row a policy, a column a window.
fn table(load: &Load, all: &[Vec<f64>]) -> String {
    let (keys, cliff, repeats) = (load.shape.keys(), 100.0 * load.cliff(), 100.0 * load.repeats());
    let mut text = format!(
        "### {}\n\n{} decode steps, {keys} experts; a step uses {cliff:.1}% of them; {repeats:.0}% of choices repeat the token before.\n\n| window |",
        load.name, load.steps
    );
    WINDOWS.iter().for_each(|w| text += &format!(" {w}% |"));
    text += &format!("\n|---|{}\n", "---:|".repeat(WINDOWS.len()));
    let mut row = |name: &str, rates: &[f64]| {
        let cells: String = rates.iter().map(|rate| format!(" {rate:.1} |")).collect();
        text += &format!("| {name} |{cells}\n");
    };
    for ((name, _), rates) in POLICIES.iter().zip(all) {
        row(name, rates);
    }
    for horizon in HORIZONS {
        let of = |slots| Box::new(Window::new(&load.shape, slots, ReturnRate::with_horizon(&load.shape, horizon))) as Box<dyn Cache>;
        row(&format!("return rate, horizon {horizon}"), &rates(load, &of));
    }
    for horizon in HORIZONS {
        let of = |slots| Box::new(Ruled::new(load, slots, DecayedLfu::new(load, horizon))) as Box<dyn Cache>;
        row(&format!("decayed LFU, horizon {horizon}"), &rates(load, &of));
    }
    text
}

#[cfg(test)]
mod tests;
