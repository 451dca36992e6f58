//! `bf16`: rounded to the nearest brain float, ties to even.

/// Largest finite brain float; beyond it, rounding could reach infinity.
pub(super) const LIMIT: f32 = 3.3895314e38;

/// Writes one value.
pub(super) fn encode_block(values: &[f32; 1], block: &mut [u8; 2]) {
    *block = half::bf16::from_f32(values[0]).to_le_bytes();
}
