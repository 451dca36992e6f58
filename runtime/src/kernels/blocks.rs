//! The 8-bit forms of activations that integer kernels take. A block of values becomes one scale and as many i8:
//! `d = amax / 127`, `q = round_half_even(x * (127 / amax))`.
//!
//! A block with a NaN or an infinity gets the scale NaN, so that the output shows it; a block too small for `127 / amax` to be finite is zero.

use forebay_format::QuantType;

/// Which 8-bit form a weight type meets. Named as the formats are.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Blocks of 32 with the sum of each block, for types with blocks of 32 or 64.
    Q8_0,
    /// Blocks of 256 with the sums of 16 values each, for types with blocks of 256.
    Q8_K,
}

impl Form {
    /// Both forms.
    pub const ALL: [Form; 2] = [Form::Q8_0, Form::Q8_K];

    /// The form that rows of `qtype` meet in Int8 mode; none for float types.
    pub fn of(qtype: QuantType) -> Option<Form> {
        match qtype.block_len() {
            32 | 64 => Some(Form::Q8_0),
            256 => Some(Form::Q8_K),
            _ => None,
        }
    }

    /// Values under one scale.
    pub fn block(self) -> usize {
        match self {
            Form::Q8_0 => 32,
            Form::Q8_K => 256,
        }
    }

    /// Values under one sum.
    pub fn group(self) -> usize {
        match self {
            Form::Q8_0 => 32,
            Form::Q8_K => 16,
        }
    }
}

/// One activation row in one form: `values[i] ~ d[i / block] * q[i]`, `sums[g]` is the sum of `q` over group `g`.
#[derive(Clone, Copy, Debug)]
pub(super) struct QRow<'a> {
    pub q: &'a [i8],
    pub d: &'a [f32],
    pub sums: &'a [i16],
}

/// Below this largest magnitude a block is zero.
pub(super) const TINY: f32 = 1e-35;

/// Scale and its inverse for a block whose largest magnitude has the bits `amax` (sign bit clear; NaN counts as larger than all).
#[inline]
pub(super) fn scales(amax: u32) -> (f32, f32) {
    let value = f32::from_bits(amax);
    if !value.is_finite() {
        (f32::NAN, 0.0)
    } else if value < TINY {
        (0.0, 0.0)
    } else {
        (value / 127.0, 127.0 / value)
    }
}

/// Quantises a row in plain Rust; the lengths of the slices follow from `form` and `x.len()`, a multiple of the block.
pub(super) fn quantise(form: Form, x: &[f32], q: &mut [i8], d: &mut [f32], sums: &mut [i16]) {
    let blocks = x.chunks_exact(form.block()).zip(q.chunks_exact_mut(form.block())).zip(d);
    for ((x, q), d) in blocks {
        let amax = x.iter().map(|v| v.to_bits() & 0x7fff_ffff).max().unwrap_or(0);
        let (scale, inverse) = scales(amax);
        *d = scale;
        for (q, x) in q.iter_mut().zip(x) {
            // `inverse` is zero exactly when the block is; infinity times zero would be NaN, which `as` makes zero as well.
            *q = (x * inverse).round_ties_even() as i8;
        }
    }
    for (sum, q) in sums.iter_mut().zip(q.chunks_exact(form.group())) {
        *sum = q.iter().map(|&v| i16::from(v)).sum();
    }
}

/// The same numbers with AVX2.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use super::{Form, scales};
    use std::arch::x86_64::*;

    /// # Safety
    /// The machine has AVX2; the lengths of the slices follow from `form` and `x.len()`, a multiple of the block.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn quantise(form: Form, x: &[f32], q: &mut [i8], d: &mut [f32], sums: &mut [i16]) {
        for ((x, q), d) in x.chunks_exact(form.block()).zip(q.chunks_exact_mut(form.block())).zip(d) {
            let (scale, inverse) = scales(largest(x));
            *d = scale;
            if inverse == 0.0 {
                q.fill(0);
                continue;
            }
            for (x, q) in x.as_chunks::<32>().0.iter().zip(q.as_chunks_mut::<32>().0) {
                round(x, inverse, q);
            }
        }
        for (sums, q) in sums.chunks_mut(32 / form.group()).zip(q.as_chunks::<32>().0) {
            let [a, b] = halves_sums(q);
            match sums {
                [both] => *both = a + b,
                [first, second] => (*first, *second) = (a, b),
                _ => {}
            }
        }
    }

    /// Bits of the largest magnitude.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn largest(x: &[f32]) -> u32 {
        let mut max = _mm256_setzero_si256();
        for x in x.as_chunks::<8>().0 {
            // SAFETY: eight values.
            let bits = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
            max = _mm256_max_epu32(max, _mm256_and_si256(bits, _mm256_set1_epi32(0x7fff_ffff)));
        }
        let mut lanes = [0u32; 8];
        // SAFETY: eight values.
        unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), max) };
        lanes.into_iter().fold(0, u32::max)
    }

    /// `q = round_half_even(x * inverse)`; the results lie in -127..=127.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn round(x: &[f32; 32], inverse: f32, q: &mut [i8; 32]) {
        let part = |i: usize| {
            // SAFETY: four times eight values.
            let x = unsafe { _mm256_loadu_ps(x.as_ptr().add(8 * i)) };
            // The conversion rounds as the control register says, and Rust keeps that at ties to even.
            _mm256_cvtps_epi32(_mm256_mul_ps(x, _mm256_set1_ps(inverse)))
        };
        // Packing works within 128-bit halves and leaves groups of four in the order 0 2 4 6 1 3 5 7.
        let packed = _mm256_packs_epi16(_mm256_packs_epi32(part(0), part(1)), _mm256_packs_epi32(part(2), part(3)));
        let ordered = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_si256(q.as_mut_ptr().cast(), ordered) };
    }

    /// Sums of the first and of the second sixteen.
    #[target_feature(enable = "avx2,fma,f16c")]
    fn halves_sums(q: &[i8; 32]) -> [i16; 2] {
        // SAFETY: 32 bytes.
        let q = unsafe { _mm256_loadu_si256(q.as_ptr().cast()) };
        // Adding 128 makes the bytes unsigned for `sad`, which adds eight of them.
        let eights = _mm256_sad_epu8(_mm256_xor_si256(q, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
        let mut sums = [0i64; 4];
        // SAFETY: four values.
        unsafe { _mm256_storeu_si256(sums.as_mut_ptr().cast(), eights) };
        [(sums[0] + sums[1] - 16 * 128) as i16, (sums[2] + sums[3] - 16 * 128) as i16]
    }
}

/// The same numbers with NEON.
#[cfg(target_arch = "aarch64")]
pub(super) mod neon {
    use super::{Form, scales};
    use std::arch::aarch64::*;

    /// # Safety
    /// The machine has NEON; the lengths of the slices follow from `form` and `x.len()`, a multiple of the block.
    #[target_feature(enable = "neon")]
    pub unsafe fn quantise(form: Form, x: &[f32], q: &mut [i8], d: &mut [f32], sums: &mut [i16]) {
        for ((x, q), d) in x.chunks_exact(form.block()).zip(q.chunks_exact_mut(form.block())).zip(d) {
            let (scale, inverse) = scales(largest(x));
            *d = scale;
            if inverse == 0.0 {
                q.fill(0);
                continue;
            }
            for (x, q) in x.as_chunks::<16>().0.iter().zip(q.as_chunks_mut::<16>().0) {
                round(x, inverse, q);
            }
        }
        for (sum, q) in sums.iter_mut().zip(q.chunks_exact(form.group())) {
            // At most 32 * 127.
            *sum = q.as_chunks::<16>().0.iter().map(|q| sixteen(q)).sum();
        }
    }

    /// Bits of the largest magnitude.
    #[target_feature(enable = "neon")]
    fn largest(x: &[f32]) -> u32 {
        let mut max = vdupq_n_u32(0);
        for x in x.as_chunks::<4>().0 {
            // SAFETY: four values.
            let bits = vreinterpretq_u32_f32(unsafe { vld1q_f32(x.as_ptr()) });
            max = vmaxq_u32(max, vandq_u32(bits, vdupq_n_u32(0x7fff_ffff)));
        }
        vmaxvq_u32(max)
    }

    /// `q = round_half_even(x * inverse)`; the results lie in -127..=127.
    #[inline]
    #[target_feature(enable = "neon")]
    fn round(x: &[f32; 16], inverse: f32, q: &mut [i8; 16]) {
        let part = |i: usize| {
            // SAFETY: four times four values.
            let x = unsafe { vld1q_f32(x.as_ptr().add(4 * i)) };
            vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(x, inverse)))
        };
        let (low, high) = (vcombine_s16(part(0), part(1)), vcombine_s16(part(2), part(3)));
        // SAFETY: sixteen values.
        unsafe { vst1q_s8(q.as_mut_ptr(), vcombine_s8(vqmovn_s16(low), vqmovn_s16(high))) };
    }

    /// Sum of sixteen values.
    #[inline]
    #[target_feature(enable = "neon")]
    fn sixteen(q: &[i8; 16]) -> i16 {
        // SAFETY: sixteen values.
        vaddlvq_s8(unsafe { vld1q_s8(q.as_ptr()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(form: Form, x: &[f32]) -> (Vec<i8>, Vec<f32>, Vec<i16>) {
        let (mut q, mut d, mut s) = (vec![0; x.len()], vec![0.0; x.len() / form.block()], vec![0; x.len() / form.group()]);
        quantise(form, x, &mut q, &mut d, &mut s);
        (q, d, s)
    }

    #[test]
    fn error_is_at_most_half_a_step() {
        let x: Vec<f32> = (0..512).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.013).collect();
        for form in Form::ALL {
            let (q, d, s) = run(form, &x);
            for (i, &v) in x.iter().enumerate() {
                let step = d[i / form.block()];
                assert!((v - step * f32::from(q[i])).abs() <= step * 0.500_01, "{form:?} {i}");
            }
            assert_eq!(s[1], q[form.group()..2 * form.group()].iter().map(|&v| i16::from(v)).sum::<i16>());
        }
    }

    #[test]
    fn extremes() {
        let (q, d, _) = run(Form::Q8_0, &[0.0; 32]);
        assert_eq!((q, d), (vec![0; 32], vec![0.0]));
        let (q, d, _) = run(Form::Q8_0, &[1e-38; 32]);
        assert_eq!((q, d), (vec![0; 32], vec![0.0]));
        let (q, d, s) = run(Form::Q8_0, &[f32::MAX; 32]);
        assert_eq!((q, d[0].is_finite(), s), (vec![127; 32], true, vec![127 * 32]));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 32];
            x[5] = bad;
            let (q, d, _) = run(Form::Q8_0, &x);
            assert!(d[0].is_nan() && q == vec![0; 32]);
        }
    }

    #[test]
    fn halves_go_to_the_even_side() {
        let mut x = [0.0; 32];
        (x[0], x[1], x[2], x[3]) = (127.0, 0.5, 1.5, -2.5);
        assert_eq!(run(Form::Q8_0, &x).0[..4], [127, 0, 2, -2]);
    }
}
