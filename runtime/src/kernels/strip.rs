//! Float sums. A row is taken in strips of [`STRIP`] values; value `i` is added to running sum `i % 32`, and the 32 sums are added as a
//! tree at the end. The order depends on the row's length alone.

/// Values decoded at a time; every block length divides it.
pub(super) const STRIP: usize = 256;
/// Running sums.
pub(super) const LANES: usize = 32;

/// The running sums of one output value.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Sums(pub [f32; LANES]);

impl Sums {
    pub const ZERO: Sums = Sums([0.0; LANES]);

    /// The tree: halves are added until one value is left.
    #[inline]
    pub fn total(&self) -> f32 {
        let s = &self.0;
        let a: [f32; 16] = std::array::from_fn(|i| s[i] + s[i + 16]);
        let b: [f32; 8] = std::array::from_fn(|i| a[i] + a[i + 8]);
        let c: [f32; 4] = std::array::from_fn(|i| b[i] + b[i + 4]);
        (c[0] + c[2]) + (c[1] + c[3])
    }
}

/// Adds the products of `w` and `a` (equal lengths, a multiple of [`LANES`]) to `sums`. Plain Rust.
pub(super) fn add(w: &[f32], a: &[f32], sums: &mut Sums) {
    for (w, a) in w.as_chunks::<LANES>().0.iter().zip(a.as_chunks::<LANES>().0) {
        for ((s, w), a) in sums.0.iter_mut().zip(w).zip(a) {
            *s += w * a;
        }
    }
}

/// [`add`] for two activation rows, each in its own order.
pub(super) fn add2(w: &[f32], a: [&[f32]; 2], sums: [&mut Sums; 2]) {
    for (a, sums) in a.into_iter().zip(sums) {
        add(w, a, sums);
    }
}

/// [`add`] for half-precision `w` (bits).
pub(super) fn add_f16(w: &[u16], a: &[f32], sums: &mut Sums) {
    for (w, a) in w.as_chunks::<LANES>().0.iter().zip(a.as_chunks::<LANES>().0) {
        for ((s, &w), a) in sums.0.iter_mut().zip(w).zip(a) {
            *s += half::f16::from_bits(w).to_f32() * a;
        }
    }
}

/// The same sums with AVX2 and FMA: products are not rounded before they are added, otherwise as above.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use super::{LANES, Sums};
    use std::arch::x86_64::*;

    /// # Safety
    /// The machine has AVX2 and FMA; `a` is as long as `w`, a multiple of 32.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn add(w: &[f32], a: &[f32], sums: &mut Sums) {
        debug_assert!(w.len() == a.len() && w.len().is_multiple_of(LANES));
        // SAFETY: all accesses are below the common length, resp. inside the 32 sums.
        unsafe {
            let s = sums.0.as_mut_ptr();
            let mut acc: [__m256; 4] = std::array::from_fn(|l| _mm256_loadu_ps(s.add(8 * l)));
            for i in (0..w.len()).step_by(LANES) {
                for (l, acc) in acc.iter_mut().enumerate() {
                    let at = i + 8 * l;
                    *acc = _mm256_fmadd_ps(_mm256_loadu_ps(w.as_ptr().add(at)), _mm256_loadu_ps(a.as_ptr().add(at)), *acc);
                }
            }
            for (l, acc) in acc.into_iter().enumerate() {
                _mm256_storeu_ps(s.add(8 * l), acc);
            }
        }
    }

    /// # Safety
    /// The machine has AVX2 and FMA; both rows of `a` are as long as `w`, a multiple of 32.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn add2(w: &[f32], a: [&[f32]; 2], sums: [&mut Sums; 2]) {
        debug_assert!(a.iter().all(|a| a.len() == w.len()) && w.len().is_multiple_of(LANES));
        let [s0, s1] = sums;
        // SAFETY: all accesses are below the common length, resp. inside the 32 sums.
        unsafe {
            let (p, p0, p1) = (w.as_ptr(), a[0].as_ptr(), a[1].as_ptr());
            let mut acc0: [__m256; 4] = std::array::from_fn(|l| _mm256_loadu_ps(s0.0.as_ptr().add(8 * l)));
            let mut acc1: [__m256; 4] = std::array::from_fn(|l| _mm256_loadu_ps(s1.0.as_ptr().add(8 * l)));
            for i in (0..w.len()).step_by(LANES) {
                for l in 0..4 {
                    let at = i + 8 * l;
                    let w = _mm256_loadu_ps(p.add(at));
                    acc0[l] = _mm256_fmadd_ps(w, _mm256_loadu_ps(p0.add(at)), acc0[l]);
                    acc1[l] = _mm256_fmadd_ps(w, _mm256_loadu_ps(p1.add(at)), acc1[l]);
                }
            }
            for l in 0..4 {
                _mm256_storeu_ps(s0.0.as_mut_ptr().add(8 * l), acc0[l]);
                _mm256_storeu_ps(s1.0.as_mut_ptr().add(8 * l), acc1[l]);
            }
        }
    }

    /// # Safety
    /// The machine has AVX2, FMA and F16C; `a` is as long as `w`, a multiple of 32.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn add_f16(w: &[u16], a: &[f32], sums: &mut Sums) {
        debug_assert!(w.len() == a.len() && w.len().is_multiple_of(LANES));
        // SAFETY: all accesses are below the common length, resp. inside the 32 sums.
        unsafe {
            let s = sums.0.as_mut_ptr();
            let mut acc: [__m256; 4] = std::array::from_fn(|l| _mm256_loadu_ps(s.add(8 * l)));
            for i in (0..w.len()).step_by(LANES) {
                for (l, acc) in acc.iter_mut().enumerate() {
                    let at = i + 8 * l;
                    let w = _mm256_cvtph_ps(_mm_loadu_si128(w.as_ptr().add(at).cast()));
                    *acc = _mm256_fmadd_ps(w, _mm256_loadu_ps(a.as_ptr().add(at)), *acc);
                }
            }
            for (l, acc) in acc.into_iter().enumerate() {
                _mm256_storeu_ps(s.add(8 * l), acc);
            }
        }
    }
}
