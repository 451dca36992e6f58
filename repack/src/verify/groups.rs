//! Groups of neurons, many in one read.

use super::{Check, Problem, Seen, Worker, difference};
use crate::error::Result;
use crate::write::pieces::{self, Piece};
use rustix::fs::Advice;
use std::os::unix::fs::FileExt;

impl Check<'_> {
    /// Reads the groups of a piece and compares each with its BLAKE3, its sums and its source.
    pub(super) fn look_at_groups(&self, worker: &mut Worker, piece: &Piece) -> Result<Seen> {
        let extents = &self.extents[piece.run..piece.run + piece.groups];
        let superblock = &self.pack.superblock;
        let (start, length) = (extents.first().map_or(0, |e| e.record.offset), piece.range.end);
        let bytes = worker.buffer.slice(length as usize);
        self.advise(start, length, Advice::WillNeed);
        if let Err(e) = self.pack.file.read_exact_at(bytes, start) {
            return Ok(Seen::Unreadable(format!("bytes {start}..{} of the file cannot be read: {e}", start + length)));
        }
        self.advise(start, length, Advice::DontNeed);
        let expected = match self.origin {
            Some((origin, plan)) => {
                let expected = worker.expected.slice(length as usize);
                origin.fill_groups(plan, &plan.runs[piece.run..piece.run + piece.groups], expected, &mut worker.scratch)?;
                Some((origin, plan, &*expected))
            }
            None => None,
        };
        let groups = extents.iter().map(|e| (e.record.id, self.index.layout(e.record)));
        let digest = pieces::digest_groups(&superblock.pack_id, superblock.chunk_bytes, groups, bytes);
        let mut sums = digest.sums.iter();
        let mut problems = Vec::new();
        for (i, (extent, hash)) in extents.iter().zip(&digest.groups).enumerate() {
            let record = extent.record;
            let own = (record.offset - start) as usize..(record.offset - start + record.length) as usize;
            let mut wrong = Vec::new();
            let chunks = self.index.layout(record).chunks(superblock.chunk_bytes);
            let stored = self.index.sums(record, superblock.chunk_bytes);
            // All chunks are looked at, so that the next group's sums come next.
            let bad = chunks.zip(stored).filter(|(_, sum)| sums.next() != Some(sum)).map(|(range, _)| range).collect::<Vec<_>>();
            if let Some(range) = bad.first() {
                let (from, to) = (record.offset + range.start, record.offset + range.end);
                wrong.push(format!("bytes {from}..{to} of the file do not match their sum"));
            } else if *hash != record.blake3 {
                wrong.push("its BLAKE3 does not match".into());
            }
            if let Some((origin, plan, expected)) = expected {
                let at = bytes[own.clone()].iter().zip(&expected[own]).position(|(a, b)| a != b);
                wrong.extend(at.map(|at| difference(plan, origin.checkpoint(), &plan.runs[piece.run + i], at as u64)));
            }
            if !wrong.is_empty() {
                problems.push(Problem { place: record.id.to_string(), why: wrong.join("; ") });
            }
        }
        Ok(Seen::Groups(problems))
    }
}
