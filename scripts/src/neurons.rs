//! What each step of "LLM in a flash" (Alizadeh et al. 2023, table 2) brings on this machine: one pack with neuron groups under one memory limit, one switch more
//! in each row. A table, and a picture.

use crate::measure;
use anyhow::{Context, Result, bail};
use forebay::plot::{Chart, Line, svg};

/// The rows: what is said of them, their names in the picture if they are steps, and the switches of `forebay bench`.
const ROWS: [(&str, Option<&str>, &[&str]); 6] = [
    ("naive: every neuron read for every token", Some("naive"), &["--sparsity", "off", "--window-tokens", "0"]),
    ("half resident: what fits stays", Some("half resident"), &["--sparsity", "off"]),
    ("+ selection: predicted neurons only", Some("+ selection"), &["--sparsity", "predicted", "--window-tokens", "0", "--unbundled"]),
    ("+ windowing: recent neurons stay", Some("+ windowing"), &["--sparsity", "predicted", "--unbundled"]),
    ("+ bundling: a neuron in one read", Some("+ bundling"), &["--sparsity", "predicted"]),
    ("(selection and bundling, no window)", None, &["--sparsity", "predicted", "--window-tokens", "0"]),
];

struct Request {
    pack: String,
    limit: String,
    tokens: u32,
    warmup: u32,
    picture: Option<String>,
}

/// Parses the arguments, measures and prints.
pub fn run(arguments: &[String]) -> Result<()> {
    let request = parse(arguments)?;
    measure::build()?;
    let (tokens, warmup) = (request.tokens.to_string(), request.warmup.to_string());
    let mut rows = Vec::new();
    println!("| under {} | MB read/token | reads/token | KiB a read | window hits | reading, ms/token | token, ms |", request.limit);
    println!("|---|---:|---:|---:|---:|---:|---:|");
    for (title, step, switches) in ROWS {
        let common = ["-p", "0", "-n", tokens.as_str(), "--warmup", warmup.as_str()];
        let measured = measure::forebay(&request.pack, &request.limit, &[&common[..], switches].concat())?;
        let number = |key: &str| measured.number(&format!("/median/warm/{key}")).with_context(|| format!("no {key} in the report"));
        let (read, total) = (number("group_read_seconds")? * 1e3, number("seconds")? / number("tokens")? * 1e3);
        let (hits, reads, size) = (number("hit_rate")? * 100.0, number("reads")? / number("tokens")?, number("read_bytes_p50")? / 1024.0);
        let megabytes = number("bytes_read_per_token")? / 1e6;
        println!("| {title} | {megabytes:.0} | {reads:.0} | {size:.0} | {hits:.0}% | {read:.0} | {total:.0} |");
        rows.extend(step.map(|name| (name, read, total)));
    }
    if let Some(path) = &request.picture {
        std::fs::write(path, picture(&rows)).with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

fn parse(arguments: &[String]) -> Result<Request> {
    let mut request = Request { pack: String::new(), limit: String::new(), tokens: 4, warmup: 4, picture: None };
    let mut rest = arguments.iter();
    while let Some(a) = rest.next() {
        let mut value = || rest.next().cloned().with_context(|| format!("{a} needs a value"));
        match a.as_str() {
            "--limit" => request.limit = value()?,
            "--tokens" => request.tokens = value()?.parse().context("--tokens takes a number")?,
            "--warmup" => request.warmup = value()?.parse().context("--warmup takes a number")?,
            "--svg" => request.picture = Some(value()?),
            _ if !a.starts_with('-') && request.pack.is_empty() => request.pack = a.clone(),
            other => bail!("unknown argument {other}"),
        }
    }
    if request.pack.is_empty() || request.limit.is_empty() || request.tokens == 0 || request.warmup == 0 {
        bail!("usage: cargo x neurons PACK --limit 6500M [--tokens 4] [--warmup 4] [--svg OUT]");
    }
    Ok(request)
}

/// Steps with their milliseconds of reading, and of all.
fn picture(measured: &[(&str, f64, f64)]) -> String {
    let line = |label: &str, of: fn(&(&str, f64, f64)) -> f64, dashed| Line {
        label: label.into(),
        points: measured.iter().enumerate().map(|(i, m)| (i as f64, of(m))).collect(),
        dashed,
    };
    svg(&[Chart {
        title: "Milliseconds a token".into(),
        x_label: "one switch more in each step".into(),
        y_label: "ms".into(),
        logarithmic: false,
        ticks: measured.iter().enumerate().map(|(i, m)| (i as f64, m.0.to_string())).collect(),
        lines: vec![line("token", |m| m.2, false), line("reading", |m| m.1, true)],
    }])
}
