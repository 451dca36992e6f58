//! `q8_0`: `d * q`.

use super::scalar::{self as plain, Small, half};

fn unpack(block: &[u8; 34]) -> Small {
    Small { q: std::array::from_fn(|i| block[2 + i] as i8), d: half(block, 0), m: 0.0 }
}
plain::kernels!(dot_small, Q8_0, super::unpack);
