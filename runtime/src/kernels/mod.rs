//! Weights times activations. One file per quant type (scalar and SIMD forms side by side), one place that dispatches (`ops`).
//!
//! The law: an output value is the dot product of one weight row with one activation row, summed by one thread in one
//! fixed order that depends on nothing but the row's length, the quant type and the kernel set.
//!
//! Two ways to sum. *Float*: 256 weights at a time are decoded to f32 (exactly the values of `QuantType::decode`) and added to 32 running
//! sums. *Int8*: a block of weights meets a block of 8-bit activations in integers, exactly; the block's result is scaled and added in f32.

pub mod activations;
mod blocks;
pub mod delta;
mod matmul;
mod ops;
pub mod panel;
pub mod pool;
mod quants;
mod split;
mod strip;
mod sum;
mod transposed;
pub mod vector;

use forebay_format::tiling::{DWORD, TILE_ROWS};
use forebay_format::{QuantType, Tiling};

pub use activations::Activations;
pub use matmul::Job;
pub use pool::Pool;
use quants::prepare_thread;
pub use sum::xxh3;
pub use transposed::Lanes;

/// A matrix as it lies in the trunk or in a slot. Rows lie back to back in pieces: row `r` starts at
/// `(r / piece_rows) * piece_stride + (r % piece_rows) * qtype.row_bytes(cols)`. A trunk matrix is one piece; an expert's
/// matrix has one piece in each slice of its bundle. Rows of neuron groups lie wherever the window has the groups ([`Matrix::scattered`]).
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// Element type.
    pub qtype: QuantType,
    /// Rows (outputs).
    pub rows: usize,
    /// Values in a row (inputs).
    pub cols: usize,
    /// From the first row on; long enough for the last.
    pub bytes: &'a [u8],
    /// Rows in a piece.
    pub piece_rows: usize,
    /// Bytes from one piece to the next.
    pub piece_stride: usize,
    /// In place of `bytes` and `piece_stride`: the rows of each piece.
    pub pieces: Option<&'a [&'a [u8]]>,
    /// Order of the bytes of rows in a piece. Pieces of interleaved rows are whole tiles.
    pub tiling: Tiling,
}

impl<'a> Matrix<'a> {
    /// A matrix in one piece.
    pub fn whole(qtype: QuantType, rows: usize, cols: usize, bytes: &'a [u8]) -> Self {
        Matrix { qtype, rows, cols, bytes, piece_rows: rows.max(1), piece_stride: bytes.len(), pieces: None, tiling: Tiling::RowMajor }
    }

    /// A matrix whose pieces of `piece_rows` rows lie anywhere, each from its first row on; the last may have fewer rows.
    pub fn scattered(qtype: QuantType, rows: usize, cols: usize, piece_rows: usize, pieces: &'a [&'a [u8]]) -> Self {
        let piece_rows = piece_rows.max(1);
        Matrix { qtype, rows, cols, bytes: &[], piece_rows, piece_stride: 0, pieces: Some(pieces), tiling: Tiling::RowMajor }
    }

    /// The same bytes in the order `tiling`.
    pub fn tiled(self, tiling: Tiling) -> Self {
        Matrix { tiling, ..self }
    }

    /// Bytes of one row; 0 if the columns are no whole blocks.
    pub fn row_bytes(&self) -> usize {
        self.qtype.row_bytes(self.cols).unwrap_or(0)
    }

    /// Bytes of one row, and a check that every row lies inside `bytes`.
    ///
    /// # Panics
    /// If `cols` is not a whole number of blocks or a row lies outside: whoever makes a matrix has checked that.
    fn checked_row_bytes(&self) -> usize {
        let row_bytes =
            self.qtype.row_bytes(self.cols).unwrap_or_else(|| panic!("{} columns are no whole blocks of {}", self.cols, self.qtype.name()));
        if self.tiling != Tiling::RowMajor {
            let tiles = self.rows.is_multiple_of(TILE_ROWS) && self.piece_rows.is_multiple_of(TILE_ROWS) && self.pieces.is_none();
            assert!(tiles && row_bytes.is_multiple_of(DWORD), "{} rows in pieces of {} are no tiles", self.rows, self.piece_rows);
        }
        if let Some(pieces) = self.pieces {
            // How long each is, `row` finds out: asking all of them here would take longer than a small product.
            assert!(self.rows <= pieces.len().saturating_mul(self.piece_rows), "{} rows in {} pieces", self.rows, pieces.len());
            return row_bytes;
        }
        let piece_rows = self.piece_rows.min(self.rows);
        let fits = self.rows == 0 || {
            let pieces_before_last = (self.rows - 1) / self.piece_rows;
            // The last row of the last piece, and the last row of a full piece, bound all others.
            let last = (pieces_before_last, (self.rows - 1) % self.piece_rows);
            let full = (pieces_before_last.saturating_sub(1), piece_rows - 1);
            [last, full].iter().all(|&(piece, row)| {
                let end = piece.checked_mul(self.piece_stride).and_then(|p| (row + 1).checked_mul(row_bytes)?.checked_add(p));
                end.is_some_and(|end| end <= self.bytes.len())
            })
        };
        assert!(fits, "{} x {} {} do not fit {} bytes", self.rows, self.cols, self.qtype.name(), self.bytes.len());
        row_bytes
    }

    /// Bytes of `n` interleaved rows from row `r` on, both whole tiles in one piece; `row_bytes` as from [`Matrix::checked_row_bytes`].
    #[inline]
    fn tiles(&self, r: usize, n: usize, row_bytes: usize) -> &'a [u8] {
        debug_assert!(r.is_multiple_of(TILE_ROWS) && n.is_multiple_of(TILE_ROWS) && self.tiling == Tiling::Dwords16);
        let start = r / self.piece_rows * self.piece_stride + r % self.piece_rows * row_bytes;
        &self.bytes[start..start + n * row_bytes]
    }

    /// Bytes of row `r`, row-major; `row_bytes` as from [`Matrix::checked_row_bytes`].
    #[inline]
    fn row(&self, r: usize, row_bytes: usize) -> &'a [u8] {
        debug_assert!(self.tiling == Tiling::RowMajor);
        // One piece is the rule; dividing for each row of a tile of sixteen took 4% of a token.
        let (piece, row) = if r < self.piece_rows { (0, r) } else { (r / self.piece_rows, r % self.piece_rows) };
        if let Some(pieces) = self.pieces {
            return &pieces[piece][row * row_bytes..(row + 1) * row_bytes];
        }
        let start = piece * self.piece_stride + row * row_bytes;
        &self.bytes[start..start + row_bytes]
    }
}

/// How activations meet quantised weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationMode {
    /// Weights are dequantised to f32 and multiplied with f32 activations: the exact path.
    F32,
    /// Activations are quantised to 8 bits per block (as Q8_0 or Q8_K) when the weights are; float weights still see f32.
    Int8,
}

/// A family of kernels written for one instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelSet {
    /// Plain Rust, every architecture.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 (F, BW, DQ, VL, VBMI, VNNI) beside what [`KernelSet::Avx2`] asks for.
    Avx512,
    /// AArch64: NEON, with the dot product instruction where the machine has it; the same bits without.
    Neon,
}

/// The chosen kernel set and activation mode.
#[derive(Clone, Copy)]
pub struct Kernels {
    ops: &'static ops::Ops,
    mode: ActivationMode,
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels").field("set", &self.ops.set).field("mode", &self.mode).finish()
    }
}

impl Kernels {
    /// The best set that this machine runs.
    pub fn detect(mode: ActivationMode) -> Self {
        Kernels { ops: ops::best(), mode }
    }

    /// This set, if there are kernels for it and the machine runs them.
    pub fn with_set(set: KernelSet, mode: ActivationMode) -> Option<Self> {
        ops::find(set).map(|ops| Kernels { ops, mode })
    }

    /// Name of the set.
    pub fn name(&self) -> &'static str {
        self.ops.name
    }

    /// The set.
    pub fn set(&self) -> KernelSet {
        self.ops.set
    }

    /// Whether rows of `qtype` that lie interleaved are multiplied as they are; else they are taken apart first.
    pub fn interleaved(&self, qtype: QuantType) -> bool {
        self.mode == ActivationMode::Int8 && (self.ops.interleaved)(qtype).is_some()
    }

    /// How activations meet quantised weights.
    pub fn mode(&self) -> ActivationMode {
        self.mode
    }

    /// Decodes row `r` of `w` into `out` (`w.cols` values), exactly as `QuantType::decode` does: what an embedding look-up needs.
    ///
    /// # Panics
    /// If `r` or the length of `out` does not fit `w`, or its rows are interleaved.
    pub fn decode_row(&self, w: &Matrix<'_>, r: usize, out: &mut [f32]) {
        let row_bytes = w.checked_row_bytes();
        assert!(w.tiling == Tiling::RowMajor, "rows that are looked up are never interleaved");
        assert!(r < w.rows && out.len() == w.cols, "row {r} of {} rows, {} of {} columns", w.rows, out.len(), w.cols);
        // SAFETY: `ops::find` gave this set out because the machine runs it; the lengths agree.
        unsafe { ((self.ops.of)(w.qtype).decode)(w.row(r, row_bytes), out) }
    }
}
