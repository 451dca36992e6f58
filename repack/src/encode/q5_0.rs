//! `q5_0`: one scale for 32 values, searched for the smallest squared error. Written only in place of `q4_k` (see
//! [`fallback`](super::fallback)).

use super::search::{symmetric_codes, symmetric_scale, to_half};

/// Writes 32 values.
pub(super) fn encode_block(values: &[f32; 32], block: &mut [u8; 22]) {
    let (scale, d) = to_half(symmetric_scale(values, 16.0, 5, 0.25));
    let codes = symmetric_codes(values, d, 16.0);
    let high = codes.iter().enumerate().fold(0u32, |bits, (i, code)| bits | (u32::from(code >> 4) << i));
    block[..2].copy_from_slice(&scale);
    block[2..6].copy_from_slice(&high.to_le_bytes());
    for i in 0..16 {
        block[6 + i] = (codes[i] & 15) | ((codes[i + 16] & 15) << 4);
    }
}
