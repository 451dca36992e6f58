//! `q4_0`: one scale for 32 values, searched for the smallest squared error.

use super::search::{symmetric_codes, symmetric_scale, to_half};

/// Writes 32 values.
pub(super) fn encode_block(values: &[f32; 32], block: &mut [u8; 18]) {
    let (scale, d) = to_half(symmetric_scale(values, 8.0, 5, 0.25));
    let codes = symmetric_codes(values, d, 8.0);
    block[..2].copy_from_slice(&scale);
    for i in 0..16 {
        block[2 + i] = codes[i] | (codes[i + 16] << 4);
    }
}
