//! Speed beside llama.cpp: the same weights, the same memory limits with page cache counted, alternating runs, medians.

mod table;

use crate::measure::{self, Measured};
use anyhow::{Context, Result, bail};
use table::Table;

struct Request {
    gguf: String,
    llama_bench: String,
    limits: Vec<String>,
    prompts: Vec<String>,
    tokens: String,
    runs: usize,
    mmap: bool,
}

const USAGE: &str =
    "usage: cargo x compare GGUF --llama-bench PATH [--limits 8G,4G] [--prompts 64,256,512] [--tokens 48] [--runs 3] [--no-mmap]";

/// Parses the arguments, measures, and prints a table.
pub fn run(arguments: &[String]) -> Result<()> {
    let request = parse(arguments)?;
    measure::build()?;
    let pack = measure::pack_of(&request.gguf)?;
    let mut table = Table::default();
    for round in 1..=request.runs {
        eprintln!("round {round} of {}", request.runs);
        in_ram(&request, &mut table)?;
        for limit in &request.limits {
            let run = measure::forebay(&pack, limit, &["-p", "0", "-n", &request.tokens])?;
            table.forebay(&format!("decode, {limit}"), &run, "warm", &drive(&pack, &run, "warm")?);
        }
        if let Some(limit) = request.limits.first() {
            for prompt in &request.prompts {
                let run = measure::forebay(&pack, limit, &["-p", prompt, "-n", "0"])?;
                table.forebay(&format!("prompt of {prompt}, cold, {limit}"), &run, "prompt", &drive(&pack, &run, "prompt")?);
            }
            if request.mmap {
                mapped(&request, limit, &mut table)?;
            }
        }
    }
    println!("{}", table.text(request.runs));
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Request> {
    let list = |text: &str| text.split(',').filter(|p| !p.is_empty()).map(str::to_string).collect::<Vec<_>>();
    let mut request = Request {
        gguf: String::new(),
        llama_bench: String::new(),
        limits: list("8G,4G"),
        prompts: list("64,256,512"),
        tokens: "48".into(),
        runs: 3,
        mmap: true,
    };
    let mut rest = arguments.iter();
    while let Some(a) = rest.next() {
        let mut value = || rest.next().cloned().with_context(|| format!("{a} needs a value"));
        match a.as_str() {
            "--llama-bench" => request.llama_bench = value()?,
            "--limits" => request.limits = list(&value()?),
            "--prompts" => request.prompts = list(&value()?),
            "--tokens" => request.tokens = value()?,
            "--runs" => request.runs = value()?.parse().context("--runs takes a number")?,
            "--no-mmap" => request.mmap = false,
            _ if !a.starts_with('-') && request.gguf.is_empty() => request.gguf = a.clone(),
            other => bail!("unknown argument {other}\n{USAGE}"),
        }
    }
    if request.gguf.is_empty() || request.llama_bench.is_empty() || request.runs == 0 {
        bail!("{USAGE}");
    }
    Ok(request)
}

/// llama.cpp with all weights in memory and its default repacking.
fn in_ram(request: &Request, table: &mut Table) -> Result<()> {
    let prompts: Vec<&String> = request.prompts.iter().filter(|p| p.parse().is_ok_and(|n: u32| n <= 256)).collect();
    let mut arguments = vec!["-lm", "none", "-n", "32"];
    let joined = prompts.iter().map(|p| p.as_str()).collect::<Vec<_>>().join(",");
    arguments.extend(["-p", if joined.is_empty() { "0" } else { &joined }]);
    let run = measure::llama_bench(&request.llama_bench, &request.gguf, None, &arguments)?;
    for test in run.report.as_array().into_iter().flatten() {
        let count = |key: &str| test[key].as_u64().unwrap_or(0);
        let name = match (count("n_prompt"), count("n_gen")) {
            (0, _) => "decode".to_string(),
            (prompt, _) => format!("prompt of {prompt}"),
        };
        table.speed(&format!("llama.cpp in RAM, {name}"), test["avg_ts"].as_f64().context("llama-bench's report has no avg_ts")?, None);
    }
    Ok(())
}

/// llama.cpp with memory-mapped weights under the limit. Its repacking is off: repacked weights are a second copy in anonymous memory, and the kernel ends
/// the process for it (seen with 19.8 GB under 8 GiB). Few tokens: each takes seconds.
fn mapped(request: &Request, limit: &str, table: &mut Table) -> Result<()> {
    let arguments = ["-p", "0", "-n", "4", "-lm", "mmap", "--repack", "0"];
    let run = measure::llama_bench(&request.llama_bench, &request.gguf, Some(limit), &arguments)?;
    let speed = run.number("/0/avg_ts").context("llama-bench's report has no avg_ts")?;
    table.speed(&format!("llama.cpp mmap, decode, {limit}"), speed, run.peak);
    Ok(())
}

/// What fio gets from the pack right after a run, at random with the run's own read size and depth; empty where there is no fio.
fn drive(pack: &str, run: &Measured, phase: &str) -> Result<Vec<f64>> {
    let Some((size, depth)) = run.reads(phase) else { return Ok(Vec::new()) };
    Ok(measure::fio(pack, size, depth, false)?.into_iter().collect())
}
