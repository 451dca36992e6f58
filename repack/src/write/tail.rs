//! What follows the payload: index, manifest, source section, and the superblock that makes it all a pack.

use super::pieces::Ledger;
use crate::error::{Error, Result};
use crate::plan::Plan;
use forebay_format::layout::index::{BundleId, Index, Record};
use forebay_format::layout::manifest::{self, MAX_JSON_BYTES};
use forebay_format::layout::source::{self, NamedBytes};
use forebay_format::layout::superblock::{Section, Superblock};
use forebay_format::layout::{
    FEATURE_ALIASED, FEATURE_EXPERTS, FEATURE_NEURON_GROUPS, FEATURE_TILED_ROWS, OPTIONAL_CARRIED, OPTIONAL_SOURCE, SUPERBLOCK_BYTES,
    VERSION_MAJOR, VERSION_MINOR, align_up,
};
use forebay_format::{FormatError, validate_pack};
use std::path::Path;

/// The end of the file.
pub struct Tail {
    /// The superblock.
    pub superblock: Superblock,
    /// Bytes from the end of the payload to the end of the file, the superblock's copy included.
    pub bytes: Vec<u8>,
}

/// Builds the tail. `metadata` is what the source section keeps; it is left out if a reader would refuse its size.
pub fn build(plan: &Plan, ledger: &Ledger, metadata: &[NamedBytes], out: &Path) -> Result<Tail> {
    let format = |error: FormatError| Error::Format { file: out.to_owned(), error };
    let index = index(plan, ledger).map_err(format)?;
    validate_pack::check(&plan.manifest, &index).map_err(format)?;
    let stored_manifest = manifest::encode(&plan.manifest).map_err(format)?;
    let raw: u64 = metadata.iter().map(|(name, bytes)| (name.len() + bytes.len() + 12) as u64).sum();
    let stored_source = if raw == 0 || raw > MAX_JSON_BYTES { None } else { source::encode(metadata).ok() };
    let mut tail = Bytes { start: plan.payload_end, alignment: plan.alignment as u64, bytes: Vec::new() };
    let encoded = index.encode();
    let index_section = tail.push(&encoded, encoded.len() as u64);
    let manifest_section = tail.push(&stored_manifest.bytes, stored_manifest.raw);
    let source_section = stored_source.as_ref().map_or_else(Section::default, |s| tail.push(&s.bytes, s.raw));
    let bit = |there: bool, bit: u64| if there { bit } else { 0 };
    let superblock = Superblock {
        version: (VERSION_MAJOR, VERSION_MINOR),
        required: bit(plan.manifest.experts.iter().any(Option::is_some), FEATURE_EXPERTS)
            | bit(!plan.manifest.neurons.is_empty(), FEATURE_NEURON_GROUPS)
            | bit(plan.manifest.has_tiles(), FEATURE_TILED_ROWS)
            | bit(plan.runs.iter().any(|r| r.copies > 1), FEATURE_ALIASED),
        optional: bit(stored_source.is_some(), OPTIONAL_SOURCE) | bit(!plan.manifest.carried.is_empty(), OPTIONAL_CARRIED),
        alignment: plan.alignment,
        chunk_bytes: plan.chunk_bytes,
        file_bytes: plan.payload_end + (tail.bytes.len() + SUPERBLOCK_BYTES) as u64,
        pack_id: plan.pack_id,
        content_id: index.content_id(),
        manifest: manifest_section,
        index: index_section,
        source: source_section,
    };
    let mut bytes = tail.bytes;
    bytes.extend_from_slice(&superblock.encode());
    Ok(Tail { superblock, bytes })
}

struct Bytes {
    start: u64,
    alignment: u64,
    bytes: Vec<u8>,
}

impl Bytes {
    fn push(&mut self, stored: &[u8], raw: u64) -> Section {
        let offset = self.start + self.bytes.len() as u64;
        self.bytes.extend_from_slice(stored);
        let padded = align_up(self.bytes.len() as u64, self.alignment).unwrap_or(u64::MAX);
        self.bytes.resize(padded as usize, 0);
        Section { offset, stored: stored.len() as u64, raw, blake3: *blake3::hash(stored).as_bytes() }
    }
}

/// The index: runs in canonical order, with what the ledger has for them (which is in file order).
fn index(plan: &Plan, ledger: &Ledger) -> std::result::Result<Index, FormatError> {
    let mut first = 0usize;
    let mut parts = Vec::with_capacity(plan.runs.len());
    for (run, hash) in plan.runs.iter().zip(&ledger.hashes) {
        let count = plan.layout(run).chunk_count(plan.chunk_bytes) as usize;
        for copy in 0..run.copies {
            let id = BundleId { ordinal: run.id.ordinal + copy, ..run.id };
            let record = Record { id, offset: run.offset, length: run.length, layout: run.layout, first_sum: 0, blake3: *hash };
            let sums = ledger.sums.get(first..first + count);
            parts.push((record, sums.ok_or_else(|| FormatError::invalid("ledger", "has too few sums"))?));
            first += count;
        }
    }
    if parts.len() as u64 != plan.bundles() || first != ledger.sums.len() {
        return Err(FormatError::invalid("ledger", "does not have every run"));
    }
    parts.sort_unstable_by_key(|(r, _)| (r.id.layer, r.id.kind, r.id.ordinal));
    let sums = parts.iter().flat_map(|(_, s)| s.iter().copied()).collect();
    let records = parts.into_iter().map(|(r, _)| r).collect();
    Index::build(plan.manifest.trunk.len() as u32, records, plan.layouts.clone(), sums, plan.chunk_bytes)
}
