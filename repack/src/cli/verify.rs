//! `forebay-repack verify`.

use super::{parse_share, print, print_json};
use crate::error::{Error, Result};
use crate::plan::{Choices, Neurons, Plan, Quantize, Tilings};
use crate::progress::{Progress, size};
use crate::verify::{Depth, Findings, verify};
use crate::write::pool;
use crate::{arch, source};
use forebay_format::layout::superblock::hex;
use forebay_format::reference::{ReadError, Reader};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Arguments of `verify`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Pack to check
    file: PathBuf,
    /// Only what is not weights: superblock, sections, index, manifest, gaps
    #[arg(long, conflicts_with_all = ["sample", "source"])]
    quick: bool,
    /// Only this share of the bundles, chosen by a fixed seed that is printed
    #[arg(long, value_name = "N%", value_parser = parse_share, conflicts_with = "source")]
    sample: Option<f64>,
    /// Also compare every weight with the checkpoint that the pack was made from
    #[arg(long, value_name = "SRC")]
    source: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Verifies and lists what is wrong.
pub fn run(args: &Args, cancel: &AtomicBool) -> Result<()> {
    let start = Instant::now();
    let checkpoint = args.source.as_deref().map(source::open).transpose()?;
    let depth = match (&checkpoint, args.quick, args.sample) {
        (Some(checkpoint), ..) => {
            let binding = arch::bind(checkpoint)?;
            let plan = Box::new(Plan::with(checkpoint, &binding, choices_of(&args.file)?)?);
            Depth::Source { checkpoint, plan }
        }
        (None, true, _) => Depth::Quick,
        (None, false, Some(share)) => Depth::Sample { share },
        (None, false, None) => Depth::Full,
    };
    let bytes = std::fs::metadata(&args.file).map_or(0, |m| m.len());
    let total = if let Depth::Sample { share } = depth { (bytes as f64 * share) as u64 } else { bytes };
    let progress = Progress::new("verifying", total);
    let findings = verify(&args.file, &depth, pool::default_threads(), cancel, &progress);
    progress.finish();
    let findings = findings.map_err(|e| match e {
        // Nothing is left behind that could be resumed.
        Error::Interrupted => Error::Stopped,
        other => other,
    })?;
    report(args, &depth, &findings, start.elapsed().as_secs_f64())?;
    findings.error(&args.file).map_or(Ok(()), Err)
}

/// The choices that a pack was made with. A pack too damaged to say is verified as one that kept its bytes.
fn choices_of(file: &Path) -> Result<Choices> {
    // Which rows are interleaved the pack says itself: `Plan::adopt`.
    let tilings = Tilings::Off;
    let choices = |quantize, grouped| Choices { quantize, neurons: if grouped { Neurons::Auto } else { Neurons::Off }, tilings, copies: 1 };
    match Reader::open(file) {
        Ok(reader) => {
            let name = &reader.manifest.provenance.quantize;
            let quantize = Quantize::from_name(name).ok_or_else(|| Error::Unsupported {
                what: format!("comparing a pack made with --quantize {name}"),
                hint: "only packs that this program's convert wrote can be compared with their source".into(),
            })?;
            Ok(choices(quantize, !reader.manifest.neurons.is_empty()))
        }
        Err(ReadError::Io { error, .. }) => Err(Error::Io { path: file.to_owned(), what: "reading the pack", error }),
        Err(ReadError::Format(_)) => Ok(choices(Quantize::Keep, false)),
    }
}

fn report(args: &Args, depth: &Depth, f: &Findings, seconds: f64) -> Result<()> {
    let name = match depth {
        Depth::Quick => "quick",
        Depth::Full => "full",
        Depth::Sample { .. } => "sample",
        Depth::Source { .. } => "source",
    };
    if args.json {
        let problems: Vec<_> = f.problems.iter().map(|p| json!({ "place": p.place, "why": p.why })).collect();
        return print_json(&json!({
            "file": args.file, "ok": f.problems.is_empty(), "depth": name, "bundles": f.bundles, "bundles_total": f.bundles_total,
            "bytes": f.bytes, "seed": f.seed, "content_id": hex(&f.superblock.content_id), "problems": problems, "seconds": seconds,
        }));
    }
    let mut text: String = f.problems.iter().map(|p| format!("{}: {}\n", p.place, p.why)).collect();
    if f.problems.is_empty() {
        let seed = f.seed.map_or(String::new(), |s| format!(", sample seed {s}"));
        let what = match depth {
            Depth::Quick => "superblock, sections, index and manifest are whole (weights not read)".to_owned(),
            Depth::Source { .. } => format!("{} bundles, {}, equal to the source", f.bundles, size(f.bytes)),
            _ => format!("{} of {} bundles, {}, are whole{seed}", f.bundles, f.bundles_total, size(f.bytes)),
        };
        text += &format!("{}: ok, {what} ({seconds:.1} s)\n", args.file.display());
    }
    print(&text)
}
