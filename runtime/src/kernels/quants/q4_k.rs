//! `q4_k`: `d * s * q - dmin * m`, 6-bit `s` and `m` per 32 values.

use super::scalar::{self as plain, Large, half, scales_mins};

fn unpack(block: &[u8; 144]) -> Large {
    let (scale, min) = scales_mins(block);
    Large {
        q: std::array::from_fn(|i| ((block[16 + 32 * (i / 64) + i % 32] >> (4 * (i / 32 % 2))) & 15) as i8),
        scale,
        min,
        d: half(block, 0),
        dmin: half(block, 2),
    }
}
plain::kernels!(dot_large, Q4_K, super::unpack);
