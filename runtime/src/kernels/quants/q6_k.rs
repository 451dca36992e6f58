//! `q6_k`: `d * s * (q - 32)`, 8-bit `s` per 16 values, bits 5-4 of `q` stored apart.

use super::scalar::{self as plain, Large, half};

fn unpack(block: &[u8; 210]) -> Large {
    let value = |i: usize| {
        let low = (block[64 * (i / 128) + i % 64] >> (4 * (i / 64 % 2))) & 15;
        let high = (block[128 + 32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4))) & 3;
        (low | (high << 4)) as i8 - 32
    };
    Large {
        q: std::array::from_fn(value),
        scale: std::array::from_fn(|g| i16::from(block[192 + g] as i8)),
        min: [0; 16],
        d: half(block, 208),
        dmin: 0.0,
    }
}
plain::kernels!(dot_large, Q6_K, super::unpack);
