//! `q4_0`: `d * (q - 8)`.

use super::scalar::{self as plain, Small, half, nibbles};

fn unpack(block: &[u8; 18]) -> Small {
    Small { q: nibbles(block, 2).map(|q| q as i8 - 8), d: half(block, 0), m: 0.0 }
}
plain::kernels!(dot_small, Q4_0, super::unpack);
