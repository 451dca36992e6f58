//! `forebay doctor`.

use super::interrupt::Interrupt;
use super::progress::Progress;
use super::{Outcome, answer, answer_json};
use crate::disk::{Cell, Order};
use crate::doctor::{Effort, Finding, Level, Machine, Storage, findings};
use crate::error::Error;
use crate::memory::{RamLimit, parse_ram, show_bytes};
use crate::plot::{Chart, Line, svg};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Look at this machine: processor, memory, limits, and how fast the disk of DIR is read
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Where packs are or will be
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Size of the file that is written and read; the larger, the less caches of the drive matter
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    size: Option<u64>,
    /// A look of three seconds instead of half a minute
    #[arg(long)]
    quick: bool,
    /// Write the disk's curve as a picture
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn bytes(text: &str) -> std::result::Result<u64, String> {
    match parse_ram(text).map_err(|e| e.to_string())? {
        RamLimit::Bytes(n) if n >= 16 << 20 => Ok(n),
        _ => Err("expected a size of at least 16M".into()),
    }
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let _interrupt = Interrupt::install();
    let machine = Machine::now();
    let mut effort = if arguments.quick { Effort::QUICK } else { Effort::FULL };
    effort.bytes = arguments.size.unwrap_or(effort.bytes);
    let mut shown: Option<(String, Progress)> = None;
    let storage = Storage::measure(&arguments.dir, &effort, &mut |what, done, total| {
        if shown.as_ref().is_none_or(|(last, _)| last != what) {
            shown = Some((what.to_string(), Progress::counting(what, "steps", total)));
        }
        if let Some((_, progress)) = &mut shown {
            progress.show(done);
        }
        Ok(())
    });
    drop(shown);
    let (storage, trouble) = match storage {
        Ok(storage) => (Some(storage), None),
        Err(Error::Interrupted) => return Err(Error::Interrupted.into()),
        Err(error) => (None, Some(error)),
    };
    let mut list = findings(&machine, storage.as_ref());
    list.extend(trouble.as_ref().map(|error| Finding {
        level: Level::Broken,
        about: "disk",
        found: error.to_string(),
        advice: Some("name a directory on a local drive that can be written and has some GB free".into()),
    }));
    if let (Some(path), Some(storage)) = (&arguments.svg, &storage) {
        let failed = |error| Error::Io { file: path.clone(), what: "writing the picture".into(), error };
        std::fs::write(path, picture(storage)).map_err(failed)?;
    }
    if arguments.json {
        answer_json(&object(&machine, storage.as_ref(), &list))?;
    } else {
        answer(&text(&machine, storage.as_ref(), &list))?;
    }
    match list.iter().filter(|f| f.level == Level::Broken).count() {
        0 => Ok(()),
        n => Err(Error::Request(format!("{n} of the findings keep models from running here")).into()),
    }
}

fn text(machine: &Machine, storage: Option<&Storage>, list: &[Finding]) -> String {
    let mut out = format!("{}\n  {}\n", machine.cpu, machine.features.join(" "));
    if let Some(s) = storage {
        out += &format!(
            "{}: {}, {} free; read with {} from a file of {}\n\n",
            s.dir.display(),
            s.file_system,
            show_bytes(s.free),
            s.backend,
            show_bytes(s.bytes)
        );
        for (order, title) in [(Order::Random, "random reads"), (Order::Sequential, "sequential reads")] {
            out += &table(s, order, &format!("{title}, MB/s"), |c| format!("{:.0}", c.speed / 1e6));
        }
        let ms = |t: std::time::Duration| t.as_secs_f64() * 1e3;
        out += &table(s, Order::Random, "random reads, ms: median / 99%", |c| format!("{:.2} / {:.2}", ms(c.p50), ms(c.p99)));
    }
    for f in list {
        out += &format!("{:<7} {:<14} {}\n", f.level.name(), f.about, f.found);
        if let Some(advice) = &f.advice {
            out += &format!("{:22} -> {advice}\n", "");
        }
    }
    out
}

/// A row a read size, a column a depth.
fn table(s: &Storage, order: Order, title: &str, show: impl Fn(&Cell) -> String) -> String {
    let mut out = format!("| {title}, by depth |");
    s.depths().iter().for_each(|d| out += &format!(" {d} |"));
    out += &format!("\n|---|{}\n", "---:|".repeat(s.depths().len()));
    for size in s.sizes() {
        out += &format!("| {} KiB |", size >> 10);
        for depth in s.depths() {
            let cell = s.row(order, size).find(|c| c.depth == depth);
            out += &format!(" {} |", cell.map_or_else(|| "-".into(), &show));
        }
        out.push('\n');
    }
    out + "\n"
}

fn picture(s: &Storage) -> String {
    let chart = |order, title: &str| Chart {
        title: title.into(),
        x_label: "reads in flight".into(),
        y_label: "GB/s".into(),
        logarithmic: true,
        ticks: s.depths().iter().map(|&d| (d as f64, d.to_string())).collect(),
        lines: s
            .sizes()
            .iter()
            .map(|&size| Line {
                label: format!("{} KiB", size >> 10),
                points: s.row(order, size).map(|c| (c.depth as f64, c.speed / 1e9)).collect(),
                dashed: false,
            })
            .collect(),
    };
    svg(&[chart(Order::Random, "Random reads"), chart(Order::Sequential, "Sequential reads")])
}

/// The object of `--json`; its keys are documented in the README.
fn object(m: &Machine, storage: Option<&Storage>, list: &[Finding]) -> Value {
    let cell = |c: &Cell| {
        json!({
            "order": order_name(c.order), "read_bytes": c.read_bytes, "depth": c.depth, "bytes_per_second": c.speed,
            "p50_seconds": c.p50.as_secs_f64(), "p99_seconds": c.p99.as_secs_f64(),
        })
    };
    let disk = storage.map(|s| {
        let backends: serde_json::Map<String, Value> =
            s.backends.iter().map(|(name, why)| (name.to_string(), json!({ "works": why.is_none(), "why_not": why }))).collect();
        json!({
            "dir": s.dir, "file_system": s.file_system, "free": s.free, "direct_alignment": s.alignment, "backends": backends,
            "backend": s.backend, "file_bytes": s.bytes, "cells": s.cells.iter().map(cell).collect::<Vec<_>>(), "sustained": s.sustained,
        })
    });
    let list: Vec<Value> =
        list.iter().map(|f| json!({ "level": f.level.name(), "about": f.about, "found": f.found, "advice": f.advice })).collect();
    let limited = |n: u64| (n != u64::MAX).then_some(n);
    json!({
        "cpu": { "name": m.cpu, "features": m.features, "kernels": m.kernels, "threads": m.threads, "logical": m.logical },
        "memory": {
            "installed": m.memory.installed, "available": m.memory.available, "group_limit": limited(m.memory.group_limit),
            "picked_limit": m.picked_limit, "memlock": m.memlock, "huge_pages": m.huge_pages, "swap": m.swap,
        },
        "disk": disk,
        "findings": list,
    })
}

fn order_name(order: Order) -> &'static str {
    match order {
        Order::Random => "random",
        Order::Sequential => "sequential",
    }
}
