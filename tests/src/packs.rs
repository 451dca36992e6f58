//! Checkpoint to pack in this process, into a temporary directory.

use crate::{shared, toy};
use forebay_repack::plan::{Choices, Neurons, Plan, Quantize, Tilings};
use forebay_repack::write::{self, media};
use forebay_repack::{arch, source};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Converts `source` into `dir/model.fby`, weights unchanged, networks whole.
pub fn convert(source: &Path, dir: &Path) -> forebay_repack::Result<PathBuf> {
    with(source, &dir.join("model.fby"), Neurons::Off, Quantize::Keep)
}

/// Converts `source` into `dir/neurons.fby`, in groups of neurons where that can be exact.
pub fn convert_grouped(source: &Path, dir: &Path) -> forebay_repack::Result<PathBuf> {
    with(source, &dir.join("neurons.fby"), Neurons::Auto, Quantize::Keep)
}

/// A dense model with a sparse activation, of two layers, that every clone has: a checkpoint in `dir/toy`.
///
/// # Panics
/// If it cannot be written.
pub fn sparse_toy(dir: &Path) -> PathBuf {
    let source = dir.join("toy");
    toy::write_sparse(&source).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
    source
}

/// The trained model with a sparse activation if it is there, else the toy.
pub fn sparse_model(dir: &Path) -> PathBuf {
    shared::shared().map_or_else(|| sparse_toy(dir), |s| s.join("models/relu-llama-19m"))
}

/// Converts `source` into `pack`.
pub fn with(source: &Path, pack: &Path, neurons: Neurons, quantize: Quantize) -> forebay_repack::Result<PathBuf> {
    chosen(source, pack, Choices { quantize, neurons, tilings: Tilings::Auto, copies: 1 })
}

/// Converts `source` into `pack` as chosen.
pub fn chosen(source: &Path, pack: &Path, choices: Choices) -> forebay_repack::Result<PathBuf> {
    let checkpoint = source::open(source)?;
    let binding = arch::bind(&checkpoint)?;
    let plan = Plan::with(&checkpoint, &binding, choices)?;
    let options = write::Options {
        resume: false,
        force: false,
        threads: 2,
        group_bytes: write::GROUP_BYTES,
        cancel: &AtomicBool::new(false),
        media: &media::System,
        watch: &write::Silent,
    };
    write::convert(&checkpoint, &plan, pack, &options)?;
    Ok(pack.to_path_buf())
}
