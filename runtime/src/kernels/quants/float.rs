//! F32, F16 and BF16: decoding only; they always meet f32 activations.

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
}

/// Decoding is bound by memory: AVX2 does.
#[cfg(target_arch = "x86_64")]
pub use avx2 as avx512;

/// Safety of all: the machine has NEON.
#[cfg(target_arch = "aarch64")]
pub mod neon {
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
