//! `f32`: unchanged.

/// Writes one value.
pub(super) fn encode_block(values: &[f32; 1], block: &mut [u8; 4]) {
    *block = values[0].to_le_bytes();
}
