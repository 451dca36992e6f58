//! Weights times activations. One file per quant type (scalar and SIMD forms side by side), one place that dispatches ([`Kernels`]).
//!
//! The law: an output value is the dot product of one weight row with one activation row, summed by one thread in one
//! fixed order that depends on nothing but the row's length, the quant type and the kernel set.

pub mod pool;

use forebay_format::QuantType;
pub use pool::Pool;

/// A matrix as it lies in the trunk or in a slot. Rows lie back to back in pieces: row `r` starts at
/// `(r / piece_rows) * piece_stride + (r % piece_rows) * qtype.row_bytes(cols)`. A trunk matrix is one piece; an expert's
/// matrix has one piece in each slice of its bundle.
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
}

/// How activations meet quantised weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationMode {
    /// Weights are dequantised to f32 and multiplied with f32 activations: the exact path.
    F32,
    /// Activations are quantised to 8 bits per block (as Q8_0 or Q8_K) when the weights are; float weights still see f32.
    Int8,
}
