//! Is a pack what was written, byte by byte, and is it what its source says? Everything that is wrong is listed, not only the first.

mod groups;
mod skeleton;

use crate::error::{Error, Result};
use crate::plan::{Plan, Run, Segment};
use crate::source::Checkpoint;
use crate::write::buffer::AlignedBuf;
use crate::write::fill::{Origin, Scratch};
use crate::write::pieces::{self, Chunks, Digest, Ledger, Piece};
use crate::write::{Watch, pool};
use forebay_format::{BundleId, Index, Kind, Manifest, Record, Superblock};
use rustix::fs::{Advice, fadvise};
use std::collections::BTreeMap;
use std::fs::File;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// How much is read.
pub enum Depth<'a> {
    /// Superblock, copy, sections, index, manifest and gaps between them; no weights.
    Quick,
    /// Everything.
    Full,
    /// Quick, and this share of the bundles (0..=1), chosen by the seed alone.
    Sample {
        /// Share of the bundles.
        share: f64,
    },
    /// Everything, and every weight against the checkpoint it came from.
    Source {
        /// The checkpoint.
        checkpoint: &'a Checkpoint,
        /// What converting it would give.
        plan: Box<Plan>,
    },
}

/// Something that is wrong with a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: a part of the file, or a bundle with layer and expert.
    pub place: String,
    /// What is wrong there.
    pub why: String,
}

/// What a verification found.
#[derive(Debug)]
pub struct Findings {
    /// All that is wrong; empty for a good pack.
    pub problems: Vec<Problem>,
    /// Bundles read.
    pub bundles: usize,
    /// Bundles of the pack.
    pub bundles_total: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Seed of a sample.
    pub seed: Option<u64>,
    /// The superblock.
    pub superblock: Superblock,
}

/// A pack whose parts have been read as far as they are whole.
struct Pack {
    file: File,
    superblock: Superblock,
    index: Option<Index>,
    manifest: Option<Manifest>,
}

/// Verifies a pack. An error means that verification could not be done; damage is in the findings.
pub fn verify(path: &Path, depth: &Depth, threads: usize, cancel: &AtomicBool, watch: &dyn Watch) -> Result<Findings> {
    let mut problems = Vec::new();
    let pack = skeleton::read(path, &mut problems)?;
    let seed = matches!(depth, Depth::Sample { .. }).then(|| seed(&pack.superblock));
    let mut findings = Findings { problems, bundles: 0, bundles_total: 0, bytes: 0, seed, superblock: pack.superblock.clone() };
    let Some(index) = &pack.index else { return Ok(findings) };
    findings.bundles_total = index.records().len();
    let mut records: Vec<&Record> = index.records().iter().collect();
    records.sort_unstable_by_key(|r| (r.offset, r.id.ordinal));
    match depth {
        Depth::Quick => return Ok(findings),
        Depth::Sample { share } => records = sample(records, seed.unwrap_or(0), *share),
        Depth::Full | Depth::Source { .. } => {}
    }
    let origin = match (depth, &pack.manifest) {
        (Depth::Source { checkpoint, plan }, Some(manifest)) => match plan.as_ref().clone().adopt(manifest, index) {
            Ok(plan) => Some((Origin::open(checkpoint)?, plan)),
            Err(why) => {
                findings.problems.push(Problem { place: "the pack as a whole".into(), why });
                None
            }
        },
        _ => None,
    };
    let (bundles, extents) = (records.len(), extents(&records));
    let check = Check { pack: &pack, index, extents: &extents, origin: origin.as_ref() };
    check.kept_types(&mut findings.problems);
    check.run(threads, cancel, watch, &mut findings.problems)?;
    if let Some((origin, _)) = &origin {
        origin.check_unchanged()?;
    }
    findings.bundles = bundles;
    findings.bytes = extents.iter().map(|e| e.record.length).sum();
    Ok(findings)
}

/// Bytes that are looked at once: a bundle, or experts in a row that share their place.
struct Extent<'a> {
    /// The first of them.
    record: &'a Record,
    /// How many.
    copies: u32,
}

/// Extents of records that are sorted by place.
fn extents<'a>(records: &[&'a Record]) -> Vec<Extent<'a>> {
    let mut extents: Vec<Extent> = Vec::with_capacity(records.len());
    for &record in records {
        match extents.last_mut() {
            Some(e) if e.record.offset == record.offset && e.record.id.ordinal.checked_add(e.copies) == Some(record.id.ordinal) => {
                e.copies += 1;
            }
            _ => extents.push(Extent { record, copies: 1 }),
        }
    }
    extents
}

/// Seed of a sample: the same pack is always sampled in the same places.
fn seed(superblock: &Superblock) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&superblock.content_id[..8]);
    u64::from_le_bytes(bytes)
}

/// The bundles whose seeded hash falls into the share; at least one.
fn sample(records: Vec<&Record>, seed: u64, share: f64) -> Vec<&Record> {
    let draw = |r: &Record| {
        let mut h = blake3::Hasher::new();
        h.update(&seed.to_le_bytes()).update(r.id.to_string().as_bytes());
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&h.finalize().as_bytes()[..8]);
        u64::from_le_bytes(bytes) as f64 / u64::MAX as f64
    };
    let least = records.iter().copied().min_by(|a, b| draw(a).total_cmp(&draw(b)));
    let picked: Vec<_> = records.into_iter().filter(|r| draw(r) < share).collect();
    if picked.is_empty() { least.into_iter().collect() } else { picked }
}

/// State of one thread.
#[derive(Default)]
struct Worker {
    buffer: AlignedBuf,
    expected: AlignedBuf,
    scratch: Scratch,
}

/// What one piece showed.
enum Seen {
    /// It cannot be read.
    Unreadable(String),
    /// Its digest, and where it differs from the source.
    Read(Digest, Option<String>),
    /// It is groups of neurons: what is wrong with each.
    Groups(Vec<Problem>),
}

/// Bundles under verification.
struct Check<'a> {
    pack: &'a Pack,
    index: &'a Index,
    extents: &'a [Extent<'a>],
    origin: Option<&'a (Origin<'a>, Plan)>,
}

impl Check<'_> {
    fn run(&self, threads: usize, cancel: &AtomicBool, watch: &dyn Watch, problems: &mut Vec<Problem>) -> Result<()> {
        let extent = |e: &Extent| {
            let Record { id, offset, length, .. } = *e.record;
            pieces::Extent { id, offset, length, copies: e.copies }
        };
        let pieces = pieces::cut(self.extents.iter().map(extent));
        let mut ledger = Ledger::default();
        // Problems of the bundle at hand; one line each, however many of its pieces are bad.
        let mut found: BTreeMap<u64, String> = BTreeMap::new();
        pool::ordered(
            0..pieces.len(),
            threads,
            cancel,
            |worker: &mut Worker, i| self.look(worker, &pieces[i]),
            |i, seen| {
                let piece = &pieces[i];
                let Extent { record, copies } = self.extents[piece.run];
                watch.advance(piece.range.end - piece.range.start);
                let digest = match seen {
                    Seen::Groups(found) => {
                        problems.extend(found);
                        return Ok(());
                    }
                    Seen::Unreadable(why) => {
                        found.insert(piece.range.start, why);
                        Digest { hash: [0; 32], sums: Vec::new(), groups: Vec::new() }
                    }
                    Seen::Read(digest, difference) => {
                        if let Some(range) = self.bad_chunk(record, piece, &digest) {
                            found.insert(range.0, format!("bytes {}..{} of the file do not match their sum", range.0, range.1));
                        }
                        found.extend(difference.map(|d| (record.offset + piece.range.start, d)));
                        digest
                    }
                };
                ledger.push(piece, Digest { sums: Vec::new(), ..digest });
                if piece.last {
                    let hash = ledger.hashes.pop();
                    if found.is_empty() && hash != Some(record.blake3) {
                        found.insert(0, "its BLAKE3 does not match".into());
                    }
                    let lines: Vec<String> = std::mem::take(&mut found).into_values().collect();
                    if !lines.is_empty() {
                        let others = if copies > 1 { format!(" and {} more in its place", copies - 1) } else { String::new() };
                        problems.push(Problem { place: format!("{}{others}", record.id), why: lines.join("; ") });
                    }
                }
                Ok(())
            },
        )
    }

    fn look(&self, worker: &mut Worker, piece: &Piece) -> Result<Seen> {
        if piece.groups > 0 {
            return self.look_at_groups(worker, piece);
        }
        let record = self.extents[piece.run].record;
        let layout = self.index.layout(record);
        let superblock = &self.pack.superblock;
        let chunks = Chunks::starting_in(&piece.range, layout, superblock.chunk_bytes);
        let len = chunks.reach(&piece.range) - piece.range.start;
        let buffer = worker.buffer.slice(len as usize);
        let offset = record.offset + piece.range.start;
        self.advise(offset, len, Advice::WillNeed);
        if let Err(e) = self.pack.file.read_exact_at(buffer, offset) {
            return Ok(Seen::Unreadable(format!("bytes {offset}..{} of the file cannot be read: {e}", offset + len)));
        }
        self.advise(offset, piece.range.end - piece.range.start, Advice::DontNeed);
        let digest = pieces::digest(&superblock.pack_id, record.id, piece, &chunks, buffer);
        let own = (piece.range.end - piece.range.start) as usize;
        let difference = match self.origin {
            Some((origin, plan)) => {
                let expected = worker.expected.slice(own);
                let run = &plan.runs[piece.run];
                origin.fill(plan, run, piece.range.clone(), expected, &mut worker.scratch)?;
                let at = buffer[..own].iter().zip(&*expected).position(|(a, b)| a != b);
                at.map(|at| difference(plan, origin.checkpoint(), run, piece.range.start + at as u64))
            }
            None => None,
        };
        Ok(Seen::Read(digest, difference))
    }

    /// A verification must not push everything else out of the page cache. Advice only: nothing depends on it.
    fn advise(&self, offset: u64, len: u64, advice: Advice) {
        let _ = fadvise(&self.pack.file, offset, NonZeroU64::new(len), advice);
    }

    /// First chunk that starts in the piece and does not match its sum: its range in the file.
    fn bad_chunk(&self, record: &Record, piece: &Piece, digest: &Digest) -> Option<(u64, u64)> {
        let chunk_bytes = self.pack.superblock.chunk_bytes;
        let chunks = Chunks::starting_in(&piece.range, self.index.layout(record), chunk_bytes);
        let wrong = |(copy, computed): (u32, &[u64])| {
            let id = BundleId { ordinal: record.id.ordinal + copy, ..record.id };
            let stored = self.index.sums(self.index.get(id).ok()?, chunk_bytes).get(chunks.first as usize..)?;
            computed.iter().zip(stored).position(|(a, b)| a != b)
        };
        let bad = (0..piece.copies).zip(digest.sums.chunks_exact(chunks.ranges.len().max(1))).find_map(wrong)?;
        let range = chunks.ranges.get(bad)?;
        Some((record.offset + range.start, record.offset + range.end))
    }

    /// A pack that says `keep` must have every tensor in the type of its origin; otherwise re-encoding would be compared with re-encoding.
    fn kept_types(&self, problems: &mut Vec<Problem>) {
        let Some((origin, plan)) = self.origin else { return };
        if self.pack.manifest.as_ref().is_none_or(|m| m.provenance.quantize != "keep") {
            return;
        }
        // Groups of a layer are alike.
        for run in plan.runs.iter().filter(|r| r.id.kind != Kind::NeuronGroup || r.id.ordinal == 0) {
            match plan.segments(origin.checkpoint(), run) {
                Ok(segments) => {
                    let rows = segments.iter().filter(|s| !s.sketch).map(|s| (s.from, s.to));
                    let mut types = rows.chain(plan.columns(origin.checkpoint(), run).map(|c| (c.from, c.to)));
                    problems.extend(types.find(|(from, to)| from != to).map(|(from, to)| Problem {
                        place: run.id.to_string(),
                        why: format!("is {} although the source has {} and nothing was to be encoded", to.name(), from.name()),
                    }))
                }
                Err(e) => problems.push(Problem { place: run.id.to_string(), why: e.to_string() }),
            }
        }
    }
}

/// Where a run differs from the source: the tensor and row that byte `at` belongs to.
fn difference(plan: &Plan, checkpoint: &Checkpoint, run: &Run, at: u64) -> String {
    let segments = plan.segments(checkpoint, run).unwrap_or_default();
    let hit = segments.iter().find(|s| (s.dest..s.dest_end()).contains(&at));
    let name = |s: &Segment| checkpoint.tensors.get(s.tensor).map_or("?", |t| t.name.as_str()).to_owned();
    match hit {
        Some(s) => {
            let start = checkpoint.tensors.get(s.tensor).map_or(0, |t| t.range.start);
            let row = (s.source - start) / s.source_row + s.row_at(at);
            format!("byte {} of the file differs from the source: tensor {}, row {row}", run.offset + at, name(s))
        }
        None => match plan.columns(checkpoint, run).and_then(|c| Some((c.at(at)?, checkpoint.tensors.get(c.tensor)?))) {
            Some(((row, column), tensor)) => {
                format!("byte {} of the file differs from the source: tensor {}, row {row}, column {column}", run.offset + at, tensor.name)
            }
            None => format!("byte {} of the file is padding and not zero", run.offset + at),
        },
    }
}

impl Findings {
    /// The error that a command ends with if something is wrong.
    pub fn error(&self, path: &Path) -> Option<Error> {
        let n = self.problems.len();
        let things = if n == 1 { "1 problem".to_owned() } else { format!("{n} problems") };
        (n > 0).then(|| Error::Integrity(format!("{}: {things} found", path.display())))
    }
}
