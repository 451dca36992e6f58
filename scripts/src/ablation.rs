//! What each step from reading and computing in turns to full overlap brings: one pack under one limit, all schedules in one run, a few tokens each in turn.

use crate::measure::{self, median, spread};
use anyhow::{Context, Result, bail};

/// Ways of `bench --in-turns`, and what they say; each does one thing more than the one before, but for the last two.
const WAYS: [(&str, &str); 7] = [
    ("turns", "each miss read whole, one after the other, then computed"),
    ("queued", "all misses of a layer queued at once"),
    ("arrival", "shared expert and hits computed meanwhile, misses as they arrive, whole"),
    ("slices", "misses slice by slice"),
    ("ahead", "the next layers read ahead: the product"),
    ("unchecked", "the same, sums not checked"),
    ("computing", "every expert said to be in memory: computing alone"),
];

/// `PACK [--limit 4G] [--tokens 560] [--runs 3]`
pub fn run(arguments: &[String]) -> Result<()> {
    let (mut pack, mut limit, mut tokens, mut runs) = (None, "4G".to_string(), "560".to_string(), 3usize);
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
    let Some(pack) = pack.filter(|_| runs > 0) else { bail!("usage: cargo x ablation PACK [--limit 4G] [--tokens 560] [--runs 3]") };
    measure::build()?;
    let mut found = WAYS.map(|_| [vec![], vec![], vec![]]);
    for _ in 0..runs {
        let run = measure::forebay(&pack, &limit, &["-p", "0", "-n", &tokens, "--in-turns"])?;
        for ((way, _), [time, stall, bytes]) in WAYS.iter().zip(&mut found) {
            let number = |key: &str| run.number(&format!("/median/way_{way}/{key}"));
            let a_token = |key: &str| Some(number(key)? / number("tokens")?);
            time.extend(a_token("seconds").map(|s| s * 1e3));
            stall.extend(a_token("stall_seconds").map(|s| s * 1e3));
            bytes.extend(a_token("bytes_read").map(|b| b / 1e6));
        }
    }
    println!("Medians of {runs}, {tokens} tokens after 32 shared among the ways, limit {limit}.\n");
    println!("| way | ms a token | over the one before | ms waiting | MB read |\n|---|---|---|---|---|");
    let mut before = None;
    for ((way, text), [time, stall, bytes]) in WAYS.iter().zip(found) {
        let middle = median(time.clone());
        let gain = middle.zip(before).map_or("".into(), |(now, before): (f64, f64)| format!("{:.2}x", before / now));
        before = middle;
        println!("| `{way}`: {text} | {} | {gain} | {} | {} |", spread(time), spread(stall), spread(bytes));
    }
    Ok(())
}
