//! Decode speed beside llama.cpp: the same weights, the same memory limit with page cache counted, alternating runs, medians.

use crate::shell::{self, command, output, release_dir, root};
use anyhow::{Context, Result, bail};
use serde_json::Value;

struct Request {
    gguf: String,
    llama_bench: String,
    limit: String,
    tokens: String,
    runs: usize,
}

/// Parses the arguments and prints a table.
pub fn run(arguments: &[String]) -> Result<()> {
    let request = parse(arguments)?;
    shell::run(command("cargo", &["build", "--release", "--locked", "--package", "forebay", "--package", "forebay-repack"]))?;
    let pack = format!("{}.fby", request.gguf.trim_end_matches(".gguf"));
    if !std::path::Path::new(&pack).exists() {
        let repack = release_dir().join("forebay-repack");
        shell::run(command(repack, &["convert", &request.gguf, "-o", &pack]))?;
    }
    let (mut ours, mut theirs, mut detail) = (Vec::new(), Vec::new(), Value::Null);
    for _ in 0..request.runs {
        let report = forebay(&request, &pack)?;
        ours.push(report["decode"]["tokens_per_second"].as_f64().context("no decode.tokens_per_second")?);
        detail = report;
        theirs.push(llama_cpp(&request)?);
    }
    let (ours, theirs) = (median(ours), median(theirs));
    println!("| limit {} | tokens/s | MB read per token | window hits |", request.limit);
    println!("|---|---|---|---|");
    let mb = detail["decode"]["bytes_read_per_token"].as_f64().unwrap_or(f64::NAN) / 1e6;
    let hits = detail["decode"]["hit_rate"].as_f64().unwrap_or(f64::NAN) * 100.0;
    println!("| forebay | {ours:.2} | {mb:.0} | {hits:.0}% |");
    println!("| llama.cpp, mmap | {theirs:.2} | | |");
    println!("\nratio of medians of {}: {:.1}", request.runs, ours / theirs);
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Request> {
    let mut request = Request { gguf: String::new(), llama_bench: String::new(), limit: "8G".into(), tokens: "48".into(), runs: 3 };
    let mut rest = arguments.iter();
    while let Some(a) = rest.next() {
        let mut value = || rest.next().cloned().with_context(|| format!("{a} needs a value"));
        match a.as_str() {
            "--llama-bench" => request.llama_bench = value()?,
            "--limit" => request.limit = value()?,
            "--tokens" => request.tokens = value()?,
            "--runs" => request.runs = value()?.parse().context("--runs takes a number")?,
            _ if !a.starts_with('-') && request.gguf.is_empty() => request.gguf = a.clone(),
            other => bail!("unknown argument {other}"),
        }
    }
    if request.gguf.is_empty() || request.llama_bench.is_empty() || request.runs == 0 {
        bail!("usage: cargo x compare GGUF --llama-bench PATH [--limit 8G] [--tokens 48] [--runs 3]");
    }
    Ok(request)
}

fn limited(request: &Request, program: &str, arguments: &[&str]) -> std::process::Command {
    let script = root().join("scripts/with-ram-limit.sh").to_string_lossy().into_owned();
    let mut line = vec![script.as_str(), request.limit.as_str(), program];
    line.extend_from_slice(arguments);
    command("bash", &line)
}

fn forebay(request: &Request, pack: &str) -> Result<Value> {
    let program = release_dir().join("forebay").to_string_lossy().into_owned();
    let prompt = "It was a dark evening in London, and";
    let text = output(limited(
        request,
        &program,
        &[
            "run",
            pack,
            prompt,
            "--raw",
            "-n",
            &request.tokens,
            "--temp",
            "1",
            "--seed",
            "1",
            "-c",
            "512",
            "--ram",
            &request.limit,
            "--json",
        ],
    ))?;
    serde_json::from_str(&text).context("forebay run --json did not print one JSON object")
}

/// llama-bench's generation speed with memory-mapped weights. Its repacking is off: repacked weights are a second copy in anonymous memory, and
/// the kernel ends the process for it (seen with 19.8 GB under 8 GiB).
fn llama_cpp(request: &Request) -> Result<f64> {
    let text = output(limited(
        request,
        &request.llama_bench,
        &["-m", &request.gguf, "-p", "0", "-n", "4", "-r", "1", "-t", "2", "-lm", "mmap", "--repack", "0", "-o", "json"],
    ))?;
    let start = text.find('[').context("llama-bench printed no JSON")?;
    let report: Value = serde_json::from_str(&text[start..]).context("llama-bench printed no JSON")?;
    report[0]["avg_ts"].as_f64().context("llama-bench's report has no avg_ts")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
