//! Quantisation of float sources: one file per type, one row in [`ENCODERS`].
//!
//! The reference encoders of these formats round every value against the block's extreme. Here the scales are searched instead: for each
//! block a few roundings are tried, each with the scale (and minimum) that fits it best in the least-squares sense, and the rounding with
//! the smallest error is kept. Encoding is deterministic scalar code: the same row gives the same bytes on every machine and thread.

mod bf16;
mod f16;
mod f32;
mod mxfp4;
mod policy;
mod q2_k;
mod q4_0;
mod q4_k;
mod q5_0;
mod q6_k;
mod q8_0;
mod search;
mod sub_blocks;

pub use policy::{WeightClass, fallback, sketch_type, target_type};

use forebay_format::QuantType;

/// Types `--quantize` accepts besides `keep`.
pub const ENCODABLE: &[QuantType] =
    &[QuantType::Q8_0, QuantType::Q4_0, QuantType::Q4_K, QuantType::Q6_K, QuantType::MXFP4, QuantType::F16, QuantType::BF16];

/// How one type is written.
struct Encoder {
    qtype: QuantType,
    /// Encodes whole blocks, as many as both slices have.
    encode: fn(&[f32], &mut [u8]),
    /// Largest magnitude that the type can hold.
    limit: f32,
}

/// Largest finite half; no type with half-precision scales is asked to go beyond it.
const HALF_MAX: f32 = 65504.0;

macro_rules! encoders { ($($t:ident $name:ident $limit:expr),* $(,)?) => {
    /// Every type [`encode_row`] can write: [`ENCODABLE`], what [`fallback`] may put in its place, what [`sketch_type`] may be, and f32.
    const ENCODERS: &[Encoder] = &[$(Encoder {
        qtype: QuantType::$t,
        encode: |row, out| each(row, out, $name::encode_block),
        limit: $limit,
    }),*];
}}
encoders! {
    F32 f32 f32::MAX, F16 f16 HALF_MAX, BF16 bf16 bf16::LIMIT,
    Q8_0 q8_0 HALF_MAX, Q5_0 q5_0 HALF_MAX, Q4_0 q4_0 HALF_MAX, Q4_K q4_k HALF_MAX, Q6_K q6_k HALF_MAX, Q2_K q2_k HALF_MAX,
    MXFP4 mxfp4 f32::MAX,
}

/// Applies `encode` to every whole block of `row` for which `out` has room.
#[inline(always)]
fn each<const LEN: usize, const BYTES: usize>(row: &[f32], out: &mut [u8], encode: impl Fn(&[f32; LEN], &mut [u8; BYTES])) {
    for (values, block) in row.as_chunks::<LEN>().0.iter().zip(out.as_chunks_mut::<BYTES>().0) {
        encode(values, block);
    }
}

/// Encodes one row. `out` is `qtype.row_bytes(row.len())` long.
///
/// Fails on NaN, on infinity, and on values too large for the type (beyond 65504 where scales are halves), with the column.
///
/// # Panics
///
/// If `qtype` is neither in [`ENCODABLE`] nor a result of [`fallback`] or [`sketch_type`], or if the lengths disagree: both are the caller's bugs and do
/// not depend on the data.
pub fn encode_row(qtype: QuantType, row: &[f32], out: &mut [u8]) -> Result<(), NotFinite> {
    let Some(encoder) = ENCODERS.iter().find(|e| e.qtype == qtype) else { panic!("there is no encoder for {}", qtype.name()) };
    assert_eq!(qtype.row_bytes(row.len()), Some(out.len()), "{} bytes of {} values", qtype.name(), row.len());
    // `<=` is false for NaN.
    if let Some(column) = row.iter().position(|v| !matches!(v.abs().partial_cmp(&encoder.limit), Some(o) if o.is_le())) {
        return Err(NotFinite { column });
    }
    (encoder.encode)(row, out);
    Ok(())
}

/// A value that cannot be quantised: NaN, infinite, or too large for the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value in column {column} is NaN, infinite or too large to be quantised")]
pub struct NotFinite {
    /// Its column.
    pub column: usize,
}

#[cfg(test)]
mod tests;
