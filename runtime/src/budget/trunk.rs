//! How much of the trunk stays in memory.

use forebay_format::{Index, Manifest, Superblock};

use super::MemoryPlan;
use crate::trunk::RunId;
use crate::window::arena::SPAN_ALIGNMENT;

/// Spans of the ring: a layer that is computed, and the next two, so that there is always more to read while one is being finished.
const RING_SPANS: u32 = 3;
/// Rows of the embedding read at once. One token needs one; a prompt's reads keep a drive busy with this many.
const ROW_SLOTS: u32 = 16;

/// What of the trunk does not stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    /// Rows of the embedding are read as tokens come.
    rows: bool,
    /// Layers that pass through the ring.
    streamed: usize,
}

impl Share {
    /// Everything stays.
    pub const ALL: Share = Share { rows: false, streamed: 0 };
}

/// Bytes of the trunk's runs in memory.
pub(super) struct Runs {
    embedding: u64,
    head: u64,
    layers: Vec<u64>,
    /// Bytes read for a row of the embedding; `None` if the embedding must stay.
    row: Option<u64>,
}

impl Runs {
    pub fn new(manifest: &Manifest, index: &Index, superblock: &Superblock) -> Runs {
        let length = |run: RunId| index.get(run.bundle()).map_or(0, |r| r.length.next_multiple_of(SPAN_ALIGNMENT as u64));
        let layers = (0u32..).zip(&manifest.trunk).map(|(l, _)| length(RunId::Trunk(l)));
        Runs {
            embedding: length(RunId::Embedding),
            head: length(RunId::Head),
            layers: layers.collect(),
            row: row(manifest, index, superblock),
        }
    }

    /// The ways to divide the trunk that make sense, those that keep most of it first.
    pub fn shares(&self) -> Vec<Share> {
        let rows = self.row.is_some_and(|row| row.saturating_mul(ROW_SLOTS as u64) < self.embedding);
        let streamed = (RING_SPANS as usize + 1..=self.layers.len()).filter(|&n| {
            let (bytes, longest) = self.streamed(n);
            longest.saturating_mul(RING_SPANS as u64) < bytes
        });
        std::iter::once(0).chain(streamed).map(|streamed| Share { rows, streamed }).collect()
    }

    /// Bytes of `count` streamed layers, and of the longest of them.
    fn streamed(&self, count: usize) -> (u64, u64) {
        let chosen = self.layers.iter().enumerate().filter(|&(l, _)| is_streamed(l, count, self.layers.len()));
        chosen.fold((0, 0), |(sum, longest), (_, &bytes)| (sum.saturating_add(bytes), longest.max(bytes)))
    }

    /// Writes into `plan` what a share means.
    pub fn place(&self, share: &Share, plan: &mut MemoryPlan) {
        let all = self.layers.iter().fold(self.head, |sum, &bytes| sum.saturating_add(bytes));
        let (streamed, longest) = self.streamed(share.streamed);
        let numbers = (0..self.layers.len()).filter(|&l| is_streamed(l, share.streamed, self.layers.len()));
        plan.streamed = numbers.map(|l| l as u32).collect();
        plan.streamed_bytes = streamed;
        (plan.ring_spans, plan.ring_span_bytes) = if share.streamed > 0 { (RING_SPANS, longest) } else { (0, 0) };
        let row = self.row.filter(|_| share.rows);
        (plan.row_slots, plan.row_slot_bytes) = row.map_or((0, 0), |row| (ROW_SLOTS, row));
        let embedding = if row.is_some() { 0 } else { self.embedding };
        plan.trunk = all.saturating_sub(streamed).saturating_add(embedding);
    }
}

/// `count` of `layers` layers are streamed, as evenly spread as they can be.
fn is_streamed(layer: usize, count: usize, layers: usize) -> bool {
    (layer + 1) * count / layers > layer * count / layers
}

/// Bytes of the chunks that a row of the embedding can reach into. `None` if a tied head needs the whole matrix, or if a converter cut it in slices.
fn row(manifest: &Manifest, index: &Index, superblock: &Superblock) -> Option<u64> {
    // Beside learned positions it stays: they are needed for every token.
    let place = manifest.embedding.first().filter(|_| !manifest.spec.tied_head && manifest.embedding.len() == 1)?;
    let record = index.get(RunId::Embedding.bundle()).ok()?;
    let chunk = superblock.chunk_bytes as u64;
    let bytes = place.qtype.row_bytes(place.cols as usize)? as u64;
    let reached = bytes.saturating_sub(1).div_ceil(chunk.max(1)).checked_add(1)?;
    let bytes = reached.checked_mul(chunk)?.min(record.length);
    (index.layout(record).slices.len() == 1 && bytes > 0).then(|| bytes.next_multiple_of(SPAN_ALIGNMENT as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streamed_layers_are_spread_evenly() {
        for layers in 1..40 {
            for count in 0..=layers {
                let chosen: Vec<usize> = (0..layers).filter(|&l| is_streamed(l, count, layers)).collect();
                assert_eq!(chosen.len(), count);
                let gaps = chosen.windows(2).map(|w| w[1] - w[0]);
                let (least, most) = (gaps.clone().min().unwrap_or(1), gaps.max().unwrap_or(1));
                assert!(most - least <= 1, "{chosen:?} of {layers}");
            }
        }
    }

    #[test]
    fn shares_keep_as_much_as_they_can_and_save_something() {
        let runs = Runs { embedding: 50 << 20, head: 7, layers: vec![1000; 8], row: Some(1 << 18) };
        let shares = runs.shares();
        assert_eq!(shares.iter().map(|s| s.streamed).collect::<Vec<_>>(), [0, 4, 5, 6, 7, 8]);
        assert!(shares.iter().all(|s| s.rows));
        // A ring as long as what passes through it saves nothing; neither does a buffer of rows as large as the matrix.
        let runs = Runs { embedding: 4 << 20, head: 7, layers: vec![10, 10, 10, 1000], row: Some(1 << 18) };
        assert_eq!(runs.shares(), [Share::ALL]);
    }
}
