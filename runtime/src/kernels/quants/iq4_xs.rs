//! `iq4_xs`: `d * (s - 32) * CODEBOOK[q]`, 6-bit `s` per 32 values.

use super::scalar::{self as plain, Large, half};
use forebay_format::quant::iq4_nl::CODEBOOK;

/// The eight scales, -32 to 31.
fn scales(block: &[u8; 136]) -> [i16; 8] {
    let high = i16::from_le_bytes([block[2], block[3]]);
    std::array::from_fn(|j| i16::from((block[4 + j / 2] >> (4 * (j % 2))) & 15) + ((high >> (2 * j) & 3) << 4) - 32)
}

fn unpack(block: &[u8; 136]) -> Large {
    let scales = scales(block);
    let value = |i: usize| CODEBOOK[usize::from((block[8 + 16 * (i / 32) + i % 16] >> (4 * (i / 16 % 2))) & 15)];
    Large { q: std::array::from_fn(value), scale: std::array::from_fn(|g| scales[g / 2]), min: [0; 16], d: half(block, 0), dmin: 0.0 }
}
plain::kernels!(dot_large, IQ4_XS, super::unpack);
