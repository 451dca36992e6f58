//! `forebay plan` held against `forebay bench`: for each case the pack is made, planned, and measured right afterwards under the same limit.

use crate::measure;
use crate::shell::{self, command, outputs, release_dir, root};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A model, and the limits that it is planned and measured at.
struct Case {
    name: &'static str,
    model: Model,
    limits: &'static [&'static str],
    tokens: Tokens,
}

/// Tokens of a measurement.
#[derive(Clone, Copy)]
struct Tokens {
    /// Of the prompt; 0 for none.
    prompt: u32,
    /// Decoded before those that are measured.
    warmup: u32,
    /// Measured one by one.
    decode: u32,
}

/// Where the pack comes from.
enum Model {
    /// A configuration in `docs/shapes/`, with so many experts of a layer in one place.
    Shape { config: &'static str, alias: u32 },
    /// A checkpoint in the folder of reference material, and the type that it is converted to.
    Trained { dir: &'static str, quantize: &'static str },
}

const fn tokens(prompt: u32, warmup: u32, decode: u32) -> Tokens {
    Tokens { prompt, warmup, decode }
}

const CASES: [Case; 5] = [
    Case {
        name: "35b-a3b",
        model: Model::Shape { config: "moe-35b-a3b", alias: 1 },
        limits: &["4G", "8G", "16G"],
        tokens: tokens(128, 48, 24),
    },
    Case { name: "30b-a3b", model: Model::Shape { config: "moe-30b-a3b", alias: 1 }, limits: &["8G"], tokens: tokens(128, 48, 24) },
    Case { name: "dense-8b", model: Model::Shape { config: "dense-8b", alias: 1 }, limits: &["2G", "6G"], tokens: tokens(64, 2, 12) },
    Case {
        name: "q35-moe-45m",
        model: Model::Trained { dir: "models/q35-moe-45m", quantize: "q8_0" },
        limits: &["100M"],
        tokens: tokens(256, 256, 256),
    },
    Case { name: "397b-a17b", model: Model::Shape { config: "moe-397b-a17b", alias: 32 }, limits: &["8G", "16G"], tokens: tokens(0, 3, 4) },
];

/// Plans and measurements of a limit, in turn; medians count.
const RUNS: usize = 3;
/// What is left free on the disk beside a pack.
const SPARE: u64 = 2 << 30;

/// What was asked for.
#[derive(Default)]
struct Request {
    case: Option<String>,
    limit: Option<String>,
    dir: PathBuf,
    pack: Option<PathBuf>,
    keep: bool,
    json: Option<PathBuf>,
}

/// A phase of a case, predicted and measured.
struct Row {
    case: &'static str,
    limit: String,
    phase: &'static str,
    plan: Value,
    bench: Value,
    /// Most memory, page cache counted.
    peak: Option<f64>,
    /// What the plan measured of the machine.
    machine: Value,
}

/// Parses the arguments and prints the table.
pub fn run(arguments: &[String]) -> Result<()> {
    let request = parse(arguments)?;
    measure::build()?;
    let mut rows = Vec::new();
    for case in CASES.iter().filter(|c| request.case.as_deref().is_none_or(|name| name == c.name)) {
        let (pack, made) = pack(case, &request)?;
        let limits = case.limits.iter().filter(|l| request.limit.as_deref().is_none_or(|limit| limit == **l));
        let measured = limits.map(|limit| measure(case, limit, &pack)).collect::<Result<Vec<_>>>();
        if made && !request.keep {
            std::fs::remove_file(&pack).with_context(|| format!("cannot remove {}", pack.display()))?;
        }
        rows.extend(measured?.into_iter().flatten());
    }
    if let Some(path) = &request.json {
        let all: Vec<Value> = rows
            .iter()
            .map(|r| serde_json::json!({"case": r.case, "limit": r.limit, "phase": r.phase, "plan": r.plan, "bench": r.bench, "peak": r.peak, "machine": r.machine}))
            .collect();
        std::fs::write(path, serde_json::to_string_pretty(&all)?).with_context(|| format!("cannot write {}", path.display()))?;
    }
    print!("{}", table(&rows));
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Request> {
    let mut request = Request { dir: root().join("target"), ..Request::default() };
    let mut rest = arguments.iter();
    while let Some(a) = rest.next() {
        let mut value = || rest.next().cloned().with_context(|| format!("{a} needs a value"));
        match a.as_str() {
            "--case" => request.case = Some(value()?),
            "--limit" => request.limit = Some(value()?),
            "--dir" => request.dir = value()?.into(),
            "--pack" => request.pack = Some(value()?.into()),
            "--keep" => request.keep = true,
            "--json" => request.json = Some(value()?.into()),
            other => bail!("unknown argument {other}"),
        }
    }
    let names = CASES.map(|c| c.name).join(", ");
    if let Some(name) = request.case.as_deref().filter(|name| CASES.iter().all(|c| c.name != *name)) {
        bail!("there is no case {name}: {names}");
    }
    if request.pack.is_some() && request.case.is_none() {
        bail!("--pack needs --case: {names}");
    }
    Ok(request)
}

/// The pack of a case, and whether it was made here.
fn pack(case: &Case, request: &Request) -> Result<(PathBuf, bool)> {
    if let Some(pack) = &request.pack {
        return Ok((pack.clone(), false));
    }
    let pack = request.dir.join(format!("plan-check-{}.fby", case.name));
    if pack.exists() {
        return Ok((pack, false));
    }
    let out = pack.to_string_lossy().into_owned();
    let repack = release_dir().join("forebay-repack");
    match case.model {
        Model::Shape { config, alias } => {
            let (config, alias) = (format!("docs/shapes/{config}.json"), alias.to_string());
            let start = ["synth", config.as_str(), "-o", out.as_str(), "--quantize", "q4_k", "--alias", alias.as_str()];
            let planned: Value = serde_json::from_str(&outputs(command(&repack, &[&start[..], &["--dry-run", "--json"]].concat()))?.0)?;
            let bytes = planned["bytes"].as_u64().context("a dry run says no bytes")?;
            let free = free(&request.dir)?;
            if free < bytes + SPARE {
                bail!("{}: the pack has {:.1} GB, and {:.1} GB are free in {}", case.name, gb(bytes), gb(free), request.dir.display());
            }
            shell::run(command(&repack, &start))?;
        }
        Model::Trained { dir, quantize } => {
            let shared = std::env::var_os("FOREBAY_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
            let source = shared.join(dir).to_string_lossy().into_owned();
            shell::run(command(&repack, &["convert", &source, "-o", &out, "--quantize", quantize]))?;
        }
    }
    Ok((pack, true))
}

fn gb(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

/// Bytes that can be written to a directory.
fn free(dir: &Path) -> Result<u64> {
    let (text, _) = outputs(command("df", &["--output=avail", "-B1", &dir.to_string_lossy()]))?;
    text.lines().nth(1).and_then(|line| line.trim().parse().ok()).context("df says no number")
}

/// Plans and measures in turn: speeds of a disk and of processors change from minute to minute, for a plan as for what it is held against.
fn measure(case: &Case, limit: &str, pack: &Path) -> Result<Vec<Row>> {
    let (forebay, pack) = (release_dir().join("forebay"), pack.to_string_lossy().into_owned());
    let Tokens { prompt, warmup, decode } = case.tokens;
    let text = |n: u32| n.to_string();
    let context = text(prompt.max(warmup + decode));
    let (behind, after) = (text(prompt.max(1)), text(warmup + decode / 2));
    let plan_line = ["plan", &pack, "--ram", limit, "-c", &context, "-p", &behind, "--after", &after, "--json"];
    let bench_line = ["-p", &text(prompt), "--warmup", &text(warmup), "-n", &text(decode)];
    let (mut plans, mut reports, mut peak) = (Vec::new(), Vec::new(), None);
    for _ in 0..RUNS {
        plans.push(serde_json::from_str(&outputs(command(&forebay, &plan_line))?.0).context("forebay plan printed no JSON")?);
        let measured = measure::forebay(&pack, limit, &bench_line)?;
        reports.push(measured.report["median"].clone());
        peak = measured.peak.into_iter().chain(peak).reduce(f64::max);
    }
    let (plan, bench) = (medians(&plans), medians(&reports));
    let row = |phase, predicted: &str, measured: &str| {
        Some(Row {
            case: case.name,
            limit: limit.into(),
            phase,
            plan: plan[predicted].clone(),
            bench: bench.get(measured).filter(|b| !b.is_null())?.clone(),
            peak,
            machine: plan["machine"].clone(),
        })
    };
    Ok([row("decode", "decode", "warm"), row("prompt", "prompt", "prompt")].into_iter().flatten().collect())
}

/// Each number the median of its place in all of `values`; everything else as in the first.
fn medians(values: &[Value]) -> Value {
    let Some(first) = values.first() else { return Value::Null };
    let all = |of: &dyn Fn(&Value) -> Option<Value>| medians(&values.iter().filter_map(of).collect::<Vec<_>>());
    match first {
        Value::Number(_) => measure::median(values.iter().filter_map(Value::as_f64).collect()).map_or(Value::Null, Value::from),
        Value::Object(map) => map.keys().map(|key| (key.clone(), all(&|v| v.get(key).cloned()))).collect::<serde_json::Map<_, _>>().into(),
        Value::Array(list) => (0..list.len()).map(|i| all(&|v| v.get(i).cloned())).collect::<Vec<_>>().into(),
        other => other.clone(),
    }
}

/// A row a phase: tokens a second, hits and bytes, as predicted and as measured.
fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| case | limit | phase | predicted tok/s (range) | measured | error | hits: predicted | measured | MB read a token: predicted | measured | \
         computing alone, ms: predicted | measured | reading alone, ms: predicted | measured |\n|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for r in rows {
        let (p, b) = (&r.plan, &r.bench);
        let number = |v: &Value, scale: f64, digits: usize| v.as_f64().map_or_else(|| "-".into(), |x| format!("{:.digits$}", x * scale));
        let rate = |which: &str| p["tokens_per_second"][which].as_f64().unwrap_or(f64::NAN);
        let measured = b["tokens_per_second"].as_f64().unwrap_or(f64::NAN);
        let each = |key: &str| b[key].as_f64().zip(b["tokens"].as_f64()).map_or(Value::Null, |(x, n)| (x / n).into());
        let hits = if r.phase == "decode" {
            [number(&p["hit_rate"]["expected"], 100.0, 0), number(&b["hit_rate"], 100.0, 0)]
        } else {
            ["-".into(), "-".into()]
        };
        text += &format!(
            "| {} | {} | {} | {:.2} ({:.2} to {:.2}) | {measured:.2} | {:+.0}% | {} | {} | {} | {} | {} | {} | {} | {} |\n",
            r.case,
            r.limit,
            r.phase,
            rate("expected"),
            rate("low"),
            rate("high"),
            (rate("expected") / measured - 1.0) * 100.0,
            hits[0],
            hits[1],
            number(&p["bytes_read_per_token"], 1e-6, 1),
            number(&b["bytes_read_per_token"], 1e-6, 1),
            number(&p["compute_only_seconds"], 1e3, 1),
            number(&each("compute_only_seconds"), 1e3, 1),
            number(&p["io_only_seconds"], 1e3, 1),
            number(&each("io_only_seconds"), 1e3, 1),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_says_how_far_the_plan_was_off() {
        let plan = json!({
            "tokens_per_second": { "low": 2.0, "expected": 3.0, "high": 4.0 }, "hit_rate": { "expected": 0.5 }, "bytes_read_per_token": 3e8,
            "compute_only_seconds": 0.2, "io_only_seconds": 0.3,
        });
        let bench = json!({
            "tokens": 10.0, "tokens_per_second": 2.5, "hit_rate": 0.52, "bytes_read_per_token": 2.9e8, "compute_only_seconds": 2.1,
            "io_only_seconds": null,
        });
        let row = Row { case: "x", limit: "4G".into(), phase: "decode", plan, bench, peak: None, machine: Value::Null };
        let want = "| x | 4G | decode | 3.00 (2.00 to 4.00) | 2.50 | +20% | 50 | 52 | 300.0 | 290.0 | 200.0 | 210.0 | 300.0 | - |";
        assert_eq!(table(&[row]).lines().last(), Some(want));
    }

    #[test]
    fn medians_are_taken_place_by_place() {
        let of = |a: f64, b: f64| json!({ "a": a, "list": [b, "x"], "none": null });
        assert_eq!(medians(&[of(1.0, 9.0), of(3.0, 7.0), of(2.0, 8.0)]), json!({ "a": 2.0, "list": [8.0, "x"], "none": null }));
        assert_eq!(medians(&[]), Value::Null);
    }

    #[test]
    fn unknown_cases_and_arguments_are_refused() {
        let of = |line: &[&str]| parse(&line.iter().map(|a| a.to_string()).collect::<Vec<_>>());
        assert!(of(&["--case", "35b-a3b", "--keep"]).is_ok());
        for bad in [&["--case", "x"][..], &["--pack", "p.fby"], &["--case"], &["--what"]] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }
}
