//! `iq4_nl`: `d * CODEBOOK[q]`.

use super::scalar::{self as plain, Small, half, nibbles};
use forebay_format::quant::iq4_nl::CODEBOOK;

fn unpack(block: &[u8; 18]) -> Small {
    Small { q: nibbles(block, 2).map(|q| CODEBOOK[usize::from(q)]), d: half(block, 0), m: 0.0 }
}
plain::kernels!(dot_small, IQ4_NL, super::unpack);
