//! `forebay-repack synth`.

use super::{convert, parse_share, print, print_json};
use crate::error::{Error, Result};
use crate::plan::{Neurons, Quantize};
use crate::progress::{Progress, size};
use crate::synth::{Firing, Options, Synthesis};
use crate::write::{self, pool};
use forebay_format::layout::superblock::hex;
use serde_json::json;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Arguments of `synth`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// config.json of a model, as it is on the Hub
    config: PathBuf,
    /// Pack to write
    #[arg(short, long, value_name = "OUT.fby")]
    output: PathBuf,
    /// Type of the matrices; keep is bf16
    #[arg(long, value_name = "TYPE", default_value = "q4_k", value_parser = ["keep", "q8_0", "q4_0", "q4_k", "q6_k", "mxfp4", "f16", "bf16"])]
    quantize: String,
    /// Cut dense networks whose neurons may be exactly zero into groups of neurons, or leave them whole
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = ["auto", "off"])]
    neurons: String,
    /// Share of those neurons that fires for a token, by their biases; as random weights do if not given
    #[arg(long, value_name = "N%", value_parser = parse_share)]
    active: Option<f64>,
    /// Share of a token's firing neurons that fires for the next one too
    #[arg(long, value_name = "N%", value_parser = parse_share, default_value = "75%", requires = "active")]
    overlap: f64,
    /// Let N experts of a layer share one place on disk, for models larger than the disk
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    alias: u32,
    /// How uneven routing is: 0 uniform, 1 about as in trained models
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    skew: f32,
    /// Seed of the weights
    #[arg(long, value_name = "N", default_value_t = 7)]
    seed: u64,
    /// Print the plan and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Write a sparse file with everything but the weights, for `forebay plan`
    #[arg(long, hide = true, conflicts_with_all = ["dry_run", "resume", "force"])]
    outline: bool,
    /// Go on with an unfinished pack
    #[arg(long)]
    resume: bool,
    /// Replace an existing pack
    #[arg(long)]
    force: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Makes up a pack, or prints what it would be.
pub fn run(args: &Args, cancel: &AtomicBool) -> Result<()> {
    let start = Instant::now();
    let quantize = Quantize::from_name(&args.quantize).ok_or_else(|| Error::Usage(format!("unknown type {}", args.quantize)))?;
    let neurons = if args.neurons == "auto" { Neurons::Auto } else { Neurons::Off };
    let firing = args.active.map(|active| Firing { active, overlap: args.overlap });
    let options = Options { quantize, neurons, firing, alias: args.alias, skew: args.skew, seed: args.seed };
    let synthesis = Synthesis::new(&args.config, options)?;
    let plan = &synthesis.plan;
    if args.dry_run {
        return convert::dry_run(plan, &args.config, &args.output, args.json);
    }
    if args.outline {
        return write::outline::outline(plan, &args.output);
    }
    plan.remarks.iter().for_each(|r| eprintln!("{r}"));
    let weights = synthesis.weights()?;
    let progress = Progress::new("writing", plan.payload_bytes());
    let options = write::Options {
        resume: args.resume,
        force: args.force,
        threads: pool::default_threads(),
        group_bytes: write::GROUP_BYTES,
        cancel,
        media: &write::media::System,
        watch: &progress,
    };
    let outcome = write::make_up(&synthesis.checkpoint, &weights, plan, &args.output, &options);
    progress.finish();
    let report = outcome?;
    let seconds = start.elapsed().as_secs_f64();
    let s = &report.superblock;
    let notes = &plan.manifest.provenance.notes;
    if args.json {
        return print_json(&json!({
            "output": args.output, "bytes": s.file_bytes, "pack_id": hex(&s.pack_id), "content_id": hex(&s.content_id),
            "architecture": plan.manifest.provenance.architecture, "quantize": quantize.name(), "layers": plan.manifest.trunk.len(),
            "alias": args.alias, "skew": args.skew, "seed": args.seed, "resumed_bytes": report.resumed_bytes,
            "written_bytes": report.written_bytes, "seconds": seconds, "remarks": plan.remarks, "notes": notes,
        }));
    }
    let notes: Vec<String> = notes.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    print(&format!(
        "{}: {}, {} layers, {} ({seconds:.1} s, {}/s)\n",
        args.output.display(),
        size(s.file_bytes),
        plan.manifest.trunk.len(),
        notes.join("; "),
        size((report.written_bytes as f64 / seconds) as u64)
    ))
}
