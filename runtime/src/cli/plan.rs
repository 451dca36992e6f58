//! `forebay plan`: will it run, and how fast.

use super::{Failure, Outcome, answer, answer_json, engine, files, report};
use crate::bench::trace::Trace;
use crate::disk::{Target, Twice};
use crate::engine::{Options, planned};
use crate::error::{Error, Result};
use crate::io::IoBackend;
use crate::kernels::ActivationMode;
use crate::memory::{RamLimit, default_limit, parse_ram, show_bytes};
use crate::pack::Pack;
use crate::plot::{Chart, Line, svg};
use crate::predict::compute::{Compute, Timed};
use crate::predict::drive::Drive;
use crate::predict::hits::HitCurve;
use crate::predict::neurons::Firing;
use crate::predict::{Prediction, Predictor, Speeds, Three, UNHIDDEN_DECODING, UNHIDDEN_PROMPT, Work};
use crate::threads::default_threads;
use forebay_format::layout::MAGIC;
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Bytes of the file that stands for a pack which is not there yet.
const PROBE_BYTES: u64 = 256 << 20;
/// A disk that is this much faster the second time has a cache.
const CACHED: f64 = 1.3;
/// Bytes of weights in fewer bits, as a share.
const LIGHTER: f64 = 0.75;
/// Bits below which no type is advised.
const FEWEST_BITS: f64 = 3.5;
/// Points of the curve of speed against memory.
const POINTS: u32 = 24;

/// Say whether a model fits, and how fast it will be, before anything is loaded or even downloaded
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Pack, checkpoint (a directory or a GGUF file, of which the beginning is enough), or only a config.json
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
    /// Predict decoding after so many tokens from an empty window [default: when the window has settled]
    #[arg(long, value_name = "N", value_parser = engine::tokens)]
    after: Option<u32>,
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
    let firing = Firing::of(&pack, &work);
    let speeds = speeds(arguments, &pack, is_pack, &work, firing.as_ref())?;
    let hits = hits(arguments, &pack, &work)?;
    let predictor = Predictor { work: &work, speeds: &speeds, hits: &hits, firing: firing.as_ref() };
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
    let source = configuration(&arguments.file).unwrap_or_else(|| arguments.file.clone());
    let name = source.to_string_lossy();
    let is_config = name.ends_with(".json") && !name.ends_with(".index.json");
    let command = if is_config { "synth" } else { "convert" };
    let quantize = arguments.quantize.as_deref().unwrap_or(if is_config { "q4_k" } else { "keep" });
    let program = super::sibling();
    let output = std::process::Command::new(&program)
        .arg(command)
        .arg(&source)
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

/// The configuration of a model directory without weights.
fn configuration(dir: &Path) -> Option<PathBuf> {
    let config = dir.join("config.json");
    let weights = |entry: std::io::Result<std::fs::DirEntry>| {
        let name = entry.map(|e| e.file_name().to_string_lossy().into_owned()).unwrap_or_default();
        name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json") || name.ends_with(".gguf")
    };
    let bare = config.is_file() && !std::fs::read_dir(dir).ok()?.any(weights);
    bare.then_some(config)
}

fn speeds(arguments: &Arguments, pack: &Pack, is_pack: bool, work: &Work, firing: Option<&Firing>) -> Result<Speeds> {
    let threads = arguments.threads.map_or_else(default_threads, |n| n as usize);
    let drive = match arguments.assume_disk {
        // The disk does not matter then, and may not even be there.
        Some(disk) => Drive::assumed(disk * 1e9),
        None => {
            let target = if is_pack {
                Target::of_pack(pack, IoBackend::Auto)
            } else {
                Target::temporary(&arguments.disk, PROBE_BYTES, &mut |_| {})?
            };
            Drive::measure(work, &target)?
        }
    };
    let no_memory = |error: std::io::Error| Error::Budget(format!("cannot map memory to measure kernels with: {error}"));
    let compute = Compute::measure(work, firing, threads, ActivationMode::Int8).map_err(no_memory)?;
    let compute = match arguments.assume_kernels {
        Some(weights) => compute.assuming(work, weights * 1e9),
        None => compute,
    };
    Ok(Speeds { compute, drive })
}

fn hits(arguments: &Arguments, pack: &Pack, work: &Work) -> Result<HitCurve> {
    let skew = || pack.manifest.provenance.notes.get("synthetic")?.split("skew ").nth(1)?.parse::<f64>().ok();
    match &arguments.trace {
        Some(path) => Ok(HitCurve::replayed(&Trace::read(path)?, &files::name(path))),
        // A configuration stands for a trained model; a made-up pack for itself.
        None => match skew().filter(|_| !pack.manifest.provenance.notes.contains_key("outline")) {
            Some(skew) => {
                Ok(work.main_experts().map_or_else(HitCurve::trained, |e| HitCurve::synthetic(e.count, e.top_k, skew, arguments.after)))
            }
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
        let (decode, prompt) = (self.decode(&self.predictor, &plan), self.predictor.prompt(&plan, self.arguments.prompt, chunk));
        Ok(Outlook { limit, context, chunk, plan, decode, prompt })
    }

    /// Tokens behind the prompt.
    fn decode(&self, predictor: &Predictor<'_>, plan: &crate::budget::MemoryPlan) -> Prediction {
        predictor.decode(plan, self.arguments.prompt, self.arguments.after)
    }

    /// From the floor to what holds everything, and a little further.
    fn curve(&self, floor: u64) -> Vec<(u64, Prediction)> {
        let work = self.predictor.work;
        // The floor has room for what is neither trunk nor experts, and for some of those.
        let all = floor.saturating_add(work.trunk_bytes).saturating_add(work.experts_bytes).saturating_add(work.groups_bytes());
        let step = (all - floor) / u64::from(POINTS).max(1);
        (0..=u64::from(POINTS)).map(|i| floor + i * step).filter_map(|limit| Some((limit, self.decode_at(limit).ok()?))).collect()
    }

    /// Decoding at a limit.
    fn decode_at(&self, limit: u64) -> Result<Prediction> {
        let (_, _, plan) = planned(self.pack, &self.options(limit))?;
        Ok(self.decode(&self.predictor, &plan))
    }

    /// What each change alone would make of the tokens a second, the best first.
    fn changes(&self, now: &Outlook) -> Vec<(&'static str, f64)> {
        let p = &self.predictor;
        let mut changes = Vec::new();
        if let Ok(more) = self.decode_at(now.limit.saturating_mul(3) / 2) {
            changes.push(("half as much memory again", more.rate.expected));
        }
        let with = |speeds: &Speeds| self.decode(&Predictor { speeds, ..*p }, &now.plan).rate.expected;
        let Speeds { compute, drive } = p.speeds;
        changes.push(("a disk twice as fast", with(&Speeds { drive: drive.faster(2.0), compute: compute.clone() })));
        changes.push(("twice the cores and memory bandwidth", with(&Speeds { compute: compute.faster(2.0), drive: drive.clone() })));
        let main = p.work.main_type;
        if main.block_bytes() as f64 * 8.0 > FEWEST_BITS * main.block_len() as f64 {
            changes
                .push(("three quarters of the bits a weight", p.lighter(&now.plan, LIGHTER, |p, plan| self.decode(p, plan)).rate.expected));
        }
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
            let h = o.decode.hit_rate;
            let percent = |x: f64| format!("{:.0}%", x * 100.0);
            out +=
                &format!("  finds            {} of them in the window ({} to {})\n", percent(h.expected), percent(h.low), percent(h.high));
            out += &format!("                   by {}\n", p.hits.source);
        }
        out += &self.neurons(o);
        out += &format!("  reads            {}, {:.1} ms alone\n", mb(o.decode.bytes), o.decode.io * 1e3);
        out += &format!(
            "  computes         {:.1} ms alone, and {:.1} ms to take in what is read; overlap is expected to reach {:.0}%\n",
            o.decode.compute * 1e3,
            o.decode.taking_in * 1e3,
            100.0 * o.decode.efficiency()
        );
        out += "\nthis machine\n";
        let speed = if p.work.routed > 0 { s.drive.experts(o.decode.missed_per_layer(p.work)) } else { s.drive.sequential };
        let disk = if self.arguments.assume_disk.is_some() { "assumed" } else { "measured" };
        out += &format!(
            "  disk             {:.2} GB/s for {} ({disk}{})\n",
            speed.again / 1e9,
            if p.work.routed > 0 { "the experts that a layer misses" } else { "layers one behind the other" },
            if speed.again > CACHED * speed.first { format!("; {:.2} the first time", speed.first / 1e9) } else { String::new() }
        );
        let kernels = if self.arguments.assume_kernels.is_some() { "assumed" } else { "measured" };
        out += &format!(
            "  kernels          {:.1} GB/s of {}, {:.0} GMAC/s for many rows ({kernels})\n",
            s.compute.weights(p.work) / 1e9,
            p.work.main_type.name(),
            s.compute.macs(p.work) / 1e9
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

    /// Lines about neuron groups, if there are any.
    fn neurons(&self, o: &Outlook) -> String {
        let (Some(firing), Some(main)) = (self.predictor.firing, self.predictor.work.grouped.first()) else { return String::new() };
        let percent = |share: f64| format!("{:.1}%", share * 100.0);
        let mut out = format!(
            "  neurons          {} of {} groups of {}, {} each; {} of those are in the window ({} to {})\n",
            percent(o.decode.groups),
            o.plan.groups,
            main.group,
            show_bytes(main.bytes[0]),
            percent(o.decode.group_hits.expected),
            percent(o.decode.group_hits.low),
            percent(o.decode.group_hits.high)
        );
        match report::without_triggers(&o.plan) {
            Some(line) => out += &format!("                   {line}\n"),
            None => out += &format!("                   by {}\n", firing.source),
        }
        out
    }

    /// The object of `--json`; its keys are documented in the README.
    fn object(&self, o: &Outlook, fits: bool, curve: &[(u64, Prediction)]) -> Value {
        let (p, s) = (&self.predictor, self.predictor.speeds);
        let three = |t: Three| json!({ "low": t.low, "expected": t.expected, "high": t.high });
        let twice = |t: Twice| json!({ "first": t.first, "again": t.again });
        let product = |t: &Timed| json!({ "type": t.product.qtype.name(), "rows": t.product.rows, "cols": t.product.cols, "times": t.times, "seconds": t.seconds });
        let prediction = |x: &Prediction| {
            json!({
                "tokens_per_second": three(x.rate), "groups_wanted": x.groups, "group_hit_rate": three(x.group_hits), "bytes_read_per_token": x.bytes, "io_only_seconds": x.io,
                "compute_only_seconds": x.compute, "taking_in_seconds": x.taking_in, "hit_rate": three(x.hit_rate), "efficiency": x.efficiency(),
            })
        };
        let points: Vec<Value> = curve.iter().map(|(limit, p)| json!({ "limit": limit, "tokens_per_second": three(p.rate) })).collect();
        let help: Vec<Value> = self.changes(o).iter().map(|(what, rate)| json!({ "what": what, "tokens_per_second": rate })).collect();
        json!({
            "file": self.arguments.file, "architecture": self.pack.manifest.provenance.architecture, "fits": fits,
            "bytes": self.pack.superblock.file_bytes, "limit": o.limit, "context": o.context, "kv_type": self.options(o.limit).kv_type().name(), "chunk": o.chunk,
            "memory": report::budget(&o.plan), "notes": self.pack.manifest.provenance.notes,
            "work": {
                "trunk_bytes": p.work.trunk_bytes, "routed_bytes": p.work.routed_bytes, "experts_per_token": p.work.routed,
                "expert_bytes": p.work.expert_bytes, "experts_bytes": p.work.experts_bytes, "multiply_adds": p.work.macs, "type": p.work.main_type.name(),
            },
            "hit_rate_source": p.hits.source,
            "neurons": p.firing.map(|f| json!({ "source": f.source, "groups_wanted": f.groups, "again": f.again, "groups_bytes": p.work.groups_bytes() })),
            "machine": {
                "kernel_bytes_per_second": s.compute.weights(p.work), "multiply_adds_per_second": s.compute.macs(p.work),
                "memory_bytes_per_second": 1.0 / s.compute.memory, "sum_bytes_per_second": 1.0 / s.compute.sum,
                "trunk_seconds": s.compute.trunk.points(), "experts_seconds": s.compute.experts.points(), "head_seconds": s.compute.head,
                "groups_seconds": s.compute.groups.each_ref().map(|g| g.points()), "group_bytes_per_second": twice(s.drive.groups), "guess_seconds": s.compute.guesses, "recurrence_seconds": s.compute.recurrence, "position_seconds": s.compute.position,
                "request_bytes": s.drive.pace.request, "in_flight_bytes": s.drive.pace.in_flight, "read_bytes": s.drive.read_bytes,
                "batches": s.drive.batches.iter().map(|&(experts, speed)| json!({ "experts": experts, "bytes_per_second": twice(speed) })).collect::<Vec<_>>(),
                "sequential_bytes_per_second": twice(s.drive.sequential), "products": s.compute.products.iter().map(product).collect::<Vec<_>>(),
                "unhidden": { "prompt": three(UNHIDDEN_PROMPT), "decode": { "low": UNHIDDEN_DECODING[0], "high": UNHIDDEN_DECODING[1] } },
                "assumed": self.arguments.assume_disk.is_some() || self.arguments.assume_kernels.is_some(),
            },
            "decode": prediction(&o.decode), "prompt_tokens": self.arguments.prompt, "prompt": prediction(&o.prompt),
            "help": help, "curve": points,
        })
    }
}

fn picture(curve: &[(u64, Prediction)], here: u64) -> String {
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    let line = |label: &str, dashed: bool, of: fn(Three) -> f64| Line {
        label: label.into(),
        points: curve.iter().map(|(limit, p)| (gib(*limit), of(p.rate))).collect(),
        dashed,
    };
    let ticks = curve.iter().step_by(4).map(|(limit, _)| (gib(*limit), format!("{:.0}", gib(*limit)))).collect();
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
