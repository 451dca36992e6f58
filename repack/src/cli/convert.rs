//! `forebay-repack convert`.

use super::{print, print_json};
use crate::error::{Error, Result};
use crate::plan::kinds::kind_name;
use crate::plan::{Choices, Neurons, Plan, Quantize, Tilings};
use crate::progress::{Progress, size};
use crate::write::{self, output, pool};
use crate::{arch, source};
use forebay_format::Kind;
use forebay_format::layout::superblock::hex;
use forebay_format::validate_pack::role_name;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// Arguments of `convert`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// A Hugging Face directory, or a GGUF file (any part of a split one)
    source: PathBuf,
    /// Pack to write
    #[arg(short, long, value_name = "OUT.fby")]
    output: PathBuf,
    /// What to do with float weights; quantised ones always move unchanged
    #[arg(long, value_name = "TYPE", default_value = "keep", value_parser = ["keep", "q8_0", "q4_0", "q4_k", "q6_k", "mxfp4", "f16", "bf16"])]
    quantize: String,
    /// Cut dense networks whose neurons may be exactly zero (relu, fatrelu, squared relu) into groups of neurons, where that is exact; or leave them whole
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = ["auto", "off"])]
    neurons: String,
    /// Interleave rows of types whose kernels are faster that way (q4_k, q5_k), sixteen at a time; or store all rows one after the other
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = ["auto", "off"])]
    tiling: String,
    /// Measure on this text how well the sketches predict which neurons fire: runs `forebay calibrate` on the finished pack
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["dry_run", "outline"])]
    calibrate: Option<PathBuf>,
    /// Print the plan and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Write a sparse file with everything but the weights, for `forebay plan`
    #[arg(long, hide = true, conflicts_with_all = ["dry_run", "resume", "force"])]
    outline: bool,
    /// Go on with an unfinished conversion
    #[arg(long)]
    resume: bool,
    /// Replace an existing pack
    #[arg(long)]
    force: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Converts, or prints what a conversion would do.
pub fn run(args: &Args, cancel: &AtomicBool) -> Result<()> {
    let start = Instant::now();
    let quantize = Quantize::from_name(&args.quantize).ok_or_else(|| Error::Usage(format!("unknown type {}", args.quantize)))?;
    let checkpoint = if args.outline { source::open_header(&args.source)? } else { source::open(&args.source)? };
    let binding = arch::bind(&checkpoint)?;
    let neurons = if args.neurons == "auto" { Neurons::Auto } else { Neurons::Off };
    let tilings = if args.tiling == "auto" { Tilings::Auto } else { Tilings::Off };
    let plan = Plan::with(&checkpoint, &binding, Choices { quantize, neurons, tilings, copies: 1 })?;
    if args.dry_run {
        return dry_run(&plan, &args.source, &args.output, args.json);
    }
    if args.outline {
        return write::outline::outline(&plan, &args.output);
    }
    if args.calibrate.is_some() && plan.manifest.neurons.is_empty() {
        return Err(Error::Usage("--calibrate: this pack has no groups of neurons whose firing could be predicted".into()));
    }
    plan.remarks.iter().for_each(|r| eprintln!("{r}"));
    let progress = Progress::new("converting", plan.payload_bytes());
    let options = write::Options {
        resume: args.resume,
        force: args.force,
        threads: pool::default_threads(),
        group_bytes: write::GROUP_BYTES,
        cancel,
        media: &write::media::System,
        watch: &progress,
    };
    let outcome = write::convert(&checkpoint, &plan, &args.output, &options);
    progress.finish();
    let report = outcome?;
    if let Some(text) = &args.calibrate {
        calibrate(&args.output, text)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    let s = &report.superblock;
    let experts: u32 = plan.runs.iter().filter(|r| r.id.kind == Kind::Expert).map(|r| r.copies).sum();
    if args.json {
        return print_json(&json!({
            "output": args.output, "bytes": s.file_bytes, "pack_id": hex(&s.pack_id), "content_id": hex(&s.content_id),
            "architecture": plan.manifest.provenance.architecture, "quantize": quantize.name(), "layers": plan.manifest.trunk.len(),
            "experts": experts, "resumed_bytes": report.resumed_bytes, "written_bytes": report.written_bytes, "seconds": seconds,
            "remarks": plan.remarks,
        }));
    }
    let rate = report.written_bytes as f64 / seconds;
    print(&format!(
        "{}: {}, {} layers, {experts} experts, content {} ({seconds:.1} s, {}/s)\n",
        args.output.display(),
        size(s.file_bytes),
        plan.manifest.trunk.len(),
        &hex(&s.content_id)[..16],
        size(rate as u64)
    ))
}

/// Runs `forebay calibrate`, the one beside this program or else the one that the shell would find. What it says goes to our standard error.
fn calibrate(pack: &Path, text: &Path) -> Result<()> {
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name("forebay")).filter(|path| path.exists());
    let program = beside.unwrap_or_else(|| PathBuf::from("forebay"));
    let status = Command::new(&program).arg("calibrate").arg(pack).arg("-f").arg(text).stdout(std::io::stderr()).status();
    let status = status.map_err(|error| Error::Io { path: program, what: "starting forebay calibrate", error })?;
    if status.success() {
        return Ok(());
    }
    // A signal has no code.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Err(Error::Calibration { pack: pack.to_owned(), code })
}

/// Runs and bytes of each kind.
fn by_kind(plan: &Plan) -> BTreeMap<Kind, (u64, u64, u64)> {
    let mut kinds = BTreeMap::new();
    for r in &plan.runs {
        let (count, bytes, padding) = kinds.entry(r.id.kind).or_insert((0, 0, 0));
        *count += u64::from(r.copies);
        *bytes += r.length;
        *padding += r.length - r.used;
    }
    kinds
}

/// Types of each role, with the number of tensors.
fn types(plan: &Plan) -> BTreeMap<String, BTreeMap<&'static str, u64>> {
    let m = &plan.manifest;
    let mut types: BTreeMap<String, BTreeMap<&'static str, u64>> = BTreeMap::new();
    let mut add = |role: String, q: &'static str, n: u64| *types.entry(role).or_default().entry(q).or_default() += n;
    for p in m.embedding.iter().chain(m.trunk.iter().flatten()).chain(&m.head) {
        add(role_name(p.role), p.qtype.name(), 1);
    }
    for (layer, place) in m.experts.iter().enumerate().filter_map(|(l, p)| Some((l, p.as_ref()?))) {
        let count = plan.runs.iter().filter(|r| r.id.kind == Kind::Expert && r.id.layer as usize == layer);
        let count = count.map(|r| u64::from(r.copies)).sum();
        for (part, q) in [("expert_gate", place.gate), ("expert_up", place.up), ("expert_down", place.down)] {
            add(part.into(), q.name(), count);
        }
    }
    for n in m.neurons.iter().flatten() {
        for (part, q) in [("neuron_gate", n.gate), ("neuron_up", Some(n.up)), ("neuron_down", Some(n.down))] {
            q.into_iter().for_each(|q| add(part.into(), q.name(), 1));
        }
    }
    types
}

/// Prints a plan.
pub(super) fn dry_run(plan: &Plan, source: &Path, output: &Path, as_json: bool) -> Result<()> {
    let paths = output::Paths::new(output)?;
    let need = plan.file_bytes_bound(0);
    let free = output::free_bytes(&paths.dir)?;
    let kinds = by_kind(plan);
    let m = &plan.manifest;
    let slices = m.experts.iter().flatten().next().map(|p| p.slices.len());
    let longest = |wanted: Kind| plan.runs.iter().filter(|r| r.id.kind == wanted).map(|r| r.length).max();
    if as_json {
        let kinds: serde_json::Map<_, _> = kinds
            .iter()
            .map(|(k, (n, bytes, padding))| (kind_name(*k).into(), json!({ "runs": n, "bytes": bytes, "padding": padding })))
            .collect();
        return print_json(&json!({
            "dry_run": true, "architecture": m.provenance.architecture, "quantize": plan.quantize.name(), "layers": m.trunk.len(),
            "pack_id": hex(&plan.pack_id), "bytes": need, "free_bytes": free, "kinds": kinds, "types": types(plan),
            "expert_bytes": longest(Kind::Expert), "expert_slices": slices, "group_bytes": longest(Kind::NeuronGroup), "unused": m.provenance.unused,
            "carried": m.carried.iter().map(|c| &c.name).collect::<Vec<_>>(), "remarks": plan.remarks, "notes": m.provenance.notes,
        }));
    }
    let mut text =
        format!("{}: {}, {} layers, --quantize {}\n", source.display(), m.provenance.architecture, m.trunk.len(), plan.quantize.name());
    for (kind, (count, bytes, padding)) in &kinds {
        text += &format!("  {:<12} {count:>7} runs  {:>8}  padding {}\n", kind_name(*kind), size(*bytes), size(*padding));
    }
    if let (Some(bytes), Some(slices)) = (longest(Kind::Expert), slices) {
        text += &format!("  an expert is {} in {slices} slices\n", size(bytes));
    }
    if let (Some(bytes), Some(n)) = (longest(Kind::NeuronGroup), m.neurons.iter().flatten().next()) {
        text += &format!("  a group of neurons is {} of them in {}\n", n.group, size(bytes));
    }
    text += "types\n";
    for (role, list) in types(plan) {
        let list: Vec<_> = list.iter().map(|(q, n)| format!("{q} x {n}")).collect();
        text += &format!("  {role:<20} {}\n", list.join(", "));
    }
    for r in &plan.remarks {
        text += &format!("{r}\n");
    }
    for (key, value) in &m.provenance.notes {
        text += &format!("{key}: {value}\n");
    }
    let verdict = if free < need { "NOT ENOUGH" } else { "enough" };
    text += &format!("needs {} in {}, {} free: {verdict}\n", size(need), paths.dir.display(), size(free));
    print(&text)
}
