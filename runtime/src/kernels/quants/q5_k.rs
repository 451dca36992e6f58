//! `q5_k`: `d * s * q - dmin * m`, 6-bit `s` and `m` per 32 values, bit 4 of `q` stored apart.

use super::scalar::{self as plain, Large, half, scales_mins};

fn unpack(block: &[u8; 176]) -> Large {
    let (scale, min) = scales_mins(block);
    let value = |i: usize| {
        let low = (block[48 + 32 * (i / 64) + i % 32] >> (4 * (i / 32 % 2))) & 15;
        let high = (block[16 + i % 32] >> (i / 32)) & 1;
        (low | (high << 4)) as i8
    };
    Large { q: std::array::from_fn(value), scale, min, d: half(block, 0), dmin: half(block, 2) }
}
plain::kernels!(dot_large, Q5_K, super::unpack);
