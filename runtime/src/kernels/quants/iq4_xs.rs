//! `iq4_xs`: `d * (s - 32) * CODEBOOK[q]`, 6-bit `s` per 32 values.

use super::scalar::{self as plain, Large, half};
use forebay_format::quant::iq4_nl::CODEBOOK;

/// The eight scales, -32 to 31.
fn scales(block: &[u8; 136]) -> [i16; 8] {
    let high = i16::from_le_bytes([block[2], block[3]]);
    std::array::from_fn(|j| i16::from((block[4 + j / 2] >> (4 * (j % 2))) & 15) + ((high >> (2 * j) & 3) << 4) - 32)
}

fn unpack(block: &[u8; 136]) -> Large {
    let scales = scales(block);
    let value = |i: usize| CODEBOOK[usize::from((block[8 + 16 * (i / 32) + i % 16] >> (4 * (i / 16 % 2))) & 15)];
    Large { q: std::array::from_fn(value), scale: std::array::from_fn(|g| scales[g / 2]), min: [0; 16], d: half(block, 0), dmin: 0.0 }
}
plain::kernels!(dot_large, IQ4_XS, super::unpack);

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::quants::avx2::{self as x86, Large, Min};
    use forebay_format::quant::iq4_nl::CODEBOOK;
    use std::arch::x86_64::*;

    x86::large!(136, Min::Signed);

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 136]) -> Large {
        let mut q = [_mm256_setzero_si256(); 8];
        for (k, q) in q.iter_mut().enumerate() {
            *q = x86::look_up(&CODEBOOK, x86::nibbles(block, 8 + 16 * k));
        }
        let scales = super::scales(block);
        // SAFETY: eight values.
        let scales = unsafe { _mm_loadu_si128(scales.as_ptr().cast()) };
        Large {
            q,
            scale: _mm256_broadcastsi128_si256(scales),
            min: _mm256_setzero_si256(),
            d: x86::half(block, 0),
            dmin: _mm256_setzero_ps(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub mod avx512 {
    crate::kernels::quants::avx512::large!(136, narrow);
}
