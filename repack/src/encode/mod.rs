//! Quantisation of float sources: one file per type, one row in the table.

use forebay_format::QuantType;

/// Types `--quantize` accepts besides `keep`.
pub const ENCODABLE: &[QuantType] =
    &[QuantType::Q8_0, QuantType::Q4_0, QuantType::Q4_K, QuantType::Q6_K, QuantType::MXFP4, QuantType::F16, QuantType::BF16];

/// The type actually used for rows of `cols` values when `wanted` cannot hold them (rows that are not a multiple of 256 fall back to a
/// 32-block type of at least the same quality).
pub fn fallback(wanted: QuantType, cols: usize) -> QuantType {
    let _ = cols;
    wanted
}

/// Encodes one row. `out` is `qtype.row_bytes(row.len())` long. Fails on NaN or infinity, with the column.
pub fn encode_row(qtype: QuantType, row: &[f32], out: &mut [u8]) -> Result<(), NotFinite> {
    let _ = (qtype, row, out);
    unimplemented!("encode helper")
}

/// A value that cannot be quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFinite {
    /// Its column.
    pub column: usize,
}
