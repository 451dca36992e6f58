//! What each step from reading and computing in turns to full overlap brings: one pack under one limit, the schedules in alternation, medians.

use crate::measure::{self, median, spread};
use anyhow::{Context, Result, bail};

/// Flags of `bench`, and what they say; each does one thing more than the one before, but for the last.
const SCHEDULES: [(&[&str], &str); 6] = [
    (&["--schedule", "turns"], "each miss read whole, one after the other, then computed"),
    (&["--schedule", "queued"], "all misses of a layer queued at once"),
    (&["--schedule", "arrival"], "shared expert and hits computed meanwhile, misses as they arrive, whole"),
    (&["--schedule", "slices"], "misses slice by slice"),
    (&["--schedule", "ahead"], "the next layers read ahead"),
    (&["--no-sums"], "the same, sums not checked"),
];

/// `PACK [--limit 4G] [--tokens 32] [--runs 3]`
pub fn run(arguments: &[String]) -> Result<()> {
    let (mut pack, mut limit, mut tokens, mut runs) = (None, "4G".to_string(), "32".to_string(), 3usize);
    let mut rest = arguments.iter();
    while let Some(a) = rest.next() {
        let mut value = || rest.next().cloned().with_context(|| format!("{a} needs a value"));
        match a.as_str() {
            "--limit" => limit = value()?,
            "--tokens" => tokens = value()?,
            "--runs" => runs = value()?.parse().context("--runs takes a number")?,
            _ if !a.starts_with('-') && pack.is_none() => pack = Some(a.clone()),
            other => bail!("unknown argument {other}"),
        }
    }
    let Some(pack) = pack.filter(|_| runs > 0) else { bail!("usage: cargo x ablation PACK [--limit 4G] [--tokens 32] [--runs 3]") };
    measure::build()?;
    let mut found = SCHEDULES.map(|_| [vec![], vec![], vec![]]);
    for _ in 0..runs {
        for ((flags, _), [speed, stall, efficiency]) in SCHEDULES.iter().zip(&mut found) {
            let run = measure::forebay(&pack, &limit, &[&["-p", "0", "-n", &tokens], *flags].concat())?;
            let keep = |list: &mut Vec<f64>, key: &str| list.extend(run.number(&format!("/median/warm/{key}")));
            keep(speed, "tokens_per_second");
            keep(stall, "stall_seconds");
            keep(efficiency, "efficiency");
        }
    }
    println!("Medians of {runs}, {tokens} tokens after 32, limit {limit}.\n");
    println!("| schedule | tokens/s | over the one before | seconds waiting | efficiency |\n|---|---|---|---|---|");
    let mut before = None;
    for ((flags, text), [speed, stall, efficiency]) in SCHEDULES.iter().zip(found) {
        let middle = median(speed.clone());
        let gain = middle.zip(before).map_or("".into(), |(now, before): (f64, f64)| format!("{:.2}x", now / before));
        before = middle;
        println!("| `{}`: {text} | {} | {gain} | {} | {} |", flags.join(" "), spread(speed), spread(stall), spread(efficiency));
    }
    Ok(())
}
