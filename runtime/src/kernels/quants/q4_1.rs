//! `q4_1`: `d * q + m`.

use super::scalar::{self as plain, Small, half, nibbles};

fn unpack(block: &[u8; 20]) -> Small {
    Small { q: nibbles(block, 4).map(|q| q as i8), d: half(block, 0), m: half(block, 2) }
}
plain::kernels!(dot_small, Q4_1, super::unpack);
