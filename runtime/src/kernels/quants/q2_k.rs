//! `q2_k`: `d * s * q - dmin * m`, 4-bit `s` and `m` per 16 values.

use super::scalar::{self as plain, Large, half};

fn unpack(block: &[u8; 84]) -> Large {
    Large {
        q: std::array::from_fn(|i| ((block[16 + 32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4))) & 3) as i8),
        scale: std::array::from_fn(|g| i16::from(block[g] & 15)),
        min: std::array::from_fn(|g| i16::from(block[g] >> 4)),
        d: half(block, 80),
        dmin: half(block, 82),
    }
}
plain::kernels!(dot_large, Q2_K, super::unpack);
