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

#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use crate::kernels::ops::{MANY, Tiles};
    use crate::kernels::quants::avx2::{self as x86, Large, Min};
    use crate::kernels::quants::{interleaved, k_header};
    use std::arch::x86_64::*;

    x86::large!(144, Min::Float, Panel::Bytes(8), 32, turned, k_header::one::<Type>);

    pub(in crate::kernels::quants) const INTERLEAVED: Tiles =
        Tiles { one: interleaved::one::<Type>, many: interleaved::many::<Type, 4>, most: MANY };

    impl turned::TurnedLarge for Type {
        const RUNS: usize = 2;

        #[inline(always)]
        fn run(part: usize, i: usize) -> usize {
            4 * (part / 2) + part % 2 + 2 * i
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn head<E: Turn>(rows: &E, at: usize) -> Head {
            // SAFETY: the caller's promise.
            unsafe { turned::scales_mins(rows, at) }
        }

        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn part<E: Turn>(rows: &E, at: usize, part: usize) -> [Run; 4] {
            // SAFETY: 128 bytes of values.
            let packed = unsafe { rows.turn(at + 16 + 16 * part) };
            let (low, high) = (turned::bits::<0>(packed, 15), turned::bits::<4>(packed, 15));
            [low, high, low, high]
        }
    }

    impl k_header::KHeader for Type {
        #[inline]
        #[target_feature(enable = "avx2,fma,f16c")]
        unsafe fn values(block: *const u8) -> [__m256i; 8] {
            // SAFETY: there is a block.
            values(unsafe { &*block.cast() })
        }
    }

    /// The values of a block, 32 a group.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn values(block: &[u8; 144]) -> [__m256i; 8] {
        let mut q = [_mm256_setzero_si256(); 8];
        for (k, q) in q.iter_mut().enumerate() {
            *q = x86::bits(x86::load(block, 16 + 32 * (k / 2)), 4 * (k % 2), 15);
        }
        q
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(in crate::kernels::quants) fn unpack(block: &[u8; 144]) -> Large {
        let (scale, min) = x86::scales_mins(block);
        Large { q: values(block), scale, min, d: x86::half(block, 0), dmin: x86::half(block, 2) }
    }
}

#[cfg(target_arch = "x86_64")]
pub mod avx512 {
    pub use super::avx2::decode;
    use crate::kernels::ops::{Integer, Tiles};
    use crate::kernels::quants::tile;

    pub const INTEGER: Integer = Integer::Tiles(Tiles { one: tile::q4_k::<1, false>, many: tile::q4_k::<32, false>, most: 32 });
    pub(in crate::kernels::quants) const INTERLEAVED: Tiles = Tiles { one: tile::q4_k::<1, true>, many: tile::q4_k::<32, true>, most: 32 };
}

#[cfg(target_arch = "aarch64")]
pub mod neon {
    use crate::kernels::quants::neon::{self as arm, Large};
    use std::arch::aarch64::*;

    arm::large!(144, true, true);

    #[inline(always)]
    fn unpack(block: &[u8; 144]) -> Large {
        // SAFETY: NEON is there: see `arm`.
        unsafe {
            let (scale, min) = arm::scales_mins(block);
            let mut q = [vdupq_n_s8(0); 16];
            for (g, q) in q.iter_mut().enumerate() {
                *q = vreinterpretq_s8_u8(arm::bits(arm::load(block, 16 + 32 * (g / 4) + 16 * (g % 2)), 4 * (g / 2 % 2), 15));
            }
            Large { q, scale, min, d: arm::half(block, 0), dmin: arm::half(block, 2) }
        }
    }
}
