//! Speed beside llama.cpp: the same weights, the same memory limits with page cache counted, alternating runs, medians.

mod table;

use crate::measure::{self, Measured};
use anyhow::{Context, Result, bail};
use table::Table;

struct Request {
    gguf: String,
    llama_bench: String,
    ik_llama_bench: Option<String>,
    limits: Vec<String>,
    prompts: Vec<String>,
    tokens: String,
    runs: usize,
    mmap: bool,
}

const USAGE: &str = "usage: cargo x compare GGUF --llama-bench PATH [--ik-llama-bench PATH] [--limits 8G,4G] [--prompts 64,256,512] [--tokens 48] [--runs 3] [--no-mmap]";

/// Parses the arguments, measures, and prints a table.
pub fn run(arguments: &[String]) -> Result<()> {
    let request = parse(arguments)?;
    measure::build()?;
    let pack = measure::pack_of(&request.gguf)?;
    let mut table = Table::default();
    for round in 1..=request.runs {
        eprintln!("round {round} of {}", request.runs);
        in_ram(&request, "llama.cpp", &request.llama_bench, &["-lm", "none"], &mut table)?;
        if let Some(ik) = &request.ik_llama_bench {
            in_ram(&request, "ik_llama.cpp", ik, &["-rtr", "1"], &mut table)?;
        }
        at_hand(&pack)?;
        for (i, limit) in request.limits.iter().enumerate() {
            let run = measure::forebay(&pack, limit, &["-p", "0", "-n", &request.tokens])?;
            table.forebay(&format!("decode, {limit}"), &run, "warm", &drive(&pack, &run, "warm")?);
            if i == 0 {
                table.computing_alone("decode", &run, "warm");
            }
        }
        if let Some(limit) = request.limits.first() {
            for prompt in &request.prompts {
                let run = measure::forebay(&pack, limit, &["-p", prompt, "-n", "0"])?;
                table.forebay(&format!("prompt of {prompt}, cold, {limit}"), &run, "prompt", &drive(&pack, &run, "prompt")?);
                table.computing_alone(&format!("prompt of {prompt}"), &run, "prompt");
            }
            if request.mmap {
                at_hand(&request.gguf)?;
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
        ik_llama_bench: None,
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
            "--ik-llama-bench" => request.ik_llama_bench = Some(value()?),
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

/// llama.cpp, or its relative ik_llama.cpp, with all weights in memory and repacked as it reads them.
fn in_ram(request: &Request, name: &str, program: &str, repacked: &[&str], table: &mut Table) -> Result<()> {
    let prompts = if request.prompts.is_empty() { "0".to_string() } else { request.prompts.join(",") };
    let arguments = [repacked, &["-n", "32", "-p", &prompts]].concat();
    let run = measure::llama_bench(program, &request.gguf, None, &arguments)?;
    for test in run.report.as_array().into_iter().flatten() {
        let count = |key: &str| test[key].as_u64().unwrap_or(0);
        let work = match (count("n_prompt"), count("n_gen")) {
            (0, _) => "decode".to_string(),
            (prompt, _) => format!("prompt of {prompt}"),
        };
        let speed = test["avg_ts"].as_f64().context("llama-bench's report has no avg_ts")?;
        table.speed(&format!("{name} in RAM, {work}"), speed, None);
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

/// Reads a file once before programs that read it while they are measured. A virtual drive is as fast as what its host remembers, and the program before has just read another file of
/// this size: the same run gave 5.8 tokens a second right after one and 8.3 after runs of its own.
fn at_hand(file: &str) -> Result<()> {
    let rate = measure::read_through(file)?;
    eprintln!("{file}: read once, {:.2} GB/s", rate / 1e9);
    Ok(())
}

/// What fio gets from the pack right after a run, at random with the run's own read size and depth; empty where there is no fio.
fn drive(pack: &str, run: &Measured, phase: &str) -> Result<Vec<f64>> {
    let Some((size, depth)) = run.reads(phase) else { return Ok(Vec::new()) };
    Ok(measure::fio(pack, size, depth, false)?.into_iter().collect())
}
