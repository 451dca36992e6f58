//! Computes bytes of the pack from the source: any range of any run, by itself.

use super::tiles::{self, Tiles};
use crate::encode;
use crate::error::{Error, Result};
use crate::plan::{Plan, Run, Segment};
use crate::source::{Checkpoint, Fingerprint, WeightFile};
use forebay_format::QuantType;
use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};

/// The source's weight files, open.
pub struct Origin<'a> {
    checkpoint: &'a Checkpoint,
    files: Vec<File>,
}

/// Where the bytes of a pack come from.
pub trait Content: Sync {
    /// Fills `out` with bytes `range` of a run.
    fn fill(&self, plan: &Plan, run: &Run, range: Range<u64>, out: &mut [u8], scratch: &mut Scratch) -> Result<()>;

    /// Fills `out` with groups of neurons of one layer that lie back to back.
    fn fill_groups(&self, plan: &Plan, runs: &[Run], out: &mut [u8], scratch: &mut Scratch) -> Result<()>;

    /// Fails with [`Error::SourceChanged`] if they come from something that has changed meanwhile.
    fn check_unchanged(&self) -> Result<()>;
}

impl Content for Origin<'_> {
    fn fill(&self, plan: &Plan, run: &Run, range: Range<u64>, out: &mut [u8], scratch: &mut Scratch) -> Result<()> {
        Origin::fill(self, plan, run, range, out, scratch)
    }

    fn fill_groups(&self, plan: &Plan, runs: &[Run], out: &mut [u8], scratch: &mut Scratch) -> Result<()> {
        Origin::fill_groups(self, plan, runs, out, scratch)
    }

    fn check_unchanged(&self) -> Result<()> {
        Origin::check_unchanged(self)
    }
}

/// Room for rows on their way from one type to another. One for each thread.
#[derive(Default)]
pub struct Scratch {
    pub(super) source: Vec<u8>,
    pub(super) values: Vec<f32>,
    pub(super) encoded: Vec<u8>,
    /// Room for rows that are interleaved.
    pub(crate) tiles: Tiles,
}

impl Scratch {
    /// Room for rows in the pack's type.
    pub(crate) fn tile(&mut self) -> &mut Vec<u8> {
        &mut self.encoded
    }
}

impl<'a> Origin<'a> {
    /// Opens the files and checks that they are those whose headers were read.
    pub fn open(checkpoint: &'a Checkpoint) -> Result<Self> {
        let open =
            |f: &WeightFile| File::open(&f.path).map_err(|error| Error::Io { path: f.path.clone(), what: "opening the source", error });
        let files = checkpoint.files.iter().map(open).collect::<Result<Vec<_>>>()?;
        let origin = Origin { checkpoint, files };
        origin.check_unchanged()?;
        Ok(origin)
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &'a Checkpoint {
        self.checkpoint
    }

    /// Fails with [`Error::SourceChanged`] if a file is not what it was when its header was read: the open file was written to, or
    /// its name now leads to another one.
    pub fn check_unchanged(&self) -> Result<()> {
        for (info, file) in self.checkpoint.files.iter().zip(&self.files) {
            let open = file.metadata().map_err(|error| Error::Io { path: info.path.clone(), what: "looking at the source", error })?;
            let named = std::fs::metadata(&info.path).ok().map(|m| fingerprint(&m));
            if fingerprint(&open) != info.fingerprint || named != Some(info.fingerprint) {
                return Err(Error::SourceChanged { file: info.path.clone() });
            }
        }
        Ok(())
    }

    /// The first `header_bytes` of every weight file, for the source section.
    pub fn headers(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let read = |(info, file): (&WeightFile, &File)| {
            let mut bytes = vec![0; info.header_bytes as usize];
            read_at(info, file, &mut bytes, 0)?;
            Ok((info.name.clone(), bytes))
        };
        self.checkpoint.files.iter().zip(&self.files).map(read).collect()
    }

    /// Fills `out` with bytes `range` of a run. A NaN or infinite value or block scale is an error that names tensor and row.
    pub fn fill(&self, plan: &Plan, run: &Run, range: Range<u64>, out: &mut [u8], scratch: &mut Scratch) -> Result<()> {
        let segments = plan.segments(self.checkpoint, run)?;
        let touched: Vec<&Segment> = segments.iter().filter(|s| s.dest < range.end && s.dest_end() > range.start).collect();
        self.advise(&touched, &range, Advice::WillNeed);
        let mut done = range.start;
        for s in &touched {
            let (from, to) = (s.dest.max(range.start), s.dest_end().min(range.end));
            out[(done - range.start) as usize..(from - range.start) as usize].fill(0);
            let part = &mut out[(from - range.start) as usize..(to - range.start) as usize];
            let mut room = std::mem::take(&mut scratch.tiles);
            let filled = tiles::fill(s, from - s.dest..to - s.dest, part, &mut room, |place, out| self.part(s, place, out, scratch));
            scratch.tiles = room;
            filled?;
            done = to;
        }
        out[(done - range.start) as usize..].fill(0);
        self.advise(&touched, &range, Advice::DontNeed);
        Ok(())
    }

    /// Bytes `place` of a segment.
    pub(super) fn part(&self, s: &Segment, place: Range<u64>, out: &mut [u8], scratch: &mut Scratch) -> Result<()> {
        if s.from == s.to { self.copy(s, place, out) } else { self.encode(s, place, out, scratch) }
    }

    /// Tells the kernel which source bytes come now (all reads of a piece are then under way at once), or that they are not needed
    /// again: a conversion must not push everything else out of the page cache.
    fn advise(&self, segments: &[&Segment], range: &Range<u64>, advice: Advice) {
        for s in segments {
            let first = (range.start.max(s.dest) - s.dest) / s.dest_row * s.source_row;
            let end = (range.end.min(s.dest_end()) - s.dest).div_ceil(s.dest_row) * s.source_row;
            self.advise_range(s.tensor, s.source + first..s.source + end, advice);
        }
    }

    /// The same for bytes of a tensor's file.
    pub(super) fn advise_range(&self, tensor: usize, range: Range<u64>, advice: Advice) {
        if let (Some((_, file)), Some(len)) = (self.file_of(tensor), NonZeroU64::new(range.end - range.start)) {
            // Advice only: nothing depends on it.
            let _ = fadvise(file, range.start, Some(len), advice);
        }
    }

    fn file_of(&self, tensor: usize) -> Option<(&WeightFile, &File)> {
        let number = self.checkpoint.tensors.get(tensor)?.file;
        self.checkpoint.files.get(number).zip(self.files.get(number))
    }

    pub(super) fn read(&self, tensor: usize, out: &mut [u8], offset: u64) -> Result<()> {
        let missing = || Error::Usage(format!("tensor number {tensor} has no file"));
        let (info, file) = self.file_of(tensor).ok_or_else(missing)?;
        read_at(info, file, out, offset)
    }

    /// Bytes `place` of a segment that moves unchanged.
    fn copy(&self, s: &Segment, place: Range<u64>, out: &mut [u8]) -> Result<()> {
        self.read(s.tensor, out, s.source + place.start)?;
        // The range may begin inside a block; that one is read again as a whole, so that every block is looked at once.
        let block = s.from.block_bytes() as u64;
        let skip = (place.start.next_multiple_of(block) - place.start).min(out.len() as u64);
        if skip > 0 {
            let start = place.start - place.start % block;
            let mut whole = vec![0; block as usize];
            self.read(s.tensor, &mut whole, s.source + start)?;
            if s.from.check_finite(&whole).is_some() {
                return Err(self.row_not_finite(s, start / s.source_row, None));
            }
        }
        match s.from.check_finite(&out[skip as usize..]) {
            Some(b) => Err(self.row_not_finite(s, (place.start + skip + b as u64 * block) / s.source_row, None)),
            None => Ok(()),
        }
    }

    /// Bytes `place` of a segment that changes its type, row by row; rows that the range cuts are encoded whole.
    fn encode(&self, s: &Segment, place: Range<u64>, out: &mut [u8], scratch: &mut Scratch) -> Result<()> {
        let values = s.source_row as usize / s.from.block_bytes() * s.from.block_len();
        let rows = place.start / s.dest_row..place.end.div_ceil(s.dest_row);
        // Source rows are read in batches of about a megabyte.
        let batch = (1u64 << 20).div_ceil(s.source_row);
        let Scratch { source, values: floats, encoded, .. } = scratch;
        floats.resize(values, 0.0);
        encoded.resize(s.dest_row as usize, 0);
        let mut row = rows.start;
        while row < rows.end {
            let count = batch.min(rows.end - row);
            source.resize((count * s.source_row) as usize, 0);
            self.read(s.tensor, source, s.source + row * s.source_row)?;
            for (r, bytes) in (row..).zip(source.chunks_exact(s.source_row as usize)) {
                s.from.decode_row(bytes, floats);
                let start = r * s.dest_row;
                let (from, to) = (start.max(place.start), (start + s.dest_row).min(place.end));
                let target = &mut out[(from - place.start) as usize..(to - place.start) as usize];
                if target.len() == encoded.len() {
                    encode::encode_row(s.to, floats, target).map_err(|e| self.row_not_finite(s, r, Some(e.column)))?;
                } else {
                    encode::encode_row(s.to, floats, encoded).map_err(|e| self.row_not_finite(s, r, Some(e.column)))?;
                    target.copy_from_slice(&encoded[(from - start) as usize..(to - start) as usize]);
                }
            }
            row += count;
        }
        Ok(())
    }

    fn row_not_finite(&self, s: &Segment, row: u64, column: Option<usize>) -> Error {
        let start = self.checkpoint.tensors.get(s.tensor).map_or(s.source, |t| t.range.start);
        self.not_finite(s.tensor, (s.source - start) / s.source_row.max(1) + row, column, s.to)
    }

    /// An error about a row of a tensor; with a column, the value does not fit type `to`.
    pub(super) fn not_finite(&self, tensor: usize, row: u64, column: Option<usize>, to: QuantType) -> Error {
        let (file, name) = match (self.file_of(tensor), self.checkpoint.tensors.get(tensor)) {
            (Some((info, _)), Some(t)) => (info.path.clone(), t.name.clone()),
            _ => (self.checkpoint.path.clone(), format!("number {tensor}")),
        };
        let why = match column {
            None => "a value or scale is not finite (NaN or infinity)".to_owned(),
            Some(c) => format!("the value in column {c} is NaN, infinite, or too large for {}", to.name()),
        };
        Error::Malformed { file, why: format!("tensor {name}, row {row}: {why}") }
    }
}

/// What says that a file is still the same.
pub fn fingerprint(m: &std::fs::Metadata) -> Fingerprint {
    let ns = |s: i64, ns: i64| s as i128 * 1_000_000_000 + ns as i128;
    Fingerprint {
        dev: m.dev(),
        ino: m.ino(),
        bytes: m.len(),
        mtime_ns: ns(m.mtime(), m.mtime_nsec()),
        ctime_ns: ns(m.ctime(), m.ctime_nsec()),
    }
}

fn read_at(info: &WeightFile, file: &File, out: &mut [u8], offset: u64) -> Result<()> {
    file.read_exact_at(out, offset).map_err(|error| match error.kind() {
        // The header was checked against the length: a short read means that the file shrank.
        std::io::ErrorKind::UnexpectedEof => Error::SourceChanged { file: info.path.clone() },
        _ => Error::Io { path: info.path.clone(), what: "reading weights", error },
    })
}
