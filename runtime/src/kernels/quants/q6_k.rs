//! `q6_k`: `d * s * (q - 32)`, 8-bit `s` per 16 values, bits 5-4 of `q` stored apart.

use super::scalar::{self as plain, Large, half};

fn unpack(block: &[u8; 210]) -> Large {
    let value = |i: usize| {
        let low = (block[64 * (i / 128) + i % 64] >> (4 * (i / 64 % 2))) & 15;
        let high = (block[128 + 32 * (i / 128) + i % 32] >> (2 * (i / 32 % 4))) & 3;
        (low | (high << 4)) as i8 - 32
    };
    Large {
        q: std::array::from_fn(value),
        scale: std::array::from_fn(|g| i16::from(block[192 + g] as i8)),
        min: [0; 16],
        d: half(block, 208),
        dmin: 0.0,
    }
}
plain::kernels!(dot_large, Q6_K, super::unpack);

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::quants::avx2::{self as x86, Large, Min};
    use std::arch::x86_64::*;

    x86::large!(210, Min::Offset(32));

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn unpack(block: &[u8; 210]) -> Large {
        let scales = x86::load16(block, 192);
        let mut q = [_mm256_setzero_si256(); 8];
        for (k, q) in q.iter_mut().enumerate() {
            let low = x86::bits(x86::load(block, 64 * (k / 4) + 32 * (k % 2)), 4 * (k / 2 % 2), 15);
            let high = x86::bits(x86::load(block, 128 + 32 * (k / 4)), 2 * (k % 4), 3);
            *q = _mm256_or_si256(low, x86::raised(high, 3, 4));
        }
        Large {
            q,
            scale: x86::even_odd(scales),
            min: _mm256_slli_epi16::<5>(_mm256_cvtepi8_epi16(scales)),
            d: x86::half(block, 208),
            dmin: _mm256_setzero_ps(),
        }
    }
}
