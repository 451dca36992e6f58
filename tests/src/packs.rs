//! Checkpoint to pack in this process, into a temporary directory.

use forebay_repack::plan::{Plan, Quantize};
use forebay_repack::write::{self, media};
use forebay_repack::{arch, source};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Converts `source` into `dir/model.fby`, weights unchanged.
pub fn convert(source: &Path, dir: &Path) -> forebay_repack::Result<PathBuf> {
    let pack = dir.join("model.fby");
    let checkpoint = source::open(source)?;
    let binding = arch::bind(&checkpoint)?;
    let plan = Plan::new(&checkpoint, &binding, Quantize::Keep)?;
    let options = write::Options {
        resume: false,
        force: false,
        threads: 2,
        group_bytes: write::GROUP_BYTES,
        cancel: &AtomicBool::new(false),
        media: &media::System,
        watch: &write::Silent,
    };
    write::convert(&checkpoint, &plan, &pack, &options)?;
    Ok(pack)
}
