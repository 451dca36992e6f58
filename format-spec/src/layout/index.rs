//! The index: where every run is, in fixed-width records found by arithmetic from (layer, kind, ordinal).
//!
//! Section layout, in order, no gaps: header (64 bytes) | directory | records | layouts | slices | sums.

use super::sums::{Hash, chunk_seed};
use super::superblock::{array_at, hex, u16_at, u32_at, u64_at};
use crate::error::FormatError;
use std::fmt;
use std::ops::Range;
use twox_hash::XxHash3_64;

/// First bytes of the index section.
pub const INDEX_MAGIC: [u8; 8] = *b"FBYINDEX";
/// Bytes of the header.
pub const HEADER_BYTES: usize = 64;
/// Bytes of a directory cell.
pub const CELL_BYTES: usize = 8;
/// Bytes of a record.
pub const RECORD_BYTES: usize = 80;
/// Bytes of a layout.
pub const LAYOUT_BYTES: usize = 16;
/// Bytes of a slice.
pub const SLICE_BYTES: usize = 16;
/// Bytes of a sum.
pub const SUM_BYTES: usize = 8;
/// Cells per directory row: one for each [`Kind`], rest zero.
pub const KINDS: usize = 8;
/// Largest index a reader accepts.
pub const MAX_INDEX_BYTES: u64 = 1 << 30;
/// Most layers a pack may have.
pub const MAX_LAYERS: u32 = 1024;
/// `layer` of bundles that belong to the whole model.
pub const GLOBAL: u32 = u32::MAX;

/// What a bundle holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Kind {
    /// The embedding matrix. Global, ordinal 0.
    Embedding = 0,
    /// What every token needs of a layer. Ordinal 0.
    Trunk = 1,
    /// One expert; the ordinal is its id.
    Expert = 2,
    /// One group of neurons; the ordinal counts groups.
    NeuronGroup = 3,
    /// Final norm and head. Global, ordinal 0.
    Head = 4,
    /// A tensor the runtime does not use. Global; the ordinal is its place in the manifest's list.
    Carried = 5,
}

impl Kind {
    /// All kinds, by code.
    pub const ALL: [Kind; 6] = [Kind::Embedding, Kind::Trunk, Kind::Expert, Kind::NeuronGroup, Kind::Head, Kind::Carried];

    /// The kind belongs to the model, not to a layer.
    pub fn is_global(self) -> bool {
        matches!(self, Kind::Embedding | Kind::Head | Kind::Carried)
    }
}

/// Name of a bundle: one aligned run of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BundleId {
    /// What it holds.
    pub kind: Kind,
    /// Its layer, or [`GLOBAL`].
    pub layer: u32,
    /// Its number within (kind, layer).
    pub ordinal: u32,
}

impl BundleId {
    /// An expert.
    pub fn expert(layer: u32, expert: u32) -> Self {
        BundleId { kind: Kind::Expert, layer, ordinal: expert }
    }

    /// A group of neurons.
    pub fn neurons(layer: u32, group: u32) -> Self {
        BundleId { kind: Kind::NeuronGroup, layer, ordinal: group }
    }

    /// A layer's trunk.
    pub fn trunk(layer: u32) -> Self {
        BundleId { kind: Kind::Trunk, layer, ordinal: 0 }
    }

    /// A bundle of the whole model.
    pub fn global(kind: Kind, ordinal: u32) -> Self {
        BundleId { kind, layer: GLOBAL, ordinal }
    }
}

impl fmt::Display for BundleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Embedding => write!(f, "embedding"),
            Kind::Head => write!(f, "head"),
            Kind::Carried => write!(f, "carried tensor {}", self.ordinal),
            Kind::Trunk => write!(f, "layer {} trunk", self.layer),
            Kind::Expert => write!(f, "layer {} expert {}", self.layer, self.ordinal),
            Kind::NeuronGroup => write!(f, "layer {} neuron group {}", self.layer, self.ordinal),
        }
    }
}

/// One bundle's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which bundle.
    pub id: BundleId,
    /// First byte in the file; a multiple of the alignment.
    pub offset: u64,
    /// Bytes, padding included; a multiple of the alignment.
    pub length: u64,
    /// Number of the layout that cuts it into slices.
    pub layout: u32,
    /// Number of its first sum.
    pub first_sum: u64,
    /// BLAKE3 of its `length` bytes.
    pub blake3: [u8; 32],
}

/// How bundles are cut into slices. Slices tile the bundle: each starts where the one before ends, on the alignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Lengths of the slices, in order; multiples of the alignment.
    pub slices: Vec<u64>,
}

impl Layout {
    /// One slice.
    pub fn whole(length: u64) -> Self {
        Layout { slices: vec![length] }
    }

    /// Bytes of a bundle with this layout.
    pub fn length(&self) -> u64 {
        self.slices.iter().sum()
    }

    /// Number of chunk sums of a bundle: chunks do not straddle slices.
    pub fn chunk_count(&self, chunk_bytes: u32) -> u64 {
        self.slices.iter().map(|s| s.div_ceil(chunk_bytes as u64)).sum()
    }

    /// Byte range of each chunk within the bundle, in order.
    pub fn chunks(&self, chunk_bytes: u32) -> impl Iterator<Item = Range<u64>> + '_ {
        let chunk = chunk_bytes as u64;
        self.slice_ranges().flat_map(move |s| {
            (0..(s.end - s.start).div_ceil(chunk)).map(move |i| s.start + i * chunk..(s.start + (i + 1) * chunk).min(s.end))
        })
    }

    /// Byte range of each slice within the bundle, in order.
    pub fn slice_ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.slices.iter().scan(0, |at, &len| {
            let start = *at;
            *at += len;
            Some(start..*at)
        })
    }
}

/// The decoded, validated index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    layers: u32,
    /// `(layers + 1) * KINDS` cells; the last row is the global one.
    directory: Vec<(u32, u32)>,
    records: Vec<Record>,
    layouts: Vec<Layout>,
    sums: Vec<u64>,
}

impl Index {
    /// Builds an index from records in canonical order: by layer (global last), then kind, then ordinal. `records[i].first_sum` is
    /// overwritten; `sums` holds the chunk sums of all records in that order.
    pub fn build(
        layers: u32,
        mut records: Vec<Record>,
        layouts: Vec<Layout>,
        sums: Vec<u64>,
        chunk_bytes: u32,
    ) -> Result<Self, FormatError> {
        let mut directory = vec![(0u32, 0u32); (layers as usize + 1) * KINDS];
        let mut next_sum = 0u64;
        if let Some(w) = records.windows(2).find(|w| order(layers, w[0].id) >= order(layers, w[1].id)) {
            return Err(FormatError::invalid(w[1].id.to_string(), "records are not in canonical order"));
        }
        for (i, r) in records.iter_mut().enumerate() {
            let cell = cell_of(layers, r.id).ok_or_else(|| FormatError::invalid(r.id.to_string(), "no such layer"))?;
            let (first, count) = &mut directory[cell];
            if *count == 0 {
                *first = i as u32;
            }
            if *first + *count != i as u32 || r.id.ordinal != *count {
                return Err(FormatError::invalid(r.id.to_string(), "records are not in canonical order"));
            }
            *count += 1;
            r.first_sum = next_sum;
            let layout = layouts.get(r.layout as usize).ok_or_else(|| FormatError::invalid(r.id.to_string(), "no such layout"))?;
            // Many records may claim one huge layout, so hostile counts can overflow here.
            next_sum = next_sum
                .checked_add(layout.chunk_count(chunk_bytes))
                .ok_or_else(|| FormatError::invalid("index", "more chunks than a 64-bit number counts"))?;
        }
        if next_sum != sums.len() as u64 {
            return Err(FormatError::invalid("index", format!("{} sums for {next_sum} chunks", sums.len())));
        }
        Ok(Index { layers, directory, records, layouts, sums })
    }

    /// Number of layers.
    pub fn layers(&self) -> u32 {
        self.layers
    }

    /// All records in canonical order.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// All layouts.
    pub fn layouts(&self) -> &[Layout] {
        &self.layouts
    }

    /// How many bundles (kind, layer) has; `layer` is [`GLOBAL`] for global kinds.
    pub fn count(&self, kind: Kind, layer: u32) -> u32 {
        cell_of(self.layers, BundleId { kind, layer, ordinal: 0 }).map_or(0, |c| self.directory[c].1)
    }

    /// The record of a bundle, in O(1).
    pub fn get(&self, id: BundleId) -> Result<&Record, FormatError> {
        cell_of(self.layers, id)
            .map(|c| self.directory[c])
            .filter(|&(_, count)| id.ordinal < count)
            .and_then(|(first, _)| self.records.get(first as usize + id.ordinal as usize))
            .ok_or(FormatError::NoSuchBundle(id))
    }

    /// Layout of a record.
    pub fn layout(&self, record: &Record) -> &Layout {
        &self.layouts[record.layout as usize]
    }

    /// Chunk sums of a record, in the order of [`Layout::chunks`].
    pub fn sums(&self, record: &Record, chunk_bytes: u32) -> &[u64] {
        let count = self.layout(record).chunk_count(chunk_bytes) as usize;
        &self.sums[record.first_sum as usize..record.first_sum as usize + count]
    }

    /// Checks a bundle's bytes against its fast sums; the error says which chunk.
    pub fn check_sums(&self, record: &Record, pack_id: &[u8; 16], chunk_bytes: u32, bytes: &[u8]) -> Result<(), FormatError> {
        self.check_part(record, pack_id, chunk_bytes, 0..record.length, bytes, XxHash3_64::oneshot_with_seed)
    }

    /// As [`Index::check_sums`] for a part of a bundle: `bytes` are those at `part`, which starts and ends where chunks do. (No chunk
    /// reaches from one slice into the next, so a slice can be checked before the next one is there.) `hash` is whatever computes XXH3-64 fastest.
    pub fn check_part(
        &self,
        record: &Record,
        pack_id: &[u8; 16],
        chunk_bytes: u32,
        part: Range<u64>,
        bytes: &[u8],
        hash: Hash,
    ) -> Result<(), FormatError> {
        let chunks = self.layout(record).chunks(chunk_bytes);
        let chunks = chunks.zip(self.sums(record, chunk_bytes)).enumerate();
        for (i, (range, &stored)) in chunks.filter(|(_, (r, _))| r.start >= part.start && r.start < part.end) {
            let here = (range.start - part.start) as usize..(range.end - part.start) as usize;
            let part = bytes.get(here).ok_or(FormatError::Truncated {
                what: "bundle",
                need: record.length,
                have: part.start + bytes.len() as u64,
            })?;
            let computed = hash(chunk_seed(pack_id, record.id, i as u32), part);
            if computed != stored {
                return Err(FormatError::ChecksumMismatch {
                    what: format!("{} (bytes {}..{} of the file)", record.id, record.offset + range.start, record.offset + range.end),
                    stored: format!("{stored:016x}"),
                    computed: format!("{computed:016x}"),
                });
            }
        }
        Ok(())
    }

    /// BLAKE3 over (kind, layer, ordinal, length, BLAKE3) of every record in canonical order: equal for two packs with
    /// the same weights, wherever the bundles are and whatever the manifest says.
    pub fn content_id(&self) -> [u8; 32] {
        let mut h = blake3::Hasher::new();
        h.update(b"forebay content 1");
        for r in &self.records {
            h.update(&(r.id.kind as u32).to_le_bytes());
            h.update(&r.id.layer.to_le_bytes());
            h.update(&r.id.ordinal.to_le_bytes());
            h.update(&r.length.to_le_bytes());
            h.update(&r.blake3);
        }
        *h.finalize().as_bytes()
    }

    /// The section's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let slice_count: usize = self.layouts.iter().map(|l| l.slices.len()).sum();
        let mut b = Vec::with_capacity(
            HEADER_BYTES + self.directory.len() * CELL_BYTES + self.records.len() * RECORD_BYTES + self.sums.len() * SUM_BYTES,
        );
        b.extend_from_slice(&INDEX_MAGIC);
        for n in [self.layers, self.records.len() as u32, self.layouts.len() as u32, slice_count as u32] {
            b.extend_from_slice(&n.to_le_bytes());
        }
        b.extend_from_slice(&(self.sums.len() as u64).to_le_bytes());
        b.resize(HEADER_BYTES, 0);
        for (first, count) in &self.directory {
            b.extend_from_slice(&first.to_le_bytes());
            b.extend_from_slice(&count.to_le_bytes());
        }
        for r in &self.records {
            b.extend_from_slice(&r.offset.to_le_bytes());
            b.extend_from_slice(&r.length.to_le_bytes());
            b.extend_from_slice(&r.first_sum.to_le_bytes());
            b.extend_from_slice(&r.layout.to_le_bytes());
            b.extend_from_slice(&(r.id.kind as u16).to_le_bytes());
            b.extend_from_slice(&[0; 2]);
            b.extend_from_slice(&r.id.layer.to_le_bytes());
            b.extend_from_slice(&r.id.ordinal.to_le_bytes());
            b.extend_from_slice(&[0; 8]);
            b.extend_from_slice(&r.blake3);
        }
        let mut first = 0u32;
        for l in &self.layouts {
            b.extend_from_slice(&l.length().to_le_bytes());
            b.extend_from_slice(&first.to_le_bytes());
            b.extend_from_slice(&(l.slices.len() as u32).to_le_bytes());
            first += l.slices.len() as u32;
        }
        for r in self.layouts.iter().flat_map(Layout::slice_ranges) {
            b.extend_from_slice(&r.start.to_le_bytes());
            b.extend_from_slice(&(r.end - r.start).to_le_bytes());
        }
        for s in &self.sums {
            b.extend_from_slice(&s.to_le_bytes());
        }
        b
    }

    /// Decodes and validates the section: sizes, order, alignment, tiling, coverage, no overlap but of experts that are one extent (see
    /// [`Index::aliased`]). `payload` is the range of the file that runs may occupy.
    pub fn decode(b: &[u8], alignment: u32, chunk_bytes: u32, payload: Range<u64>) -> Result<Self, FormatError> {
        if b.len() < HEADER_BYTES {
            return Err(FormatError::Truncated { what: "index", need: HEADER_BYTES as u64, have: b.len() as u64 });
        }
        if b[..8] != INDEX_MAGIC {
            return Err(FormatError::invalid("index", "does not start with FBYINDEX"));
        }
        let (layers, records, layouts, slices) = (u32_at(b, 8), u32_at(b, 12), u32_at(b, 16), u32_at(b, 20));
        let sums = u64_at(b, 24);
        if b[32..HEADER_BYTES].iter().any(|&x| x != 0) {
            return Err(FormatError::invalid("index", "reserved bytes are not zero"));
        }
        if layers > MAX_LAYERS {
            return Err(FormatError::TooLarge { what: "number of layers", value: layers as u64, limit: MAX_LAYERS as u64 });
        }
        let cells = (layers as usize + 1) * KINDS;
        // Every factor is below 2^32 except `sums`, so only that product can overflow.
        let fixed = HEADER_BYTES as u64
            + cells as u64 * CELL_BYTES as u64
            + records as u64 * RECORD_BYTES as u64
            + layouts as u64 * LAYOUT_BYTES as u64
            + slices as u64 * SLICE_BYTES as u64;
        let need = sums.checked_mul(SUM_BYTES as u64).and_then(|s| s.checked_add(fixed));
        if need != Some(b.len() as u64) {
            return Err(FormatError::invalid("index", format!("its counts do not add up to its {} bytes", b.len())));
        }
        let mut at = HEADER_BYTES;
        let mut take = |count: usize, size: usize| {
            let part = &b[at..at + count * size];
            at += count * size;
            part.chunks_exact(size)
        };
        let directory: Vec<(u32, u32)> = take(cells, CELL_BYTES).map(|c| (u32_at(c, 0), u32_at(c, 4))).collect();
        let records = take(records as usize, RECORD_BYTES).map(decode_record).collect::<Result<Vec<_>, _>>()?;
        let layout_cells: Vec<_> = take(layouts as usize, LAYOUT_BYTES).map(|c| (u64_at(c, 0), u32_at(c, 8), u32_at(c, 12))).collect();
        let slices: Vec<_> = take(slices as usize, SLICE_BYTES).map(|c| (u64_at(c, 0), u64_at(c, 8))).collect();
        let sums: Vec<u64> = take(sums as usize, SUM_BYTES).map(|c| u64_at(c, 0)).collect();
        let layouts = decode_layouts(&layout_cells, &slices, alignment)?;
        let first_sums: Vec<u64> = records.iter().map(|r| r.first_sum).collect();
        let index = Index::build(layers, records, layouts, sums, chunk_bytes)?;
        if index.directory != directory {
            return Err(FormatError::invalid("index", "the directory does not match the records"));
        }
        if index.records.iter().map(|r| r.first_sum).ne(first_sums) {
            return Err(FormatError::invalid("index", "first_sum does not match the layouts"));
        }
        index.validate_extents(alignment, payload)?;
        Ok(index)
    }

    fn validate_extents(&self, alignment: u32, payload: Range<u64>) -> Result<(), FormatError> {
        let mut spans = Vec::with_capacity(self.records.len());
        for r in &self.records {
            if !r.offset.is_multiple_of(alignment as u64) {
                return Err(FormatError::invalid(r.id.to_string(), format!("offset {} is not aligned to {alignment}", r.offset)));
            }
            if r.length == 0 || r.length != self.layout(r).length() {
                return Err(FormatError::invalid(r.id.to_string(), format!("length {} is not its layout's", r.length)));
            }
            let end = r.offset.checked_add(r.length).filter(|&end| r.offset >= payload.start && end <= payload.end);
            let end = end.ok_or_else(|| {
                FormatError::invalid(r.id.to_string(), format!("{} bytes at {} lie outside the payload", r.length, r.offset))
            })?;
            spans.push((r.offset, end, r.id));
        }
        spans.sort_unstable();
        match spans.windows(2).find(|w| w[0].1 > w[1].0 && !self.share(w[0].2, w[1].2)) {
            Some(w) => Err(FormatError::invalid(w[1].2.to_string(), format!("overlaps {}", w[0].2))),
            None => Ok(()),
        }
    }

    /// Two experts of one layer are one extent: same place, length, slices and bytes. (Their sums differ, being bound to the expert.)
    fn share(&self, a: BundleId, b: BundleId) -> bool {
        let experts = a.kind == Kind::Expert && b.kind == Kind::Expert && a.layer == b.layer;
        let (Ok(a), Ok(b)) = (self.get(a), self.get(b)) else { return false };
        experts && (a.offset, a.length, a.layout, a.blake3) == (b.offset, b.length, b.layout, b.blake3)
    }

    /// Number of bundles that share their extent with one before them: 0 but in synthetic packs.
    pub fn aliased(&self) -> usize {
        let mut offsets: Vec<u64> = self.records.iter().map(|r| r.offset).collect();
        offsets.sort_unstable();
        offsets.windows(2).filter(|w| w[0] == w[1]).count()
    }
}

fn cell_of(layers: u32, id: BundleId) -> Option<usize> {
    let row = match (id.kind.is_global(), id.layer) {
        (true, GLOBAL) => layers,
        (false, layer) if layer < layers => layer,
        _ => return None,
    };
    Some(row as usize * KINDS + id.kind as usize)
}

/// Canonical order: by layer (global last), then kind, then ordinal.
fn order(layers: u32, id: BundleId) -> (Option<usize>, u32) {
    (cell_of(layers, id), id.ordinal)
}

fn decode_record(c: &[u8]) -> Result<Record, FormatError> {
    let code = u16_at(c, 28);
    let kind = *Kind::ALL.get(code as usize).ok_or_else(|| FormatError::invalid("index record", format!("unknown kind {code}")))?;
    if u16_at(c, 30) != 0 || u64_at(c, 40) != 0 {
        return Err(FormatError::invalid("index record", "reserved bytes are not zero"));
    }
    Ok(Record {
        id: BundleId { kind, layer: u32_at(c, 32), ordinal: u32_at(c, 36) },
        offset: u64_at(c, 0),
        length: u64_at(c, 8),
        first_sum: u64_at(c, 16),
        layout: u32_at(c, 24),
        blake3: array_at(c, 48),
    })
}

fn decode_layouts(cells: &[(u64, u32, u32)], slices: &[(u64, u64)], alignment: u32) -> Result<Vec<Layout>, FormatError> {
    let mut next = 0usize;
    let mut layouts = Vec::with_capacity(cells.len());
    for (i, &(length, first, count)) in cells.iter().enumerate() {
        let bad = |why: &str| FormatError::invalid(format!("layout {i}"), why);
        let range = next..next.saturating_add(count as usize);
        if first as usize != next || count == 0 {
            return Err(bad("its slices do not follow those of the layout before"));
        }
        let part = slices.get(range.clone()).ok_or_else(|| bad("it has more slices than there are"))?;
        let mut end = 0u64;
        for &(offset, len) in part {
            if offset != end || len == 0 || !len.is_multiple_of(alignment as u64) {
                return Err(bad("its slices do not tile it on the alignment"));
            }
            end = end.checked_add(len).ok_or_else(|| bad("its length overflows"))?;
        }
        if end != length {
            return Err(bad("its length is not the sum of its slices"));
        }
        layouts.push(Layout { slices: part.iter().map(|s| s.1).collect() });
        next = range.end;
    }
    if next != slices.len() {
        return Err(FormatError::invalid("index", "slices that belong to no layout"));
    }
    Ok(layouts)
}

/// BLAKE3 of a bundle against its record.
pub fn check_blake3(record: &Record, bytes: &[u8]) -> Result<(), FormatError> {
    let computed = blake3::hash(bytes);
    if *computed.as_bytes() == record.blake3 {
        return Ok(());
    }
    Err(FormatError::ChecksumMismatch { what: record.id.to_string(), stored: hex(&record.blake3), computed: hex(computed.as_bytes()) })
}
