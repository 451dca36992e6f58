//! The reference reader: slow, plain, `std::fs` only. Decodes with the one decoder in [`crate::layout`] and checks every hash before it hands
//! anything out. Other readers are tested against it.

use crate::error::FormatError;
use crate::layout::index::{BundleId, Index, Kind, Record, check_blake3};
use crate::layout::manifest::{self, ExpertSlice, MAX_STORED_BYTES, Manifest, Tiling};
use crate::layout::source::{self, NamedBytes};
use crate::layout::superblock::{Section, Superblock, hex};
use crate::layout::{SUPERBLOCK_BYTES, index::MAX_INDEX_BYTES};
use crate::model::{Ffn, Role};
use crate::neurons::GroupShape;
use crate::quant::QuantType;
use crate::tiling::deinterleave;
use crate::validate_pack;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// A pack that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system refused.
    #[error("{what}: {error}")]
    Io {
        /// What was being read.
        what: String,
        /// Why not.
        error: io::Error,
    },
    /// The bytes are wrong.
    #[error(transparent)]
    Format(#[from] FormatError),
}

type Result<T> = std::result::Result<T, ReadError>;

/// An open pack: superblock, copy, sections, index and manifest read and checked; no weights yet.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    /// The superblock.
    pub superblock: Superblock,
    /// The manifest.
    pub manifest: Manifest,
    /// The index.
    pub index: Index,
}

/// A matrix with its bytes, row after row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matrix {
    /// Element type.
    pub qtype: QuantType,
    /// Rows.
    pub rows: u32,
    /// Values in a row.
    pub cols: u32,
    /// `rows * qtype.row_bytes(cols)` bytes.
    pub bytes: Vec<u8>,
}

impl Matrix {
    /// Takes more rows, stored as `tiling` says.
    fn push(&mut self, rows: &[u8], tiling: Tiling) {
        match (tiling, self.qtype.row_bytes(self.cols as usize)) {
            (Tiling::Dwords16, Some(row_bytes)) => {
                let start = self.bytes.len();
                self.bytes.resize(start + rows.len(), 0);
                deinterleave(row_bytes, rows, &mut self.bytes[start..]);
            }
            _ => self.bytes.extend_from_slice(rows),
        }
    }

    /// One row as f32; `None` if there is no such row.
    pub fn row(&self, row: u32) -> Option<Vec<f32>> {
        let len = self.qtype.row_bytes(self.cols as usize)?;
        let start = len.checked_mul(row as usize)?;
        let bytes = self.bytes.get(start..start.checked_add(len)?).filter(|_| row < self.rows)?;
        let mut values = vec![0.0; self.cols as usize];
        self.qtype.decode(bytes, &mut values).ok()?;
        Some(values)
    }

    /// All values as f32, row after row.
    pub fn values(&self) -> Vec<f32> {
        (0..self.rows).filter_map(|r| self.row(r)).flatten().collect()
    }
}

impl Reader {
    /// Opens a pack and checks everything but the weights: superblock, its copy, section hashes, index, manifest, and that they fit together.
    pub fn open(path: &Path) -> Result<Reader> {
        let file_bytes = std::fs::metadata(path).map_err(|error| ReadError::Io { what: "looking at the pack".into(), error })?.len();
        let block = SUPERBLOCK_BYTES as u64;
        if file_bytes < block {
            // A file this short is either no pack at all or a truncated one; its first bytes say which.
            let bytes = read_at(path, 0, file_bytes, "the superblock")?;
            let magic = crate::layout::MAGIC;
            let cut = bytes.starts_with(&magic) || (!bytes.is_empty() && magic.starts_with(&bytes));
            let truncated = FormatError::Truncated { what: "superblock", need: block, have: file_bytes };
            return Err(if cut { truncated } else { FormatError::BadMagic }.into());
        }
        let first = read_at(path, 0, block, "the superblock")?;
        let copy = read_at(path, file_bytes - block, block, "the superblock's copy")?;
        let superblock = decode_superblock(&first, &copy, file_bytes)?;
        let (alignment, chunk) = (superblock.alignment, superblock.chunk_bytes);
        let index_bytes = section(path, "the index section", &superblock.index, MAX_INDEX_BYTES)?;
        let payload = alignment as u64..file_bytes - block;
        let index = Index::decode(&index_bytes, alignment, chunk, payload)?;
        let stored = section(path, "the manifest section", &superblock.manifest, MAX_STORED_BYTES)?;
        let manifest = manifest::decode(&stored, superblock.manifest.raw)?;
        validate_pack::check_superblock(&superblock, &manifest, &index)?;
        validate_pack::check(&manifest, &index)?;
        Ok(Reader { path: path.to_owned(), superblock, manifest, index })
    }

    /// Files of the source section, its hash checked; empty if the pack has none.
    pub fn source(&self) -> Result<Vec<NamedBytes>> {
        if self.superblock.source.stored == 0 {
            return Ok(Vec::new());
        }
        let stored = section(&self.path, "the source section", &self.superblock.source, MAX_STORED_BYTES)?;
        Ok(source::decode(&stored, self.superblock.source.raw)?)
    }

    /// A bundle's bytes, its BLAKE3 and its fast sums checked.
    pub fn bundle(&self, id: BundleId) -> Result<Vec<u8>> {
        let record = self.index.get(id)?;
        let bytes = read_at(&self.path, record.offset, record.length, &id.to_string())?;
        check_blake3(record, &bytes)?;
        self.index.check_sums(record, &self.superblock.pack_id, self.superblock.chunk_bytes, &bytes)?;
        Ok(bytes)
    }

    /// Records of the index.
    pub fn records(&self) -> &[Record] {
        self.index.records()
    }

    /// A tensor of the embedding, a trunk run or the head; `None` if the run has no tensor of that role.
    pub fn tensor(&self, run: BundleId, role: Role) -> Result<Option<Matrix>> {
        let places = match run.kind {
            Kind::Embedding => self.manifest.embedding.as_slice(),
            Kind::Head => &self.manifest.head,
            Kind::Trunk => self.manifest.trunk.get(run.layer as usize).map_or(&[][..], Vec::as_slice),
            _ => &[],
        };
        let Some(place) = places.iter().find(|p| p.role == role) else { return Ok(None) };
        let bytes = self.bundle(run)?;
        let size = validate_pack::matrix_bytes(place.qtype, place.rows as u64, place.cols as u64);
        let part = part(&bytes, Some(place.offset), size)?;
        let mut matrix = Matrix { qtype: place.qtype, rows: place.rows, cols: place.cols, bytes: Vec::new() };
        matrix.push(part, place.tiling);
        Ok(Some(matrix))
    }

    /// Gate, up and down of an expert, put together from its slices.
    pub fn expert(&self, layer: u32, expert: u32) -> Result<[Matrix; 3]> {
        let id = BundleId::expert(layer, expert);
        let place = self.manifest.experts.get(layer as usize).and_then(Option::as_ref).ok_or(FormatError::NoSuchBundle(id))?;
        let inner = match self.manifest.spec.layers.get(layer as usize).map(|l| &l.ffn) {
            Some(Ffn::Routed(r)) => r.expert.inner,
            _ => return Err(FormatError::NoSuchBundle(id).into()),
        };
        let hidden = self.manifest.spec.hidden;
        let empty = |qtype, rows, cols| Matrix { qtype, rows, cols, bytes: Vec::new() };
        let (mut gate, mut up, mut down) =
            (empty(place.gate, inner, hidden), empty(place.up, inner, hidden), empty(place.down, hidden, inner));
        let bytes = self.bundle(id)?;
        let record = self.index.get(id)?;
        for (slice, range) in place.slices.iter().zip(self.index.layout(record).slice_ranges()) {
            let take = |m: &mut Matrix, rows: u32, offset: Option<u64>, tiling: Tiling| {
                let size = validate_pack::matrix_bytes(m.qtype, rows as u64, m.cols as u64);
                m.push(part(&bytes, offset, size)?, tiling);
                Ok::<(), FormatError>(())
            };
            match *slice {
                ExpertSlice::GateUp { rows, up_offset, .. } => {
                    take(&mut gate, rows, Some(range.start), place.tiling)?;
                    take(&mut up, rows, range.start.checked_add(up_offset), place.tiling)?;
                }
                ExpertSlice::Down { rows, .. } => take(&mut down, rows, Some(range.start), place.down_tiling)?,
            }
        }
        Ok([gate, up, down])
    }

    /// Gate (if there is one), up and down of a layer whose neurons are in groups, put together from all of them.
    pub fn neurons(&self, layer: u32) -> Result<(Option<Matrix>, Matrix, Matrix)> {
        let missing = || FormatError::NoSuchBundle(BundleId::neurons(layer, 0));
        let place = self.manifest.neurons.get(layer as usize).and_then(Option::as_ref).ok_or_else(missing)?;
        let hidden = self.manifest.spec.hidden;
        let shape = match self.manifest.spec.layers.get(layer as usize).map(|l| &l.ffn) {
            Some(Ffn::Dense(ffn)) => GroupShape::new(place, ffn, hidden)?,
            _ => return Err(missing().into()),
        };
        let matrix = |qtype, rows, cols| Matrix { qtype, rows, cols, bytes: Vec::new() };
        let mut trigger = matrix(shape.trigger, shape.inner, hidden);
        let mut up = shape.up.map(|qtype| matrix(qtype, shape.inner, hidden));
        let mut down = matrix(shape.down, hidden, shape.inner);
        let size = validate_pack::matrix_bytes(shape.down, hidden as u64, shape.inner as u64);
        // The groups hold as many bytes: the file is as long.
        down.bytes = vec![0; size.and_then(|s| usize::try_from(s).ok()).ok_or_else(missing)?];
        for ordinal in 0..shape.groups() {
            let id = BundleId::neurons(layer, ordinal);
            let bytes = self.bundle(id)?;
            let second = self.index.layout(self.index.get(id)?).slices.first().copied();
            let neurons = shape.neurons(ordinal).len() as u64;
            trigger.bytes.extend_from_slice(part(&bytes, Some(0), shape.trigger_row.checked_mul(neurons))?);
            if let Some(up) = &mut up {
                up.bytes.extend_from_slice(part(&bytes, second, shape.up_row.checked_mul(neurons))?);
            }
            let [_, used] = shape.used(neurons as u32);
            let rest = part(&bytes, second.and_then(|s| s.checked_add(shape.down_offset)), used.checked_sub(shape.down_offset))?;
            shape.restore_down(ordinal, rest, &mut down.bytes).ok_or_else(missing)?;
        }
        Ok(match up {
            Some(up) => (Some(trigger), up, down),
            None => (None, trigger, down),
        })
    }

    /// Bytes of a carried tensor, without padding.
    pub fn carried(&self, ordinal: u32) -> Result<Vec<u8>> {
        let id = BundleId::global(Kind::Carried, ordinal);
        let tensor = self.manifest.carried.get(ordinal as usize).ok_or(FormatError::NoSuchBundle(id))?;
        let cols = tensor.shape.last().copied().unwrap_or(1);
        let rows = tensor.shape.iter().rev().skip(1).try_fold(1u64, |n, &d| n.checked_mul(d));
        let size = rows.and_then(|rows| validate_pack::matrix_bytes(tensor.qtype, rows, cols));
        let mut bytes = self.bundle(id)?;
        let len = part(&bytes, Some(0), size)?.len();
        bytes.truncate(len);
        Ok(bytes)
    }
}

/// Decodes the first superblock and compares the copy. When only one of the two is damaged, the error says that the other is whole.
pub fn decode_superblock(first: &[u8], copy: &[u8], file_bytes: u64) -> std::result::Result<Superblock, FormatError> {
    match Superblock::decode(first, file_bytes) {
        Ok(superblock) if first == copy => Ok(superblock),
        Ok(_) => Err(mismatch("the superblock's copy at the end of the file (the first one is whole)", first, copy)),
        // Whatever the first one seems to be, the copy says that this is a pack this program reads: so it is damage.
        Err(_) if Superblock::decode(copy, file_bytes).is_ok() => {
            Err(mismatch("the superblock (its copy at the end of the file is whole)", copy, first))
        }
        Err(e) => Err(e),
    }
}

fn mismatch(what: &str, good: &[u8], bad: &[u8]) -> FormatError {
    let hash = |b: &[u8]| hex(blake3::hash(b).as_bytes());
    FormatError::ChecksumMismatch { what: what.into(), stored: hash(good), computed: hash(bad) }
}

fn part(bytes: &[u8], offset: Option<u64>, size: Option<u64>) -> std::result::Result<&[u8], FormatError> {
    let range = offset.zip(size).and_then(|(o, s)| Some(usize::try_from(o).ok()?..usize::try_from(o.checked_add(s)?).ok()?));
    // `validate_pack::check` has seen that it fits.
    range.and_then(|r| bytes.get(r)).ok_or_else(|| FormatError::invalid("bundle", "a part lies outside"))
}

/// A section's stored bytes, their length bounded and their BLAKE3 checked.
fn section(path: &Path, what: &'static str, s: &Section, limit: u64) -> Result<Vec<u8>> {
    if s.stored > limit {
        return Err(FormatError::TooLarge { what, value: s.stored, limit }.into());
    }
    let bytes = read_at(path, s.offset, s.stored, what)?;
    let computed = blake3::hash(&bytes);
    if *computed.as_bytes() != s.blake3 {
        let (stored, computed) = (hex(&s.blake3), hex(computed.as_bytes()));
        return Err(FormatError::ChecksumMismatch { what: what.into(), stored, computed }.into());
    }
    Ok(bytes)
}

/// Reads a range that the caller has checked against the file's length, so that the allocation is bounded by it.
fn read_at(path: &Path, offset: u64, len: u64, what: &str) -> Result<Vec<u8>> {
    let read = || {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = vec![0; len as usize];
        file.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error| ReadError::Io { what: format!("reading {what}"), error })
}
