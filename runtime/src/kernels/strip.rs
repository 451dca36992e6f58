//! Float sums. A row is taken in strips of [`STRIP`] values; value `i` is added to running sum `i % 16` of a product of matrices, `i % 32` of two vectors, and these sums are
//! added as a tree at the end. The order depends on the row's length alone. Sixteen sums are two vectors: two weight rows and three activation rows fill twelve registers.

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

/// The running sums of one output value of a product of matrices.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Narrow(pub [f32; NARROW]);

/// Running sums of a product of matrices.
pub(super) const NARROW: usize = 16;

impl Narrow {
    pub const ZERO: Narrow = Narrow([0.0; NARROW]);

    /// The tree: halves are added until one value is left.
    #[inline]
    pub fn total(&self) -> f32 {
        let s = &self.0;
        let a: [f32; 8] = std::array::from_fn(|i| s[i] + s[i + 8]);
        let b: [f32; 4] = std::array::from_fn(|i| a[i] + a[i + 4]);
        (b[0] + b[2]) + (b[1] + b[3])
    }
}

/// A decoded strip of a weight row, aligned for vector loads.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Strip(pub [f32; STRIP]);

/// Most activation rows that meet the decoded strips before the next are decoded (their strips, 24 KiB, stay in the first-level cache).
pub(super) const GROUP: usize = 24;

/// Adds the products of all weight rows with all activation rows over `len` values (a multiple of [`LANES`]) to `sums[weight row][activation row]`. Plain Rust.
pub(super) fn tile(w: &[Strip], a: &[&[f32]], len: usize, sums: &mut [[Narrow; GROUP]]) {
    for (w, sums) in w.iter().zip(sums) {
        for (a, sums) in a.iter().zip(sums) {
            for (w, a) in w.0[..len].as_chunks::<NARROW>().0.iter().zip(a[..len].as_chunks::<NARROW>().0) {
                for ((s, w), a) in sums.0.iter_mut().zip(w).zip(a) {
                    *s += w * a;
                }
            }
        }
    }
}

/// The same sums with AVX2 and FMA: products are not rounded before they are added, otherwise as above.
#[cfg(target_arch = "x86_64")]
pub(super) mod avx2 {
    use super::{GROUP, LANES, NARROW, Narrow, Strip, Sums};
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
    /// The machine has AVX2 and FMA; `len` is a multiple of 32, at most [`STRIP`](super::STRIP) and the length of each row of `a`; there are sums for every row.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub unsafe fn tile(w: &[Strip], a: &[&[f32]], len: usize, sums: &mut [[Narrow; GROUP]]) {
        let (mut w, mut sums) = (w, sums);
        while !w.is_empty() {
            // One activation row needs more weight rows for as many sums in flight.
            let rows = if a.len() == 1 && w.len() >= 4 { 4 } else { w.len().min(2) };
            let (here, later) = (w.split_at(rows), sums.split_at_mut(rows));
            let mut first = 0;
            while first < a.len() {
                // SAFETY: the caller's promise; `first` and what follows are inside.
                first += unsafe {
                    match (rows, a.len() - first) {
                        (4, _) => block::<4, 1>(here.0, a, first, len, later.0),
                        (2, 1) => block::<2, 1>(here.0, a, first, len, later.0),
                        (2, 2) => block::<2, 2>(here.0, a, first, len, later.0),
                        (2, _) => block::<2, 3>(here.0, a, first, len, later.0),
                        (_, 1) => block::<1, 1>(here.0, a, first, len, later.0),
                        (_, 2) => block::<1, 2>(here.0, a, first, len, later.0),
                        (_, _) => block::<1, 3>(here.0, a, first, len, later.0),
                    }
                };
            }
            (w, sums) = (here.1, later.1);
        }
    }

    /// Half `H` of sixteen values. (As a loop over the halves the sums would not stay in registers.)
    ///
    /// # Safety
    /// The machine has AVX2 and FMA; there are eight values from `at` on.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn eight<const R: usize, const A: usize, const H: usize>(
        w: &[*const f32; R],
        a: &[*const f32; A],
        at: usize,
        acc: &mut [[[__m256; 2]; A]; R],
    ) {
        let mut weights = [_mm256_setzero_ps(); R];
        // SAFETY: the caller's promise.
        unsafe {
            for r in 0..R {
                weights[r] = _mm256_load_ps(w[r].add(at));
            }
            for j in 0..A {
                let a = _mm256_loadu_ps(a[j].add(at));
                for r in 0..R {
                    acc[r][j][H] = _mm256_fmadd_ps(weights[r], a, acc[r][j][H]);
                }
            }
        }
    }

    /// `R` weight rows and `A` activation rows from `first` on, sums in registers; returns `A`.
    ///
    /// # Safety
    /// As [`tile`].
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn block<const R: usize, const A: usize>(
        w: &[Strip],
        a: &[&[f32]],
        first: usize,
        len: usize,
        sums: &mut [[Narrow; GROUP]],
    ) -> usize {
        debug_assert!(w.len() >= R && sums.len() >= R && a.len() >= first + A && a[first..first + A].iter().all(|a| a.len() >= len));
        // SAFETY: all accesses are below `len`, resp. inside the sums.
        unsafe {
            let w: [*const f32; R] = std::array::from_fn(|r| w.get_unchecked(r).0.as_ptr());
            let a: [*const f32; A] = std::array::from_fn(|j| a.get_unchecked(first + j).as_ptr());
            let mut acc = [[[_mm256_setzero_ps(); 2]; A]; R];
            for (acc, sums) in acc.iter_mut().zip(&*sums) {
                for (acc, sum) in acc.iter_mut().zip(&sums[first..]) {
                    *acc = [_mm256_load_ps(sum.0.as_ptr()), _mm256_load_ps(sum.0.as_ptr().add(8))];
                }
            }
            for at in (0..len).step_by(NARROW) {
                eight::<R, A, 0>(&w, &a, at, &mut acc);
                eight::<R, A, 1>(&w, &a, at + 8, &mut acc);
            }
            for (acc, sums) in acc.iter().zip(sums) {
                for (acc, sum) in acc.iter().zip(&mut sums[first..]) {
                    _mm256_store_ps(sum.0.as_mut_ptr(), acc[0]);
                    _mm256_store_ps(sum.0.as_mut_ptr().add(8), acc[1]);
                }
            }
        }
        A
    }
}

/// The same sums with NEON, the bits of AVX2.
#[cfg(target_arch = "aarch64")]
pub(super) mod neon {
    use super::{GROUP, LANES, NARROW, Narrow, Strip, Sums};
    use std::arch::aarch64::*;

    /// The running sums in registers.
    type Lanes = [float32x4_t; LANES / 4];

    #[inline]
    #[target_feature(enable = "neon")]
    fn load(sums: &Sums) -> Lanes {
        let mut lanes = [vdupq_n_f32(0.0); LANES / 4];
        for (lane, s) in lanes.iter_mut().zip(sums.0.as_chunks::<4>().0) {
            // SAFETY: four values.
            *lane = unsafe { vld1q_f32(s.as_ptr()) };
        }
        lanes
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn store(lanes: &Lanes, sums: &mut Sums) {
        for (lane, s) in lanes.iter().zip(sums.0.as_chunks_mut::<4>().0) {
            // SAFETY: four values.
            unsafe { vst1q_f32(s.as_mut_ptr(), *lane) };
        }
    }

    /// # Safety
    /// The machine has NEON; `a` is as long as `w`, a multiple of 32.
    #[target_feature(enable = "neon")]
    pub unsafe fn add(w: &[f32], a: &[f32], sums: &mut Sums) {
        debug_assert!(w.len() == a.len() && w.len().is_multiple_of(LANES));
        let mut lanes = load(sums);
        for (w, a) in w.as_chunks::<LANES>().0.iter().zip(a.as_chunks::<LANES>().0) {
            for (l, lane) in lanes.iter_mut().enumerate() {
                // SAFETY: both have 32 values.
                *lane = unsafe { vfmaq_f32(*lane, vld1q_f32(w.as_ptr().add(4 * l)), vld1q_f32(a.as_ptr().add(4 * l))) };
            }
        }
        store(&lanes, sums);
    }

    /// # Safety
    /// The machine has NEON; `len` is a multiple of 32, at most [`STRIP`](super::STRIP) and the length of each row of `a`; there are sums for every row.
    #[target_feature(enable = "neon")]
    pub unsafe fn tile(w: &[Strip], a: &[&[f32]], len: usize, sums: &mut [[Narrow; GROUP]]) {
        for (w, sums) in w.chunks(2).zip(sums.chunks_mut(2)) {
            for first in (0..a.len()).step_by(2) {
                // SAFETY: the caller's promise; `first` and what follows are inside.
                unsafe {
                    match (w.len(), a.len() - first) {
                        (2, 1) => block::<2, 1>(w, a, first, len, sums),
                        (2, _) => block::<2, 2>(w, a, first, len, sums),
                        (_, 1) => block::<1, 1>(w, a, first, len, sums),
                        (_, _) => block::<1, 2>(w, a, first, len, sums),
                    }
                }
            }
        }
    }

    /// `R` weight rows and `A` activation rows from `first` on, sums in registers.
    ///
    /// # Safety
    /// As [`tile`].
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn block<const R: usize, const A: usize>(w: &[Strip], a: &[&[f32]], first: usize, len: usize, sums: &mut [[Narrow; GROUP]]) {
        const V: usize = NARROW / 4;
        debug_assert!(w.len() >= R && sums.len() >= R && a.len() >= first + A && a[first..first + A].iter().all(|a| a.len() >= len));
        // SAFETY: all accesses are below `len`, resp. inside the sums.
        unsafe {
            let mut lanes = [[[vdupq_n_f32(0.0); V]; A]; R];
            for r in 0..R {
                for j in 0..A {
                    for l in 0..V {
                        lanes[r][j][l] = vld1q_f32(sums[r][first + j].0.as_ptr().add(4 * l));
                    }
                }
            }
            for at in (0..len).step_by(NARROW) {
                for l in 0..V {
                    for j in 0..A {
                        let a = vld1q_f32(a.get_unchecked(first + j).as_ptr().add(at + 4 * l));
                        for r in 0..R {
                            lanes[r][j][l] = vfmaq_f32(lanes[r][j][l], vld1q_f32(w.get_unchecked(r).0.as_ptr().add(at + 4 * l)), a);
                        }
                    }
                }
            }
            for r in 0..R {
                for j in 0..A {
                    for l in 0..V {
                        vst1q_f32(sums[r][first + j].0.as_mut_ptr().add(4 * l), lanes[r][j][l]);
                    }
                }
            }
        }
    }
}
