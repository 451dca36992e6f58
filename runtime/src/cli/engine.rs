//! Flags that every command with a model has, and opening it.

use super::{Failure, Outcome, report};
use crate::engine::{Engine, Options, Sparsity};
use crate::io::IoBackend;
use crate::kernels::ActivationMode;
use crate::kv::KvType;
use crate::memory::{Memory, RamLimit, default_limit, parse_ram, show_bytes};
use clap::ValueEnum;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

#[derive(clap::Args, Clone)]
#[group(skip)]
pub(super) struct Flags {
    /// Limit on all memory: 8G, 512M, 75% of RAM [default: 75% of what is free]
    #[arg(long, value_name = "SIZE", value_parser = ram)]
    ram: Option<RamLimit>,
    /// Compute threads [default: physical cores]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// How activations meet quantised weights: 8-bit, or the exact path
    #[arg(long, value_enum, default_value_t = Activations::Int8)]
    activations: Activations,
    /// Type of keys and values; q8_0 halves their memory at a small loss [default: f16, f32 with --activations f32]
    #[arg(long, value_enum)]
    kv_type: Option<Kv>,
    /// Which neurons of a pack with neuron groups are read: those that fire, those that its sketch predicts (not exact), or all [default: exact, off where the limit is too low for it; the
    /// same result]
    #[arg(long, value_enum)]
    sparsity: Option<Neurons>,
    /// Share of the firing neurons that --sparsity predicted is to find, such as 0.97 or 97% [default: the calibration's choice]
    #[arg(long, value_name = "R", value_parser = share)]
    recall: Option<f64>,
    /// Count products of gate and up below T times their row's root mean square as zero: not exact, and for experiments (forebay ppl says what it costs) [default: 0]
    #[arg(long, value_name = "T", value_parser = threshold)]
    activation_threshold: Option<f32>,
    /// How the pack is read
    #[arg(long, value_enum, default_value_t = Io::Auto)]
    io: Io,
}

/// A share: 0.97 or 97%.
pub(super) fn share(text: &str) -> std::result::Result<f64, String> {
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 100.0));
    let share = number.trim().parse::<f64>().ok().map(|n| n / unit).filter(|s| (0.0..=1.0).contains(s));
    share.ok_or_else(|| "expected a share, such as 0.97 or 97%".into())
}

fn threshold(text: &str) -> std::result::Result<f32, String> {
    let number = text.parse::<f32>().ok().filter(|t| t.is_finite() && *t >= 0.0);
    number.ok_or_else(|| "expected a number from 0 on".into())
}

fn ram(text: &str) -> std::result::Result<RamLimit, String> {
    parse_ram(text).map_err(|e| e.to_string())
}

#[derive(Clone, Copy, ValueEnum)]
enum Activations {
    F32,
    Int8,
}

/// Type of keys and values.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Kv {
    F32,
    F16,
    #[value(name = "q8_0")]
    Q8_0,
}

impl Kv {
    pub(super) fn kv_type(self) -> KvType {
        match self {
            Kv::F32 => KvType::F32,
            Kv::F16 => KvType::F16,
            Kv::Q8_0 => KvType::Q8_0,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Neurons {
    Exact,
    Predicted,
    Off,
}

#[derive(Clone, Copy, ValueEnum)]
enum Io {
    Auto,
    Uring,
    Pread,
    Buffered,
}

impl Flags {
    /// The same flags with `--sparsity exact`; `None` if they ask for another.
    pub(super) fn exactly(&self) -> Option<Flags> {
        matches!(self.sparsity, None | Some(Neurons::Exact)).then(|| Flags { sparsity: Some(Neurons::Exact), ..self.clone() })
    }

    /// Opens a pack. Without `--ram` a line on standard error says what was picked.
    pub(super) fn open(&self, file: &Path, context: Option<u32>, cancel: &Arc<AtomicBool>) -> Outcome<Engine> {
        self.check()?;
        let picked = matches!(self.ram, Some(RamLimit::Auto) | None).then(default_limit);
        let ram = picked.map_or(self.ram.unwrap_or_default(), RamLimit::Bytes);
        let engine = Engine::open(file, &self.options(ram, self.activations, context, cancel))?;
        if let Some(limit) = picked {
            let stats = engine.stats();
            let pace = stats.pace;
            eprintln!(
                "RAM limit {} (75% of what {}; --ram sets another) · {} threads ({}) · context {} ({}) · prompt steps of {} · {} in flight ({})",
                show_bytes(limit),
                if Memory::now().is_grouped() { "the control group leaves" } else { "is free now" },
                engine.threads(),
                if self.threads.is_some() { "-t" } else { "physical cores; -t sets another number" },
                engine.context(),
                if context.is_some() { "as asked" } else { "-c sets another" },
                engine.chunk(),
                show_bytes(pace.in_flight as u64),
                if stats.curve.is_empty() { "too little to read to measure the disk" } else { "the least that this disk needs" },
            );
        }
        let lines = report::made_up_line(engine.manifest()).into_iter().chain(report::without_triggers(engine.plan()));
        for line in lines.chain(report::lossy(&engine)) {
            eprintln!("{line}");
        }
        Ok(engine)
    }

    /// Flags that mean nothing together.
    fn check(&self) -> Outcome {
        if self.recall.is_some() && !matches!(self.sparsity, Some(Neurons::Predicted)) {
            return Err(Failure::Usage("--recall is for --sparsity predicted".into()));
        }
        Ok(())
    }

    /// The engine that is asked for and one on the exact path, each with half of the memory.
    pub(super) fn open_with_exact(&self, file: &Path, context: u32, cancel: &Arc<AtomicBool>) -> Outcome<[Engine; 2]> {
        self.check()?;
        let ram = match self.ram {
            Some(RamLimit::Bytes(bytes)) => RamLimit::Bytes(bytes / 2),
            Some(RamLimit::Percent(percent)) => RamLimit::Percent(percent / 2.0),
            Some(RamLimit::Auto) | None => RamLimit::Bytes(default_limit() / 2),
        };
        let open = |activations| Engine::open(file, &self.options(ram, activations, Some(context), cancel));
        Ok([open(self.activations)?, open(Activations::F32)?])
    }

    fn options(&self, ram: RamLimit, activations: Activations, context: Option<u32>, cancel: &Arc<AtomicBool>) -> Options {
        Options {
            ram,
            context,
            threads: self.threads.and_then(|n| usize::try_from(n).ok()),
            activations: match activations {
                Activations::F32 => ActivationMode::F32,
                Activations::Int8 => ActivationMode::Int8,
            },
            kv: self.kv_type.map(Kv::kv_type),
            io: match self.io {
                Io::Auto => IoBackend::Auto,
                Io::Uring => IoBackend::Uring,
                Io::Pread => IoBackend::Pread,
                Io::Buffered => IoBackend::Buffered,
            },
            chunk: None,
            sparsity: self.sparsity.map(|neurons| match neurons {
                Neurons::Exact => Sparsity::Exact,
                Neurons::Predicted => Sparsity::Predicted { recall: self.recall },
                Neurons::Off => Sparsity::Off,
            }),
            activation_threshold: self.activation_threshold.unwrap_or(0.0),
            cancel: Arc::clone(cancel),
        }
    }

    /// `f32` or `int8`, for reports.
    pub(super) fn activations(&self) -> &'static str {
        match self.activations {
            Activations::F32 => "f32",
            Activations::Int8 => "int8",
        }
    }
}

/// Largest resident memory of this process so far, in bytes, where the system tells.
pub(super) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A positive number of tokens, for flags.
pub(super) fn tokens(text: &str) -> std::result::Result<u32, String> {
    text.parse().ok().filter(|&n| n > 0).ok_or_else(|| "expected a number of tokens above 0".into())
}
