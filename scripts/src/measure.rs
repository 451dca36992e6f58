//! Programs that are measured, each under a memory limit that counts its page cache (`scripts/with-ram-limit.sh`, needs root).

use crate::shell::{self, command, release_dir, root};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::path::Path;

/// What a program printed, and the most memory it took, page cache counted.
pub struct Measured {
    /// Its JSON.
    pub report: Value,
    /// Bytes; `None` without a limit.
    pub peak: Option<f64>,
}

impl Measured {
    /// A number of the report by its path (`/median/warm/seconds`).
    pub fn number(&self, path: &str) -> Option<f64> {
        self.report.pointer(path)?.as_f64()
    }

    /// Of a report of `forebay bench`: bytes of a phase's median read, and how many of them are with the drive at once.
    pub fn reads(&self, phase: &str) -> Option<(u64, u64)> {
        let number = |path: &str| self.number(path).filter(|n| *n >= 4096.0).map(|n| n as u64);
        let size = number(&format!("/median/{phase}/read_bytes_p50"))?.next_multiple_of(4096);
        Some((size, (number("/settings/pace/in_flight_bytes")? / size).max(1)))
    }
}

/// Builds the release programs.
pub fn build() -> Result<()> {
    shell::run(command("cargo", &["build", "--release", "--locked", "--package", "forebay", "--package", "forebay-repack"]))
}

/// The pack beside a GGUF, converted if it is not there; a pack is itself.
pub fn pack_of(source: &str) -> Result<String> {
    let pack = format!("{}.fby", source.trim_end_matches(".gguf").trim_end_matches(".fby"));
    if !Path::new(&pack).exists() {
        let repack = release_dir().join("forebay-repack");
        shell::run(command(repack, &["convert", source, "-o", &pack]))?;
    }
    Ok(pack)
}

/// One run of `forebay bench` under `limit`.
pub fn forebay(pack: &str, limit: &str, arguments: &[&str]) -> Result<Measured> {
    let program = release_dir().join("forebay").to_string_lossy().into_owned();
    let mut line = vec![program.as_str(), "bench", pack, "--ram", limit, "-r", "1", "-o", "json"];
    line.extend_from_slice(arguments);
    run(Some(limit), &line)
}

/// llama-bench's own report.
pub fn llama_bench(program: &str, gguf: &str, limit: Option<&str>, arguments: &[&str]) -> Result<Measured> {
    let mut line = vec![program, "-m", gguf, "-t", "2", "-r", "1", "-o", "json"];
    line.extend_from_slice(arguments);
    run(limit, &line)
}

/// Bytes a second that fio reads from a file at random with direct I/O, `depth` requests of `bytes` at a time; `None` where there is no fio.
pub fn fio(file: &str, bytes: u64, depth: u64, sequential: bool) -> Result<Option<f64>> {
    if shell::command("fio", &["--version"]).output().is_err() {
        return Ok(None);
    }
    let kind = if sequential { "--rw=read" } else { "--rw=randread" };
    let (file, size, depth) = (format!("--filename={file}"), format!("--bs={bytes}"), format!("--iodepth={depth}"));
    let common = ["--name=s", "--direct=1", "--ioengine=io_uring", "--runtime=5", "--time_based", "--readonly", "--output-format=json"];
    let mut line = vec!["fio", &file, &size, &depth, kind];
    line.extend(common);
    Ok(run(None, &line)?.number("/jobs/0/read/bw_bytes"))
}

/// Reads all of a file past the page cache, so that a drive whose host caches has it at hand, as far as that goes; bytes a second.
pub fn read_through(file: &str) -> Result<f64> {
    let bytes = std::fs::metadata(file).with_context(|| file.to_string())?.len();
    let started = std::time::Instant::now();
    shell::outputs(command("dd", &[&format!("if={file}"), "of=/dev/null", "bs=4M", "iflag=direct"]))?;
    Ok(bytes as f64 / started.elapsed().as_secs_f64())
}

/// Runs a program whose standard output holds a JSON object or array.
pub fn run(limit: Option<&str>, line: &[&str]) -> Result<Measured> {
    let script = root().join("scripts/with-ram-limit.sh").to_string_lossy().into_owned();
    let mut all = Vec::new();
    if let Some(limit) = limit {
        all.extend(["bash", script.as_str(), limit]);
    }
    all.extend_from_slice(line);
    let (program, arguments) = all.split_first().context("nothing to run")?;
    let (out, err) = shell::outputs(command(program, arguments))?;
    // The report stands on lines of its own; programs may chat around it.
    let start = out.lines().scan(0, |at, line| Some((std::mem::replace(at, *at + line.len() + 1), line)));
    let start = start.into_iter().find(|(_, line)| line.starts_with(['{', '['])).map(|(at, _)| at);
    let Some(start) = start else { bail!("{} printed no JSON", line[0]) };
    let mut values = serde_json::Deserializer::from_str(&out[start..]).into_iter::<Value>();
    let report = values.next().context("no JSON")?.with_context(|| format!("{} printed no JSON", line[0]))?;
    let peak = err.lines().rev().find_map(|l| l.strip_prefix("peak memory with page cache: ")?.split(' ').next()?.parse().ok());
    Ok(Measured { report, peak })
}

/// Middle value (the mean of two); `None` for none.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some((low + high) / 2.0)
}

/// `median (least to most)` with two decimals; `-` for no values.
pub fn spread(values: Vec<f64>) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    match median(values) {
        None => "-".into(),
        Some(middle) if least == most => format!("{middle:.2}"),
        Some(middle) => format!("{middle:.2} ({least:.2} to {most:.2})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middles() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
        assert_eq!(spread(vec![2.0, 1.0, 4.0]), "2.00 (1.00 to 4.00)");
        assert_eq!(spread(vec![2.0]), "2.00");
    }

    #[test]
    fn reports_are_found_among_other_lines() {
        let found = run(None, &["printf", "hello\\n[{\"a\": 2}]\\nbye\\n"]).unwrap();
        assert_eq!(found.number("/0/a"), Some(2.0));
        assert!(run(None, &["echo", "nothing"]).is_err());
    }
}
