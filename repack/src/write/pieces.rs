//! Work in pieces of bounded size, whatever the size of a run: each is filled, hashed and written by itself. BLAKE3 is a tree, so the hash of
//! a run is put together from those of its pieces.

use crate::plan::{Plan, Run};
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use forebay_format::layout::index::{BundleId, Kind, Layout};
use forebay_format::layout::sums::chunk_sum;
use std::ops::Range;

/// Bytes of a piece, a power of two (so that pieces are whole BLAKE3 subtrees) and a multiple of every chunk length.
pub const PIECE_BYTES: u64 = 8 << 20;

/// Part of a run, or several small runs back to back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Position of the (first) run in the list that was cut.
    pub run: usize,
    /// Groups of neurons that it is, all of them whole; 0 if it is part of another run.
    pub groups: usize,
    /// Bytes, from the start of the (first) run.
    pub range: Range<u64>,
    /// It is the last one of its run.
    pub last: bool,
    /// Bundles that the run is, see [`Run::copies`].
    pub copies: u32,
}

/// A run to be cut.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// What it holds.
    pub id: BundleId,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// Bundles that it is, see [`Run::copies`].
    pub copies: u32,
}

/// Cuts runs into pieces. Groups of neurons of one layer that lie back to back go together: alone each would be a write of a few pages, and of a few columns.
pub fn cut(runs: impl IntoIterator<Item = Extent>) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    // Layer and end of the run before, if it was a group.
    let mut open: Option<(u32, u64)> = None;
    for (run, Extent { id, offset, length, copies }) in runs.into_iter().enumerate() {
        if id.kind == Kind::NeuronGroup {
            let follows = open == Some((id.layer, offset));
            open = offset.checked_add(length).map(|end| (id.layer, end));
            match pieces.last_mut().filter(|p| follows && p.range.end + length <= PIECE_BYTES) {
                Some(piece) => {
                    piece.groups += 1;
                    piece.range.end += length;
                }
                None => pieces.push(Piece { run, groups: 1, range: 0..length, last: true, copies }),
            }
            continue;
        }
        open = None;
        let starts = (0..length).step_by(PIECE_BYTES as usize);
        pieces.extend(starts.map(|start| {
            let end = (start + PIECE_BYTES).min(length);
            Piece { run, groups: 0, range: start..end, last: end == length, copies }
        }));
    }
    pieces
}

/// Chunks that start in a piece: the number of the first, and their bytes in the run. The last may end behind the piece, because chunks
/// start anew in each slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    /// Number of the first chunk.
    pub first: u32,
    /// Bytes in the run.
    pub ranges: Vec<Range<u64>>,
}

impl Chunks {
    /// Chunks of `layout` that start in `range`.
    pub fn starting_in(range: &Range<u64>, layout: &Layout, chunk_bytes: u32) -> Chunks {
        let chunk = chunk_bytes as u64;
        let mut found = Chunks { first: 0, ranges: Vec::new() };
        for slice in layout.slice_ranges() {
            let count = (slice.end - slice.start).div_ceil(chunk);
            let from = range.start.saturating_sub(slice.start).div_ceil(chunk).min(count);
            let to = range.end.saturating_sub(slice.start).div_ceil(chunk).min(count);
            if found.ranges.is_empty() {
                found.first += from as u32;
            }
            found.ranges.extend((from..to).map(|i| slice.start + i * chunk..(slice.start + (i + 1) * chunk).min(slice.end)));
        }
        found
    }

    /// End of the bytes that a piece must look at: its own and the rest of its last chunk.
    pub fn reach(&self, range: &Range<u64>) -> u64 {
        self.ranges.last().map_or(range.end, |c| c.end.max(range.end))
    }
}

/// What the bytes of a piece come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Chaining value of the subtree, or the BLAKE3 of the run if the piece is the whole run.
    pub hash: [u8; 32],
    /// Fast sums of the chunks that start in it; those of the first bundle that the run is, then those of the next.
    pub sums: Vec<u64>,
    /// BLAKE3 of each group of neurons in the piece, if it is made of them; `hash` is then that of these.
    pub groups: Vec<[u8; 32]>,
}

/// Digest of a piece; `bytes` starts at the piece's start and reaches to [`Chunks::reach`].
pub fn digest(pack_id: &[u8; 16], id: BundleId, piece: &Piece, chunks: &Chunks, bytes: &[u8]) -> Digest {
    let own = &bytes[..(piece.range.end - piece.range.start) as usize];
    let hash = if piece.range.start == 0 && piece.last {
        *blake3::hash(own).as_bytes()
    } else {
        blake3::Hasher::new().set_input_offset(piece.range.start).update(own).finalize_non_root()
    };
    let part = |r: &Range<u64>| &bytes[(r.start - piece.range.start) as usize..(r.end - piece.range.start) as usize];
    let of_bundle = |copy: u32| {
        let id = BundleId { ordinal: id.ordinal.saturating_add(copy), ..id };
        (chunks.first..).zip(&chunks.ranges).map(move |(n, r)| chunk_sum(pack_id, id, n, part(r)))
    };
    Digest { hash, sums: (0..piece.copies).flat_map(of_bundle).collect(), groups: Vec::new() }
}

/// Digest of a piece that is groups of neurons, back to back in `bytes`.
pub fn digest_groups<'a>(
    pack_id: &[u8; 16],
    chunk_bytes: u32,
    groups: impl IntoIterator<Item = (BundleId, &'a Layout)>,
    bytes: &[u8],
) -> Digest {
    let (mut hashes, mut sums, mut rest) = (Vec::new(), Vec::new(), bytes);
    for (id, layout) in groups {
        let (own, behind) = rest.split_at(layout.length() as usize);
        hashes.push(*blake3::hash(own).as_bytes());
        let chunks = (0u32..).zip(layout.chunks(chunk_bytes));
        sums.extend(chunks.map(|(n, r)| chunk_sum(pack_id, id, n, &own[r.start as usize..r.end as usize])));
        rest = behind;
    }
    Digest { hash: *blake3::hash(hashes.as_flattened()).as_bytes(), sums, groups: hashes }
}

/// Puts digests, given in order, together into one BLAKE3 a run and all sums.
#[derive(Default)]
pub struct Ledger {
    open: Vec<ChainingValue>,
    /// Sums of the run at hand, by bundle.
    open_sums: Vec<Vec<u64>>,
    /// BLAKE3 of each finished run, in order.
    pub hashes: Vec<[u8; 32]>,
    /// Sums of all bundles, in order.
    pub sums: Vec<u64>,
}

impl Ledger {
    /// Takes the digest of the next piece.
    pub fn push(&mut self, piece: &Piece, digest: Digest) {
        if piece.groups > 0 {
            self.hashes.extend(digest.groups);
            self.sums.extend(digest.sums);
            return;
        }
        self.open_sums.resize_with(piece.copies as usize, Vec::new);
        if let Some(of_bundle) = digest.sums.len().checked_div(piece.copies as usize).filter(|&n| n > 0) {
            self.open_sums.iter_mut().zip(digest.sums.chunks_exact(of_bundle)).for_each(|(all, part)| all.extend_from_slice(part));
        }
        self.open.push(digest.hash);
        if piece.last {
            let hash = match self.open.as_slice() {
                [whole] => *whole,
                parts => root(parts),
            };
            self.hashes.push(hash);
            self.sums.extend(self.open_sums.drain(..).flatten());
            self.open.clear();
        }
    }
}

/// Number of pieces in the left subtree of `count`: the largest power of two below it.
fn left(count: usize) -> usize {
    (count / 2 + count % 2).next_power_of_two()
}

fn subtree(parts: &[ChainingValue]) -> ChainingValue {
    match parts {
        [one] => *one,
        _ => {
            let (l, r) = parts.split_at(left(parts.len()));
            merge_subtrees_non_root(&subtree(l), &subtree(r), Mode::Hash)
        }
    }
}

fn root(parts: &[ChainingValue]) -> [u8; 32] {
    let (l, r) = parts.split_at(left(parts.len()));
    *merge_subtrees_root(&subtree(l), &subtree(r), Mode::Hash).as_bytes()
}

/// Pieces of a plan's runs.
pub fn of_plan(plan: &Plan) -> Vec<Piece> {
    cut(plan.runs.iter().map(|r: &Run| Extent { id: r.id, offset: r.offset, length: r.length, copies: r.copies }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i * 31 + i / 251) as u8).collect()
    }

    #[test]
    fn pieces_add_up_to_the_hash_and_sums_of_the_run() {
        let id = BundleId::expert(3, 5);
        let piece = PIECE_BYTES as usize;
        let chunk = 128 << 10;
        for slices in
            [vec![4096], vec![piece], vec![piece + 4096], vec![5 * piece], vec![piece - 8192, piece / 2 + 4096, 4096], vec![3 << 20; 9]]
        {
            let layout = Layout { slices: slices.iter().map(|&s| s as u64).collect() };
            let all = bytes(slices.iter().sum());
            for copies in [1, 3] {
                let mut ledger = Ledger::default();
                for p in cut([Extent { id, offset: 0, length: all.len() as u64, copies }]) {
                    let chunks = Chunks::starting_in(&p.range, &layout, chunk);
                    let reach = chunks.reach(&p.range) as usize;
                    ledger.push(&p, digest(&[7; 16], id, &p, &chunks, &all[p.range.start as usize..reach]));
                }
                assert_eq!(ledger.hashes, [*blake3::hash(&all).as_bytes()], "{slices:?}");
                let part = |r: Range<u64>| &all[r.start as usize..r.end as usize];
                let ids = (0..copies).map(|c| BundleId::expert(id.layer, id.ordinal + c));
                let sums = ids.flat_map(|id| (0..).zip(layout.chunks(chunk)).map(move |(i, r)| (id, i, r)));
                let want: Vec<u64> = sums.map(|(id, i, r)| chunk_sum(&[7; 16], id, i, part(r))).collect();
                assert_eq!(ledger.sums, want, "{slices:?}");
            }
        }
    }

    #[test]
    fn left_subtrees_are_powers_of_two() {
        assert_eq!((2..=9).map(left).collect::<Vec<_>>(), [1, 2, 2, 4, 4, 4, 4, 8]);
    }
}
