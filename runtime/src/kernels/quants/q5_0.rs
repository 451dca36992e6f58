//! `q5_0`: `d * (q - 16)`, bit 4 of `q` stored apart.

use super::scalar::{self as plain, Small, fifth_bits, half, nibbles};

fn unpack(block: &[u8; 22]) -> Small {
    let (low, high) = (nibbles(block, 6), fifth_bits(block, 2));
    Small { q: std::array::from_fn(|i| (low[i] | high[i]) as i8 - 16), d: half(block, 0), m: 0.0 }
}
plain::kernels!(dot_small, Q5_0, super::unpack);
