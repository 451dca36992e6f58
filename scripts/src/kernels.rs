//! Kernels beside llama.cpp's: dense models of one shape and many types, everything in memory, the same threads, runs in turn, medians.

use crate::measure;
use crate::shell::{self, command, release_dir, root};
use anyhow::{Context, Result, bail};
use std::path::PathBuf;

/// The types of the table, as GGUF names them.
const TYPES: [&str; 7] = ["Q8_0", "Q6_K", "Q4_0", "Q4_K", "IQ4_XS", "MXFP4", "BF16"];

const USAGE: &str =
    "usage: cargo x kernels --llama-bench PATH [--dir DIR] [--shape 1b] [--prompt 512] [--tokens 64] [--runs 3] [--keep] [TYPE]...";

struct Request {
    llama_bench: String,
    dir: PathBuf,
    shape: String,
    prompt: String,
    tokens: String,
    runs: usize,
    keep: bool,
    types: Vec<String>,
}

/// Tokens a second.
#[derive(Clone, Copy)]
struct Speed {
    decode: f64,
    prompt: f64,
}

/// Parses the arguments and prints a table.
pub fn run(arguments: &[String]) -> Result<()> {
    let request = parse(arguments)?;
    measure::build()?;
    println!(
        "| type | decode, forebay | llama.cpp | ratio | prompt of {}, forebay | llama.cpp | ratio |\n|---|---|---|---|---|---|---|",
        request.prompt
    );
    let mut ratios = Vec::new();
    for t in &request.types {
        let [ours, theirs] = compare(&request, t)?;
        let ratio = Speed { decode: ours.decode / theirs.decode, prompt: ours.prompt / theirs.prompt };
        println!(
            "| {t} | {:.1} | {:.1} | {:.2} | {:.1} | {:.1} | {:.2} |",
            ours.decode, theirs.decode, ratio.decode, ours.prompt, theirs.prompt, ratio.prompt
        );
        ratios.push(ratio);
    }
    let mean = |of: fn(&Speed) -> f64| (ratios.iter().map(|r| of(r).ln()).sum::<f64>() / ratios.len() as f64).exp();
    println!(
        "\ngeometric means of the ratios: decode {:.2}, prompt {:.2}; medians of {} runs",
        mean(|r| r.decode),
        mean(|r| r.prompt),
        request.runs
    );
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Request> {
    let mut request = Request {
        llama_bench: String::new(),
        dir: std::env::temp_dir(),
        shape: "1b".into(),
        prompt: "512".into(),
        tokens: "64".into(),
        runs: 3,
        keep: false,
        types: Vec::new(),
    };
    let mut rest = arguments.iter();
    while let Some(a) = rest.next() {
        let mut value = || rest.next().cloned().with_context(|| format!("{a} needs a value"));
        match a.as_str() {
            "--llama-bench" => request.llama_bench = value()?,
            "--dir" => request.dir = value()?.into(),
            "--shape" => request.shape = value()?,
            "--prompt" => request.prompt = value()?,
            "--tokens" => request.tokens = value()?,
            "--runs" => request.runs = value()?.parse().context("--runs takes a number")?,
            "--keep" => request.keep = true,
            t if TYPES.contains(&t) => request.types.push(t.into()),
            other => bail!("unknown argument {other}\n{USAGE}"),
        }
    }
    if request.llama_bench.is_empty() || request.runs == 0 {
        bail!("{USAGE}");
    }
    if request.types.is_empty() {
        request.types = TYPES.map(String::from).into();
    }
    Ok(request)
}

/// Medians of both programs on a model of one type. Files are made when they are not there, and removed afterwards unless they are to be kept.
fn compare(request: &Request, t: &str) -> Result<[Speed; 2]> {
    let gguf = request.dir.join(format!("dense-{}-{t}.gguf", request.shape));
    let gguf_name = gguf.to_string_lossy().into_owned();
    if !gguf.exists() {
        let script = root().join("scripts/oracle/dense_gguf.py").to_string_lossy().into_owned();
        shell::run(command("python3", &[&script, &gguf_name, "--shape", &request.shape, "--type", t]))?;
    }
    let pack = measure::pack_of(&gguf_name)?;
    let mut runs: [Vec<Speed>; 2] = Default::default();
    for _ in 0..request.runs {
        runs[0].push(forebay(request, &pack)?);
        runs[1].push(llama_cpp(request, &gguf_name)?);
    }
    if !request.keep {
        std::fs::remove_file(&gguf)?;
        std::fs::remove_file(&pack)?;
    }
    let median = |runs: &[Speed], of: fn(&Speed) -> f64| measure::median(runs.iter().map(of).collect()).unwrap_or(f64::NAN);
    Ok(runs.map(|runs| Speed { decode: median(&runs, |s| s.decode), prompt: median(&runs, |s| s.prompt) }))
}

fn forebay(request: &Request, pack: &str) -> Result<Speed> {
    let program = release_dir().join("forebay").to_string_lossy().into_owned();
    let line = [&program, "bench", pack, "-p", &request.prompt, "-n", &request.tokens, "--warmup", "4", "-r", "1", "-t", "2", "-o", "json"];
    let measured = measure::run(None, &line)?;
    let speed =
        |phase: &str| measured.number(&format!("/median/{phase}/tokens_per_second")).with_context(|| format!("no speed of {phase}"));
    Ok(Speed { decode: speed("warm")?, prompt: speed("prompt")? })
}

/// llama-bench as it comes, with its repacking. Its own warm-up runs are not counted.
fn llama_cpp(request: &Request, gguf: &str) -> Result<Speed> {
    let report = measure::llama_bench(&request.llama_bench, gguf, None, &["-p", &request.prompt, "-n", &request.tokens])?.report;
    let speed = |generated: bool| {
        let runs = report.as_array().into_iter().flatten();
        let mut speeds = runs.filter(|r| (r["n_gen"].as_u64() > Some(0)) == generated).filter_map(|r| r["avg_ts"].as_f64());
        speeds.next().context("llama-bench's report has no avg_ts")
    };
    Ok(Speed { decode: speed(true)?, prompt: speed(false)? })
}
