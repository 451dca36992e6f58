//! `f16`: rounded to the nearest half, ties to even. Values up to 65504 are accepted, so nothing rounds to infinity.

/// Writes one value.
pub(super) fn encode_block(values: &[f32; 1], block: &mut [u8; 2]) {
    *block = half::f16::from_f32(values[0]).to_le_bytes();
}
