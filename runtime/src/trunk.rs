//! The trunk: what every token needs, in memory from start to end or read anew for each step. Tensors are found by name once, at load time, and then by handle.

use forebay_format::layout::manifest::TensorPlace;
use forebay_format::model::Role;
use forebay_format::{BundleId, FormatError, Kind, Manifest, Tiling};

use crate::kernels::Matrix;

/// A run of the trunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunId {
    /// The embedding matrix.
    Embedding,
    /// A layer.
    Trunk(u32),
    /// Final norm and head.
    Head,
}

impl RunId {
    /// The bundle that holds the run.
    pub fn bundle(self) -> BundleId {
        match self {
            RunId::Embedding => BundleId::global(Kind::Embedding, 0),
            RunId::Trunk(layer) => BundleId::trunk(layer),
            RunId::Head => BundleId::global(Kind::Head, 0),
        }
    }
}

/// A tensor of the trunk, found once by [`crate::store::Store::find`]. Only good for the store it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorHandle(u32);

/// Where one tensor is.
struct Entry {
    role: Role,
    place: Place,
}

/// Shape of a tensor and its place in a run.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Number of the run, in the order of [`TrunkMap::bundles`].
    pub run: usize,
    qtype: forebay_format::QuantType,
    rows: usize,
    cols: usize,
    start: usize,
    length: usize,
    row_bytes: usize,
    tiling: Tiling,
}

impl Place {
    /// Bytes of a row in its run; `None` if there is no such row, or its bytes are not together.
    pub fn row_range(&self, row: usize) -> Option<std::ops::Range<usize>> {
        let start = self.start.checked_add(row.checked_mul(self.row_bytes)?)?;
        (row < self.rows && self.tiling.is_row_major()).then(|| start..start + self.row_bytes)
    }

    /// One row, given its bytes.
    pub fn row<'a>(&self, bytes: &'a [u8]) -> Matrix<'a> {
        Matrix::whole(self.qtype, 1, self.cols, bytes)
    }

    /// The tensor, given its run's bytes.
    pub fn matrix<'a>(&self, run: &'a [u8]) -> Option<Matrix<'a>> {
        let bytes = run.get(self.start..)?.get(..self.length)?;
        Some(Matrix::whole(self.qtype, self.rows, self.cols, bytes).tiled(self.tiling))
    }
}

/// All runs in execution order, and the tensors in each.
pub(crate) struct TrunkMap {
    entries: Vec<Entry>,
    /// First entry of each run, and one past the last run's.
    runs: Vec<usize>,
}

impl TrunkMap {
    /// From a checked manifest (`validate_pack::check`).
    pub fn new(manifest: &Manifest) -> Result<TrunkMap, FormatError> {
        let mut map = TrunkMap { entries: Vec::new(), runs: vec![0] };
        for places in runs(manifest) {
            let run = map.runs.len() - 1;
            for p in places {
                let entry = Entry { role: p.role, place: place(run, p)? };
                map.entries.push(entry);
            }
            map.runs.push(map.entries.len());
        }
        Ok(map)
    }

    /// Bundles of the runs: embedding, layers, head.
    pub fn bundles(manifest: &Manifest) -> impl Iterator<Item = BundleId> {
        let layers = (0u32..).zip(&manifest.trunk).map(|(l, _)| RunId::Trunk(l));
        std::iter::once(RunId::Embedding).chain(layers).chain([RunId::Head]).map(RunId::bundle)
    }

    /// The tensor with this purpose.
    pub fn find(&self, run: RunId, role: Role) -> Option<TensorHandle> {
        let count = self.runs.len() - 1; // embedding, layers, head
        let run = match run {
            RunId::Embedding => 0,
            RunId::Trunk(layer) => Some(1 + layer as usize).filter(|&r| r + 1 < count)?,
            RunId::Head => count - 1,
        };
        let (first, end) = (*self.runs.get(run)?, *self.runs.get(run + 1)?);
        (first..end).find(|&i| self.entries[i].role == role).map(|i| TensorHandle(i as u32))
    }

    /// Number of runs.
    pub fn runs(&self) -> usize {
        self.runs.len() - 1
    }

    /// Place of a tensor; `None` for a handle of another store.
    pub fn place(&self, handle: TensorHandle) -> Option<&Place> {
        self.entries.get(handle.0 as usize).map(|e| &e.place)
    }
}

fn runs(manifest: &Manifest) -> impl Iterator<Item = &[TensorPlace]> {
    std::iter::once(manifest.embedding.as_slice()).chain(manifest.trunk.iter().map(Vec::as_slice)).chain([manifest.head.as_slice()])
}

fn place(run: usize, p: &TensorPlace) -> Result<Place, FormatError> {
    let sizes = || {
        let row_bytes = p.qtype.row_bytes(p.cols as usize)?;
        Some((row_bytes, row_bytes.checked_mul(p.rows as usize)?, usize::try_from(p.offset).ok()?))
    };
    let (row_bytes, length, start) = sizes().ok_or_else(|| FormatError::invalid(p.source.as_str(), "its size cannot be computed"))?;
    Ok(Place { run, qtype: p.qtype, rows: p.rows as usize, cols: p.cols as usize, start, length, row_bytes, tiling: p.tiling })
}
