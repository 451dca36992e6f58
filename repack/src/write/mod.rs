//! Writes a pack. Order of effects: payload in pieces, each group of them made durable and then claimed in the journal; sections and the
//! superblock's copy; `fdatasync`; the superblock; `fdatasync`; rename; the directory; the journal goes. A crash at any moment leaves either
//! nothing, or an unfinished pack that `--resume` completes to the same bytes, or the pack.

pub mod buffer;
pub mod fill;
pub(crate) mod groups;
pub mod journal;
pub mod media;
pub mod outline;
pub mod output;
pub mod pieces;
pub mod pool;
pub mod tail;
pub mod tiles;

use crate::error::{Error, Result};
use crate::plan::{Plan, Run};
use crate::source::{Checkpoint, Meta};
use buffer::AlignedBuf;
use fill::{Content, Origin, Scratch};
use forebay_format::Superblock;
use forebay_format::layout::SUPERBLOCK_BYTES;
use forebay_format::layout::source::NamedBytes;
use journal::{Claim, Journal, group_hash};
use media::Media;
use output::{Partial, Paths, output_error};
use pieces::{Chunks, Digest, Ledger, Piece};
use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How to write.
pub struct Options<'a> {
    /// Go on with an unfinished conversion.
    pub resume: bool,
    /// Replace an existing pack, or start over although an unfinished one is there.
    pub force: bool,
    /// Worker threads; see [`pool::default_threads`].
    pub threads: usize,
    /// Bytes after which a group is made durable and claimed.
    pub group_bytes: u64,
    /// Set by Ctrl-C.
    pub cancel: &'a AtomicBool,
    /// Effects.
    pub media: &'a dyn Media,
    /// Told how many bytes were done since the last call, and what the user should know.
    pub watch: &'a dyn Watch,
}

/// Bytes of a group by default.
pub const GROUP_BYTES: u64 = 1 << 30;
/// A group is also closed after this time: a second of work is lost in a crash, and a sync a second costs nothing.
const GROUP_TIME: Duration = Duration::from_secs(1);

/// Who wants to know how far a conversion or verification is.
pub trait Watch: Sync {
    /// So many more bytes are done.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }

    /// A line for the user.
    fn note(&self, line: &str) {
        let _ = line;
    }
}

/// Nobody does.
pub struct Silent;

impl Watch for Silent {}

/// What was written.
#[derive(Clone, Debug)]
pub struct Report {
    /// The pack's superblock.
    pub superblock: Superblock,
    /// Bytes taken over from an unfinished conversion.
    pub resumed_bytes: u64,
    /// Weights read from the source, bytes.
    pub written_bytes: u64,
}

/// Converts: writes `out` as `plan` says.
pub fn convert(checkpoint: &Checkpoint, plan: &Plan, out: &Path, options: &Options) -> Result<Report> {
    let paths = Paths::new(out)?;
    paths.refuse_source(checkpoint)?;
    if let Some(report) = refuse_existing(plan, &paths, options)? {
        return Ok(report);
    }
    let origin = Origin::open(checkpoint)?;
    let metadata = metadata(checkpoint, &origin)?;
    write(checkpoint, &origin, &metadata, plan, paths, options)
}

/// Writes a pack whose weights are made up: `out` as `plan` says, filled by `content`. `checkpoint` has no weight files.
pub fn make_up(checkpoint: &Checkpoint, content: &dyn Content, plan: &Plan, out: &Path, options: &Options) -> Result<Report> {
    let paths = Paths::new(out)?;
    if let Some(report) = refuse_existing(plan, &paths, options)? {
        return Ok(report);
    }
    write(checkpoint, content, &small_files(checkpoint), plan, paths, options)
}

fn write(
    checkpoint: &Checkpoint,
    content: &dyn Content,
    metadata: &[NamedBytes],
    plan: &Plan,
    paths: Paths,
    options: &Options,
) -> Result<Report> {
    let partial = Partial::open(&paths)?;
    let job = Job {
        plan,
        content,
        paths,
        partial,
        options,
        pieces: pieces::of_plan(plan),
        id: plan_id(plan, checkpoint),
        bypass: AtomicBool::new(true),
    };
    let outcome = job.run(metadata);
    if outcome.is_err() {
        job.clean_up();
    }
    outcome
}

/// Fails if the pack is already there and may not be replaced. With `--resume`, a pack that this very plan wrote is the answer: the crash came
/// after the rename.
fn refuse_existing(plan: &Plan, paths: &Paths, options: &Options) -> Result<Option<Report>> {
    if paths.out.symlink_metadata().is_err() || options.force {
        return Ok(None);
    }
    if options.resume && !paths.partial.exists() {
        let read = File::open(&paths.out).and_then(|f| {
            let mut bytes = [0; SUPERBLOCK_BYTES];
            f.read_exact_at(&mut bytes, 0)?;
            Ok((bytes, f.metadata()?.len()))
        });
        let superblock = read.ok().and_then(|(bytes, len)| Superblock::decode(&bytes, len).ok());
        if let Some(superblock) = superblock.filter(|s| s.pack_id == plan.pack_id) {
            options.watch.note(&format!("{} is already complete", paths.out.display()));
            // Left over when the crash came between the rename and this.
            let _ = options.media.remove(&paths.journal);
            return Ok(Some(Report { superblock, resumed_bytes: plan.payload_bytes(), written_bytes: 0 }));
        }
    }
    Err(Error::Usage(format!("{} already exists; --force replaces it", paths.out.display())))
}

/// Files for the source section: the header of every GGUF part, or the small files of a directory (the tokenizer is in the manifest).
fn metadata(checkpoint: &Checkpoint, origin: &Origin) -> Result<Vec<NamedBytes>> {
    match checkpoint.meta {
        Meta::Gguf(_) => origin.headers(),
        Meta::HuggingFace { .. } => Ok(small_files(checkpoint)),
    }
}

/// The small files of a directory but the tokenizer, which the manifest has.
fn small_files(checkpoint: &Checkpoint) -> Vec<NamedBytes> {
    checkpoint.small_files.iter().filter(|(name, _)| name != "tokenizer.json").cloned().collect()
}

/// Identity of a plan together with the state of its source: what a journal belongs to.
fn plan_id(plan: &Plan, checkpoint: &Checkpoint) -> [u8; 32] {
    let mut h = blake3::Hasher::new();
    h.update(&plan.pack_id);
    h.update(&serde_json::to_vec(&plan.manifest).unwrap_or_default());
    for r in &plan.runs {
        for n in [r.offset, r.length, r.used, r.layout as u64, r.id.kind as u64, r.id.layer as u64, r.id.ordinal as u64] {
            h.update(&n.to_le_bytes());
        }
    }
    for f in &checkpoint.files {
        h.update(&f.fingerprint.ino.to_le_bytes());
        h.update(&f.fingerprint.bytes.to_le_bytes());
        h.update(&f.fingerprint.mtime_ns.to_le_bytes());
    }
    *h.finalize().as_bytes()
}

/// State of one thread.
#[derive(Default)]
struct Worker {
    buffer: AlignedBuf,
    scratch: Scratch,
}

/// A conversion under way.
struct Job<'a> {
    plan: &'a Plan,
    content: &'a dyn Content,
    paths: Paths,
    partial: Partial,
    options: &'a Options<'a>,
    pieces: Vec<Piece>,
    id: [u8; 32],
    /// O_DIRECT works here so far.
    bypass: AtomicBool,
}

impl Job<'_> {
    fn run(&self, metadata: &[NamedBytes]) -> Result<Report> {
        let claims = self.claims()?;
        let need = self.plan.file_bytes_bound(metadata.iter().map(|m| m.1.len() as u64 + 64).sum());
        if claims.is_empty() {
            self.partial.file.set_len(0).map_err(|e| self.io("emptying the unfinished pack", e))?;
        }
        self.partial.reserve(&self.paths, self.plan.payload_end, need)?;
        let (mut ledger, claims) = self.recheck(claims)?;
        let resumed = claims.last().map_or(0, |c| c.pieces as usize);
        let mut journal = Journal::start(&self.paths.journal, &self.id, &claims, self.options.media).map_err(|error| Error::Io {
            path: self.paths.journal.clone(),
            what: "starting the journal",
            error,
        })?;
        self.options.media.sync_dir(&self.paths.dir).map_err(|e| self.io("syncing the directory", e))?;
        self.payload(resumed, &mut ledger, &mut journal)?;
        self.content.check_unchanged()?;
        let superblock = self.finish(&ledger, metadata)?;
        let bytes = |pieces: &[Piece]| pieces.iter().map(|p| p.range.end - p.range.start).sum();
        let (old, new) = self.pieces.split_at(resumed);
        Ok(Report { superblock, resumed_bytes: bytes(old), written_bytes: bytes(new) })
    }

    fn io(&self, what: &'static str, error: io::Error) -> Error {
        output_error(&self.paths, what, self.plan.payload_end, error)
    }

    /// Claims of an earlier conversion that this one may build on.
    fn claims(&self) -> Result<Vec<Claim>> {
        let found = journal::read(&self.paths.journal).map_err(|error| Error::Io {
            path: self.paths.journal.clone(),
            what: "reading the journal",
            error,
        })?;
        let same = found.plan == Some(self.id);
        let mut claims = found.claims;
        claims.retain(|c| c.pieces <= self.pieces.len() as u64);
        match (self.options.resume, same) {
            (true, true) => Ok(claims),
            (true, false) if found.plan.is_some() => {
                self.options.watch.note("the unfinished conversion is of another source or has other options: starting over");
                Ok(Vec::new())
            }
            (false, true) if !claims.is_empty() && !self.options.force => Err(Error::Usage(format!(
                "an unfinished conversion is there ({}); --resume goes on with it, --force starts over",
                self.paths.partial.display()
            ))),
            _ => Ok(Vec::new()),
        }
    }

    /// Hashes what the claims cover and keeps those that hold.
    fn recheck(&self, claims: Vec<Claim>) -> Result<(Ledger, Vec<Claim>)> {
        let mut ledger = Ledger::default();
        let mut good = Vec::new();
        let Some(last) = claims.last() else { return Ok((ledger, good)) };
        self.options.watch.note("checking what the unfinished conversion has done");
        let mut group: Vec<(usize, Digest)> = Vec::new();
        let mut rest = claims.iter();
        let mut due = rest.next();
        let read = |worker: &mut Worker, i: usize| {
            let (piece, chunks) = self.piece(i);
            let run = &self.plan.runs[piece.run];
            let buffer = worker.buffer.slice((chunks.reach(&piece.range) - piece.range.start) as usize);
            // A piece that cannot be read back is one that was not written.
            let whole = self.partial.file.read_exact_at(buffer, run.offset + piece.range.start).is_ok();
            self.options.watch.advance(piece.range.end - piece.range.start);
            Ok(whole.then(|| self.digest(piece, &chunks, buffer)))
        };
        let bad = Cell::new(false);
        pool::ordered(0..last.pieces as usize, self.options.threads, self.options.cancel, read, |i, digest| {
            match digest {
                Some(d) if !bad.get() => group.push((i, d)),
                _ => bad.set(true),
            }
            if let Some(claim) = due.filter(|c| c.pieces as usize == i + 1 && !bad.get()) {
                if group_hash(group.iter().map(|(_, d)| &d.hash)) == claim.group {
                    group.drain(..).for_each(|(i, d)| ledger.push(&self.pieces[i], d));
                    good.push(*claim);
                    due = rest.next();
                } else {
                    bad.set(true);
                }
            }
            Ok(())
        })?;
        if bad.get() {
            self.options.watch.note("some of it is damaged and will be written again");
        }
        Ok((ledger, good))
    }

    /// A piece, and the chunks that start in it if it is not groups of neurons.
    fn piece(&self, i: usize) -> (&Piece, Chunks) {
        let piece = &self.pieces[i];
        if piece.groups > 0 {
            return (piece, Chunks { first: 0, ranges: Vec::new() });
        }
        let layout = self.plan.layout(&self.plan.runs[piece.run]);
        (piece, Chunks::starting_in(&piece.range, layout, self.plan.chunk_bytes))
    }

    /// Groups that a piece is.
    fn groups(&self, piece: &Piece) -> &[Run] {
        &self.plan.runs[piece.run..piece.run + piece.groups]
    }

    fn digest(&self, piece: &Piece, chunks: &Chunks, bytes: &[u8]) -> Digest {
        if piece.groups > 0 {
            let groups = self.groups(piece).iter().map(|r| (r.id, self.plan.layout(r)));
            return pieces::digest_groups(&self.plan.pack_id, self.plan.chunk_bytes, groups, bytes);
        }
        pieces::digest(&self.plan.pack_id, self.plan.runs[piece.run].id, piece, chunks, bytes)
    }

    /// Computes, writes and claims all pieces from `first` on.
    fn payload(&self, first: usize, ledger: &mut Ledger, journal: &mut Journal) -> Result<()> {
        let mut group: Vec<[u8; 32]> = Vec::new();
        let mut done = first;
        let (mut bytes, mut since) = (0u64, Instant::now());
        let outcome = pool::ordered(
            first..self.pieces.len(),
            self.options.threads,
            self.options.cancel,
            |worker: &mut Worker, i| self.write_piece(worker, i),
            |i, digest| {
                group.push(digest.hash);
                ledger.push(&self.pieces[i], digest);
                done = i + 1;
                let size = self.pieces[i].range.end - self.pieces[i].range.start;
                self.options.watch.advance(size);
                bytes += size;
                if bytes >= self.options.group_bytes || since.elapsed() >= GROUP_TIME {
                    self.claim(done, &mut group, journal)?;
                    (bytes, since) = (0, Instant::now());
                }
                Ok(())
            },
        );
        if matches!(outcome, Err(Error::Interrupted)) {
            self.claim(done, &mut group, journal)?;
        }
        outcome
    }

    /// Makes everything written so far durable, then says so.
    fn claim(&self, pieces: usize, group: &mut Vec<[u8; 32]>, journal: &mut Journal) -> Result<()> {
        if group.is_empty() {
            return Ok(());
        }
        self.options.media.sync(&self.partial.file).map_err(|e| self.io("making the pack durable", e))?;
        let claim = Claim { pieces: pieces as u64, group: group_hash(group.iter()) };
        group.clear();
        journal.append(&claim, self.options.media).map_err(|e| self.io("writing the journal", e))
    }

    fn write_piece(&self, worker: &mut Worker, i: usize) -> Result<Digest> {
        let (piece, chunks) = self.piece(i);
        let run = &self.plan.runs[piece.run];
        let range = piece.range.start..chunks.reach(&piece.range);
        let buffer = worker.buffer.slice((range.end - range.start) as usize);
        if piece.groups > 0 {
            self.content.fill_groups(self.plan, self.groups(piece), buffer, &mut worker.scratch)?;
        } else {
            self.content.fill(self.plan, run, range, buffer, &mut worker.scratch)?;
        }
        let digest = self.digest(piece, &chunks, buffer);
        let own = &buffer[..(piece.range.end - piece.range.start) as usize];
        self.write(own, run.offset + piece.range.start).map_err(|e| self.io("writing the pack", e))?;
        Ok(digest)
    }

    /// Writes around the page cache where that works.
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(direct) = self.partial.direct.as_ref().filter(|_| self.bypass.load(Ordering::Relaxed)) {
            match self.options.media.write_at(direct, bytes, offset) {
                Err(e) if e.kind() == io::ErrorKind::InvalidInput => self.bypass.store(false, Ordering::Relaxed),
                other => return other,
            }
        }
        self.options.media.write_at(&self.partial.file, bytes, offset)
    }

    /// Sections, superblock, rename.
    fn finish(&self, ledger: &Ledger, metadata: &[NamedBytes]) -> Result<Superblock> {
        let (media, file) = (self.options.media, &self.partial.file);
        let tail = tail::build(self.plan, ledger, metadata, &self.paths.out)?;
        let io = |what| move |e| self.io(what, e);
        file.set_len(tail.superblock.file_bytes).map_err(io("setting the pack's length"))?;
        media.write_at(file, &tail.bytes, self.plan.payload_end).map_err(io("writing the sections"))?;
        media.sync(file).map_err(io("making the pack durable"))?;
        media.write_at(file, &tail.superblock.encode(), 0).map_err(io("writing the superblock"))?;
        media.sync(file).map_err(io("making the pack durable"))?;
        media.rename(&self.paths.partial, &self.paths.out, self.options.force).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => Error::Usage(format!("{} already exists; --force replaces it", self.paths.out.display())),
            _ => self.io("renaming the finished pack", e),
        })?;
        media.sync_dir(&self.paths.dir).map_err(io("syncing the directory"))?;
        media.remove(&self.paths.journal).map_err(io("removing the journal"))?;
        Ok(tail.superblock)
    }

    /// After an error: an unfinished pack with nothing claimed is of no use to anyone.
    fn clean_up(&self) {
        let useful = journal::read(&self.paths.journal).is_ok_and(|f| f.plan == Some(self.id) && !f.claims.is_empty());
        if !useful && self.partial.file.metadata().is_ok() {
            // The error that led here is the one to report.
            let _ = self.options.media.remove(&self.paths.partial);
            let _ = self.options.media.remove(&self.paths.journal);
        }
    }
}
