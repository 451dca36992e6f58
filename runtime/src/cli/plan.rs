//! `forebay plan`: will it run, and how fast.

use super::{Failure, Outcome, answer, answer_json, engine, files, report};
use crate::bench::trace::Trace;
use crate::disk::Target;
use crate::engine::{Options, planned};
use crate::error::{Error, Result};
use crate::io::IoBackend;
use crate::kernels::ActivationMode;
use crate::memory::{RamLimit, default_limit, parse_ram, show_bytes};
use crate::pack::Pack;
use crate::plot::{Chart, Line, svg};
use crate::predict::hits::HitCurve;
use crate::predict::speeds::Speeds;
use crate::predict::{Prediction, Predictor, Three, UNHIDDEN, Work};
use crate::threads::default_threads;
use forebay_format::layout::MAGIC;
use serde_json::{Value, json};
use std::io::Read;
use std::path::PathBuf;

/// Bytes of the file that stands for a pack which is not there yet.
const PROBE_BYTES: u64 = 256 << 20;
/// Points of the curve of speed against memory.
const POINTS: u32 = 24;

/// Say whether a model fits, and how fast it will be, before anything is loaded or even downloaded
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Pack, checkpoint (a directory or a GGUF file), or only a config.json
    file: PathBuf,
    /// Limit on all memory: 8G, 512M, 75% of RAM [default: 75% of what is free]
    #[arg(long, value_name = "SIZE", value_parser = ram)]
    ram: Option<RamLimit>,
    /// Tokens of prompt and answer together [default: 4096, or the model's own limit if that is less]
    #[arg(short, long = "ctx-size", value_name = "CTX", value_parser = engine::tokens)]
    context: Option<u32>,
    /// Compute threads [default: physical cores]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Type that a checkpoint or configuration would be converted to [default: keep; q4_k for a config.json]
    #[arg(long, value_name = "TYPE")]
    quantize: Option<String>,
    /// Where the pack will be, if it is not there yet: that disk is measured
    #[arg(long, value_name = "DIR", default_value = ".")]
    disk: PathBuf,
    /// Type of keys and values [default: f16]
    #[arg(long, value_enum)]
    kv_type: Option<engine::Kv>,
    /// Tokens of the prompt whose speed is predicted
    #[arg(short, long, value_name = "N", default_value_t = 512, value_parser = engine::tokens)]
    prompt: u32,
    /// Hit rates from this trace of forebay bench --trace instead of published curves
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Plan for a disk of so many GB/s instead of measuring this one
    #[arg(long, value_name = "GB/s", value_parser = positive)]
    assume_disk: Option<f64>,
    /// Plan for kernels that go through so many GB/s of weights instead of measuring these; about 80% of a machine's memory bandwidth
    #[arg(long, value_name = "GB/s", value_parser = positive)]
    assume_kernels: Option<f64>,
    /// Write a picture: tokens a second against memory
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn ram(text: &str) -> std::result::Result<RamLimit, String> {
    parse_ram(text).map_err(|e| e.to_string())
}

fn positive(text: &str) -> std::result::Result<f64, String> {
    text.parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0).ok_or_else(|| "expected a number above 0".into())
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let (pack, is_pack) = open(arguments)?;
    let limit = arguments.ram.unwrap_or(RamLimit::Auto);
    let limit = if limit == RamLimit::Auto { default_limit() } else { limit.resolve() };
    let work = Work::new(&pack.manifest, &pack.index);
    let speeds = speeds(arguments, &pack, is_pack, &work)?;
    let hits = hits(arguments, &pack)?;
    let predictor = Predictor { work: &work, speeds: &speeds, hits: &hits };
    let forecast = Forecast { arguments, pack: &pack, limit, predictor };
    let most = Options { ram: RamLimit::Bytes(1 << 50), ..forecast.options(0) };
    let floor = planned(&pack, &most)?.2.floor;
    let refusal = planned(&pack, &forecast.options(limit)).err();
    let shown = if refusal.is_some() { floor } else { limit };
    let outlook = forecast.at(shown)?;
    let curve = forecast.curve(floor);
    if let Some(path) = &arguments.svg {
        let failed = |error| Error::Io { file: path.clone(), what: "writing the picture".into(), error };
        std::fs::write(path, picture(&curve, shown)).map_err(failed)?;
    }
    let object = || forecast.object(&outlook, refusal.is_none(), &curve);
    if arguments.json {
        answer_json(&object())?
    } else {
        answer(&forecast.text(&outlook)?)?
    }
    match refusal {
        None => Ok(()),
        Some(Error::Budget(why)) => Err(Error::Budget(format!("{why}\nThe numbers above are for that limit.")).into()),
        Some(error) => Err(error.into()),
    }
}

/// The pack, or the outline of the pack that converting would give.
fn open(arguments: &Arguments) -> Outcome<(Pack, bool)> {
    let mut head = [0u8; 8];
    let is_pack = std::fs::File::open(&arguments.file).and_then(|mut f| f.read_exact(&mut head)).is_ok() && head == MAGIC;
    if is_pack {
        let pack = Pack::open(&arguments.file)?;
        let outline = pack.manifest.provenance.notes.contains_key("outline");
        return Ok((pack, !outline));
    }
    let outline = std::env::temp_dir().join(format!("forebay-plan-{}.fby", std::process::id()));
    let name = arguments.file.to_string_lossy();
    let is_config = name.ends_with(".json") && !name.ends_with(".index.json");
    let command = if is_config { "synth" } else { "convert" };
    let quantize = arguments.quantize.as_deref().unwrap_or(if is_config { "q4_k" } else { "keep" });
    let program = super::sibling();
    let output = std::process::Command::new(&program)
        .arg(command)
        .arg(&arguments.file)
        .arg("-o")
        .arg(&outline)
        .args(["--outline", "--quantize", quantize])
        .output()
        .map_err(|error| Error::Io { file: program, what: "starting forebay-repack".into(), error })?;
    let opened = if output.status.success() { Some(Pack::open(&outline)) } else { None };
    // Best effort: it is a sparse file of a few MB in the directory for temporary files.
    let _ = std::fs::remove_file(&outline);
    let why = String::from_utf8_lossy(&output.stderr).trim().to_string();
    match (opened, output.status.code()) {
        (Some(pack), _) => Ok((pack?, false)),
        (None, Some(2)) => Err(Failure::Usage(why)),
        (None, Some(4)) => Err(Error::Unsupported(why).into()),
        (None, _) => Err(Error::Request(why).into()),
    }
}

fn speeds(arguments: &Arguments, pack: &Pack, is_pack: bool, work: &Work) -> Result<Speeds> {
    let threads = arguments.threads.map_or_else(default_threads, |n| n as usize);
    let mut speeds = match arguments.assume_disk {
        // The disk does not matter then, and may not even be there.
        Some(disk) => {
            let mut speeds = Speeds::assumed(work, disk * 1e9, 1.0, 1.0);
            (speeds.weights, speeds.macs) = crate::predict::speeds::kernels(work.main_type, threads, ActivationMode::Int8);
            speeds
        }
        None => {
            let target = if is_pack {
                Target::of_pack(pack, IoBackend::Auto)
            } else {
                Target::temporary(&arguments.disk, PROBE_BYTES, &mut |_| {})?
            };
            Speeds::measure(work, &target, threads, ActivationMode::Int8)?
        }
    };
    if let Some(weights) = arguments.assume_kernels {
        // Prompts get faster with the number of cores, as weights do until the memory is saturated.
        speeds.macs *= weights * 1e9 / speeds.weights;
        speeds.weights = weights * 1e9;
    }
    Ok(speeds)
}

fn hits(arguments: &Arguments, pack: &Pack) -> Result<HitCurve> {
    let skew = || pack.manifest.provenance.notes.get("synthetic")?.split("skew ").nth(1)?.parse::<f64>().ok();
    match &arguments.trace {
        Some(path) => Ok(HitCurve::replayed(&Trace::read(path)?, &files::name(path))),
        // A configuration stands for a trained model; a made-up pack for itself.
        None => match skew().filter(|_| !pack.manifest.provenance.notes.contains_key("outline")) {
            Some(skew) => Ok(HitCurve::synthetic(skew)),
            None => Ok(HitCurve::trained()),
        },
    }
}

/// A prediction at one limit.
struct Outlook {
    limit: u64,
    context: u32,
    chunk: u32,
    plan: crate::budget::MemoryPlan,
    decode: Prediction,
    prompt: Prediction,
}

struct Forecast<'a> {
    arguments: &'a Arguments,
    pack: &'a Pack,
    limit: u64,
    predictor: Predictor<'a>,
}

impl Forecast<'_> {
    fn options(&self, limit: u64) -> Options {
        Options {
            ram: RamLimit::Bytes(limit),
            context: self.arguments.context,
            kv: self.arguments.kv_type.map(engine::Kv::kv_type),
            ..Options::default()
        }
    }

    fn at(&self, limit: u64) -> Result<Outlook> {
        let (context, chunk, plan) = planned(self.pack, &self.options(limit))?;
        let (decode, prompt) = (self.predictor.decode(&plan), self.predictor.prompt(&plan, self.arguments.prompt, chunk));
        Ok(Outlook { limit, context, chunk, plan, decode, prompt })
    }

    /// From the floor to what holds everything, and a little further.
    fn curve(&self, floor: u64) -> Vec<Outlook> {
        let work = self.predictor.work;
        // The floor has room for what is neither trunk nor experts, and for some of those.
        let all = floor.saturating_add(work.trunk_bytes).saturating_add(work.experts_bytes);
        let step = (all - floor) / u64::from(POINTS).max(1);
        (0..=u64::from(POINTS)).filter_map(|i| self.at(floor + i * step).ok()).collect()
    }

    /// What each change alone would make of the tokens a second, the best first.
    fn changes(&self, now: &Outlook) -> Vec<(&'static str, f64)> {
        let p = &self.predictor;
        let mut changes = Vec::new();
        if let Ok(more) = self.at(now.limit.saturating_mul(3) / 2) {
            changes.push(("half as much memory again", more.decode.rate.expected));
        }
        let mut disk = p.speeds.clone();
        disk.curve.iter_mut().for_each(|c| c.speed *= 2.0);
        disk.sequential *= 2.0;
        changes.push(("a disk twice as fast", Predictor { speeds: &disk, ..*p }.decode(&now.plan).rate.expected));
        let mut kernels = p.speeds.clone();
        kernels.weights *= 2.0;
        changes.push(("twice the cores and memory bandwidth", Predictor { speeds: &kernels, ..*p }.decode(&now.plan).rate.expected));
        changes.sort_by(|a, b| b.1.total_cmp(&a.1));
        changes
    }

    fn text(&self, o: &Outlook) -> Result<String> {
        let (p, s) = (&self.predictor, self.predictor.speeds);
        let m = &self.pack.manifest;
        let mb = |bytes: f64| format!("{:.1} MB", bytes / 1e6);
        let mut out = format!(
            "{}: {}, {} layers, pack of {}\n",
            self.arguments.file.display(),
            m.provenance.architecture,
            m.spec.layers.len(),
            show_bytes(self.pack.superblock.file_bytes)
        );
        out += &report::made_up_line(m).filter(|_| !m.provenance.notes.contains_key("outline")).map_or_else(String::new, |l| l + "\n");
        let at = if o.limit == self.limit { "" } else { " (the smallest limit that works)" };
        out += &format!(
            "\nmemory at {}{at}, context {}, keys and values in {}, prompt steps of {}\n{}\n",
            show_bytes(o.limit),
            o.context,
            self.options(o.limit).kv_type().name(),
            o.chunk,
            o.plan.breakdown()
        );
        out += &format!("  smallest limit   {:>11}\n\na token\n", show_bytes(o.plan.floor));
        out += &format!(
            "  goes through     {} of trunk and {} experts of {} each\n",
            mb(p.work.trunk_bytes as f64),
            p.work.routed,
            mb(p.work.expert_bytes as f64)
        );
        if p.work.routed > 0 {
            let h = p.hits.at(f64::from(o.plan.slots) / f64::from(o.plan.experts.max(1)));
            let percent = |x: f64| format!("{:.0}%", x * 100.0);
            out +=
                &format!("  finds            {} of them in the window ({} to {})\n", percent(h.expected), percent(h.low), percent(h.high));
            out += &format!("                   by {}\n", p.hits.source);
        }
        out += &format!("  reads            {}, {:.1} ms alone\n", mb(o.decode.bytes), o.decode.io * 1e3);
        out += &format!(
            "  computes         {:.1} ms alone; overlap is expected to reach {:.0}%\n",
            o.decode.compute * 1e3,
            100.0 * o.decode.efficiency()
        );
        out += "\nthis machine\n";
        let disk = if self.arguments.assume_disk.is_some() { "assumed" } else { "measured" };
        out += &format!(
            "  disk             {:.2} GB/s random reads of {} KiB at depth 16, {:.2} GB/s sequential ({disk})\n",
            s.random(16.0) / 1e9,
            s.read_bytes >> 10,
            s.sequential / 1e9
        );
        let kernels = if self.arguments.assume_kernels.is_some() { "assumed" } else { "measured" };
        out += &format!(
            "  kernels          {:.1} GB/s of {}, {:.0} GMAC/s for many rows ({kernels})\n",
            s.weights / 1e9,
            p.work.main_type.name(),
            s.macs / 1e9
        );
        let range = |r: Three| format!("{:.2} tok/s ({:.2} to {:.2})", r.expected, r.low, r.high);
        out += &format!("\ndecode           {}\n", range(o.decode.rate));
        out += &format!("prompt of {:<6} {}, cold; reads {} a token\n", self.arguments.prompt, range(o.prompt.rate), mb(o.prompt.bytes));
        out += "\nwhat would help\n";
        for (what, rate) in self.changes(o) {
            out += &format!("  {what:<38} {rate:.2} tok/s ({:.2}x)\n", rate / o.decode.rate.expected);
        }
        Ok(out)
    }

    /// The object of `--json`; its keys are documented in the README.
    fn object(&self, o: &Outlook, fits: bool, curve: &[Outlook]) -> Value {
        let (p, s) = (&self.predictor, self.predictor.speeds);
        let three = |t: Three| json!({ "low": t.low, "expected": t.expected, "high": t.high });
        let prediction = |x: &Prediction| {
            json!({
                "tokens_per_second": three(x.rate), "bytes_read_per_token": x.bytes, "io_only_seconds": x.io,
                "compute_only_seconds": x.compute, "efficiency": x.efficiency(),
            })
        };
        let points: Vec<Value> = curve.iter().map(|c| json!({ "limit": c.limit, "tokens_per_second": three(c.decode.rate) })).collect();
        let help: Vec<Value> = self.changes(o).iter().map(|(what, rate)| json!({ "what": what, "tokens_per_second": rate })).collect();
        let share = f64::from(o.plan.slots) / f64::from(o.plan.experts.max(1));
        json!({
            "file": self.arguments.file, "architecture": self.pack.manifest.provenance.architecture, "fits": fits,
            "bytes": self.pack.superblock.file_bytes, "limit": o.limit, "context": o.context, "kv_type": self.options(o.limit).kv_type().name(), "chunk": o.chunk,
            "memory": report::budget(&o.plan), "notes": self.pack.manifest.provenance.notes,
            "work": {
                "trunk_bytes": p.work.trunk_bytes, "routed_bytes": p.work.routed_bytes, "experts_per_token": p.work.routed,
                "expert_bytes": p.work.expert_bytes, "experts_bytes": p.work.experts_bytes, "multiply_adds": p.work.macs, "type": p.work.main_type.name(),
            },
            "hit_rate": three(p.hits.at(share)), "hit_rate_source": p.hits.source,
            "machine": {
                "kernel_bytes_per_second": s.weights, "multiply_adds_per_second": s.macs, "read_bytes": s.read_bytes,
                "random_bytes_per_second": s.random(16.0), "sequential_bytes_per_second": s.sequential,
                "unhidden": three(UNHIDDEN), "assumed": self.arguments.assume_disk.is_some() || self.arguments.assume_kernels.is_some(),
            },
            "decode": prediction(&o.decode), "prompt_tokens": self.arguments.prompt, "prompt": prediction(&o.prompt),
            "help": help, "curve": points,
        })
    }
}

fn picture(curve: &[Outlook], here: u64) -> String {
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let line = |label: &str, dashed: bool, of: fn(Three) -> f64| Line {
        label: label.into(),
        points: curve.iter().map(|o| (gib(o.limit), of(o.decode.rate))).collect(),
        dashed,
    };
    let ticks = curve.iter().step_by(4).map(|o| (gib(o.limit), format!("{:.0}", gib(o.limit)))).collect();
    svg(&[Chart {
        title: "Decode speed by memory limit".into(),
        x_label: format!("--ram, GiB ({:.1} planned)", gib(here)),
        y_label: "tokens a second".into(),
        logarithmic: false,
        ticks,
        lines: vec![line("expected", false, |r| r.expected), line("at best", true, |r| r.high), line("at worst", true, |r| r.low)],
    }])
}

#[cfg(test)]
mod tests {
    use super::positive;

    #[test]
    fn speeds_are_positive_numbers() {
        assert_eq!(positive("2.5"), Ok(2.5));
        assert!(["0", "-1", "x", "NaN", "inf"].iter().all(|t| positive(t).is_err()));
    }
}
