//! How much of the drive a decoding run gets: bytes a second of `forebay bench` against fio on the same file, with the same read size and depth, in alternation.

use crate::measure::{self, Measured, median, spread};
use anyhow::{Context, Result, bail};

const USAGE: &str = "usage: cargo x drive PACK [--limit 4G] [--tokens 24] [--warmup 32] [--runs 3] [--sequential]";

/// `PACK [--limit 4G] [--tokens 24] [--warmup 32] [--runs 3] [--sequential]`
pub fn run(arguments: &[String]) -> Result<()> {
    let (mut pack, mut limit, mut tokens, mut warmup) = (None, "4G".to_string(), "24".to_string(), "32".to_string());
    let (mut runs, mut sequential) = (3usize, false);
    let mut rest = arguments.iter();
    while let Some(a) = rest.next() {
        let mut value = || rest.next().cloned().with_context(|| format!("{a} needs a value"));
        match a.as_str() {
            "--limit" => limit = value()?,
            "--tokens" => tokens = value()?,
            "--warmup" => warmup = value()?,
            "--runs" => runs = value()?.parse().context("--runs takes a number")?,
            "--sequential" => sequential = true,
            _ if !a.starts_with('-') && pack.is_none() => pack = Some(a.clone()),
            other => bail!("unknown argument {other}\n{USAGE}"),
        }
    }
    let Some(pack) = pack.filter(|_| runs > 0) else { bail!("{USAGE}") };
    let phase = if warmup == "0" { "cold" } else { "warm" };
    measure::build()?;
    let (mut runs_so_far, mut rates, mut drives, mut shares, mut peaks) = (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..runs {
        // fio before and after: the drive changes from minute to minute.
        let mut fio = Vec::new();
        if let Some((size, depth)) = runs_so_far.last().and_then(|run: &Measured| run.reads(phase)) {
            fio.extend(measure::fio(&pack, size, depth, sequential)?);
        }
        let run = measure::forebay(&pack, &limit, &["-p", "0", "-n", &tokens, "--warmup", &warmup])?;
        let (size, depth) = run.reads(phase).context("the run read nothing")?;
        fio.extend(measure::fio(&pack, size, depth, sequential)?);
        let number = |key: &str| run.number(&format!("/median/{phase}/{key}")).with_context(|| format!("the report has no {key}"));
        let rate = number("bytes_read")? / number("seconds")?;
        shares.extend(median(fio.clone()).map(|fio| rate / fio));
        drives.extend(fio.iter().map(|n| n / 1e9));
        rates.push(rate / 1e9);
        peaks.extend(run.peak.map(|n| n / 1e9));
        runs_so_far.push(run);
    }
    let speed = |run: &Measured| run.number(&format!("/median/{phase}/tokens_per_second"));
    println!("| limit | tokens/s | GB/s | fio GB/s, same size and depth | share | peak GB |\n|---|---|---|---|---|---|");
    let columns = [runs_so_far.iter().filter_map(speed).collect(), rates, drives, shares, peaks].map(spread).join(" | ");
    println!("| {limit} | {columns} |");
    Ok(())
}
