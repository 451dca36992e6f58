//! F32, F16 and BF16: they always meet f32 activations, decoded first or, with one activation row, on the way.

pub mod scalar {
    use forebay_format::QuantType;

    pub fn f32(row: &[u8], out: &mut [f32]) {
        QuantType::F32.decode_row(row, out);
    }

    pub fn f16(row: &[u8], out: &mut [f32]) {
        QuantType::F16.decode_row(row, out);
    }

    pub fn bf16(row: &[u8], out: &mut [f32]) {
        QuantType::BF16.decode_row(row, out);
    }

    pub use super::none as direct;
}

/// Rows are decoded first. (Named as the types are, for the tables.)
#[allow(non_upper_case_globals)]
pub mod none {
    use crate::kernels::ops::Direct;

    pub const f32: Option<Direct> = None;
    pub const f16: Option<Direct> = None;
    pub const bf16: Option<Direct> = None;
}

/// Safety of all: the machine has AVX2 and F16C.
#[cfg(target_arch = "x86_64")]
pub mod avx2 {
    use std::arch::x86_64::*;

    pub fn f32(row: &[u8], out: &mut [f32]) {
        super::scalar::f32(row, out);
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn f16(row: &[u8], out: &mut [f32]) {
        let (blocks, tail) = row.as_chunks::<16>();
        let (values, last) = out.as_chunks_mut::<8>();
        for (block, values) in blocks.iter().zip(values) {
            // SAFETY: sixteen bytes, eight values.
            unsafe { _mm256_storeu_ps(values.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(block.as_ptr().cast()))) }
        }
        super::scalar::f16(tail, last);
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn bf16(row: &[u8], out: &mut [f32]) {
        let (blocks, tail) = row.as_chunks::<16>();
        let (values, last) = out.as_chunks_mut::<8>();
        for (block, values) in blocks.iter().zip(values) {
            // SAFETY: sixteen bytes, eight values.
            unsafe {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(block.as_ptr().cast()));
                _mm256_storeu_ps(values.as_mut_ptr(), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)));
            }
        }
        super::scalar::bf16(tail, last);
    }

    /// One activation row: memory decides, so values go from there to the sums. (Named as the types are, for the tables.)
    #[allow(non_upper_case_globals)]
    pub mod direct {
        use crate::kernels::ops::{DIRECT_ROWS, Direct};
        use crate::kernels::quants::avx2::{ahead, prefetch};
        use crate::kernels::strip::{LANES, NARROW, Narrow};
        use std::arch::x86_64::*;

        pub const f32: Option<Direct> = Some(rows_f32);
        pub const f16: Option<Direct> = Some(rows_f16);
        pub const bf16: Option<Direct> = Some(rows_bf16);

        /// Eight values.
        macro_rules! load {
            (f32, $at:expr) => {
                _mm256_loadu_ps($at.cast())
            };
            (f16, $at:expr) => {
                _mm256_cvtph_ps(_mm_loadu_si128($at.cast()))
            };
            (bf16, $at:expr) => {
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128($at.cast()))))
            };
        }

        /// `$name` of values of `$bytes` bytes; safety: see [`Direct`].
        macro_rules! rows {
            ($name:ident, $kind:ident, $bytes:literal) => {
                #[target_feature(enable = "avx2,fma,f16c")]
                unsafe fn $name(rows: &[*const u8; DIRECT_ROWS], a: &[f32], sums: &mut [Narrow; DIRECT_ROWS]) {
                    let mut acc = [_mm256_setzero_ps(); DIRECT_ROWS];
                    for at in (0..a.len()).step_by(LANES) {
                        // SAFETY: 32 values from `at` on are inside the rows.
                        unsafe {
                            let ahead = ahead(at / LANES, a.len() / LANES, $bytes * LANES, DIRECT_ROWS);
                            for row in rows {
                                prefetch(row.wrapping_add(ahead), $bytes * LANES);
                            }
                            for part in 0..LANES / NARROW {
                                let at = at + NARROW * part;
                                let eight = _mm256_loadu_ps(a.as_ptr().add(at));
                                // Iterators are not inlined into functions with target features in every build.
                                for r in 0..DIRECT_ROWS {
                                    acc[r] = _mm256_fmadd_ps(load!($kind, rows[r].add($bytes * at)), eight, acc[r]);
                                }
                            }
                        }
                    }
                    for r in 0..DIRECT_ROWS {
                        // SAFETY: eight sums.
                        unsafe { _mm256_storeu_ps(sums[r].0.as_mut_ptr(), acc[r]) }
                    }
                }
            };
        }
        rows!(rows_f32, f32, 4);
        rows!(rows_f16, f16, 2);
        rows!(rows_bf16, bf16, 2);
    }
}

/// Safety of all: the machine has NEON.
#[cfg(target_arch = "aarch64")]
pub mod neon {
    pub use super::none as direct;
    pub use super::scalar::f32;
    use std::arch::aarch64::*;

    #[target_feature(enable = "neon")]
    pub unsafe fn f16(row: &[u8], out: &mut [f32]) {
        let (blocks, tail) = row.as_chunks::<8>();
        let (values, last) = out.as_chunks_mut::<4>();
        for (block, values) in blocks.iter().zip(values) {
            // SAFETY: eight bytes, four values.
            unsafe { vst1q_f32(values.as_mut_ptr(), vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(block.as_ptr())))) }
        }
        super::scalar::f16(tail, last);
    }

    #[target_feature(enable = "neon")]
    pub unsafe fn bf16(row: &[u8], out: &mut [f32]) {
        let (blocks, tail) = row.as_chunks::<8>();
        let (values, last) = out.as_chunks_mut::<4>();
        for (block, values) in blocks.iter().zip(values) {
            // SAFETY: eight bytes, four values.
            unsafe {
                let wide = vshll_n_u16::<16>(vreinterpret_u16_u8(vld1_u8(block.as_ptr())));
                vst1q_f32(values.as_mut_ptr(), vreinterpretq_f32_u32(wide));
            }
        }
        super::scalar::bf16(tail, last);
    }
}
