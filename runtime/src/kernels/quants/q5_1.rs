//! `q5_1`: `d * q + m`, bit 4 of `q` stored apart.

use super::scalar::{self as plain, Small, fifth_bits, half, nibbles};

fn unpack(block: &[u8; 24]) -> Small {
    let (low, high) = (nibbles(block, 8), fifth_bits(block, 4));
    Small { q: std::array::from_fn(|i| (low[i] | high[i]) as i8), d: half(block, 0), m: half(block, 2) }
}
plain::kernels!(dot_small, Q5_1, super::unpack);
