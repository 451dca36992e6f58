//! `q3_k`: `d * (s - 32) * (q - 4)`, 6-bit `s` per 16 values, bit 2 of `q` stored apart.

use super::scalar::{self as plain, Large, half};

/// The sixteen scales, -32 to 31.
fn scales(block: &[u8; 110]) -> [i16; 16] {
    std::array::from_fn(|g| {
        let low = (block[96 + g % 8] >> (4 * (g / 8))) & 15;
        let high = (block[104 + g % 4] >> (2 * (g / 4))) & 3;
        i16::from(low | (high << 4)) - 32
    })
}

fn unpack(block: &[u8; 110]) -> Large {
    let value = |i: usize| {
        let low = (block[32 + 32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4))) & 3;
        let high = (block[i % 32] >> (i / 32)) & 1;
        (low | (high << 2)) as i8 - 4
    };
    Large { q: std::array::from_fn(value), scale: scales(block), min: [0; 16], d: half(block, 108), dmin: 0.0 }
}
plain::kernels!(dot_large, Q3_K, super::unpack);
