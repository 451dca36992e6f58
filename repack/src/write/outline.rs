//! A pack without weights: superblock, index and manifest at their places in a sparse file, zeros in between. For `forebay plan`, which computes with sizes only.
//! It opens like a pack and cannot be run: no sum matches.

use super::output::Paths;
use super::output::output_error;
use super::pieces::Ledger;
use super::tail;
use crate::error::Result;
use crate::plan::Plan;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Writes the outline of `plan` to `out`, which must not exist.
pub fn outline(plan: &Plan, out: &Path) -> Result<()> {
    let paths = Paths::new(out)?;
    let io = |what| {
        let paths = &paths;
        move |error| output_error(paths, what, 0, error)
    };
    let sums: u64 = plan.runs.iter().map(|r| plan.layout(r).chunk_count(plan.chunk_bytes) * r.copies as u64).sum();
    let mut ledger = Ledger::default();
    ledger.hashes.resize(plan.runs.len(), [0; 32]);
    ledger.sums.resize(sums as usize, 0);
    let mut plan = plan.clone();
    plan.manifest.provenance.notes.insert("outline".into(), "no weights".into());
    let tail = tail::build(&plan, &ledger, &[], out)?;
    let file = File::options().write(true).create_new(true).open(out).map_err(io("creating the outline"))?;
    file.set_len(tail.superblock.file_bytes).map_err(io("setting the outline's length"))?;
    file.write_all_at(&tail.bytes, plan.payload_end).map_err(io("writing the outline"))?;
    file.write_all_at(&tail.superblock.encode(), 0).map_err(io("writing the outline"))
}
