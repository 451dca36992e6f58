//! Float sums. A row is taken in strips of [`STRIP`] values; value `i` is added to running sum `i % 8` of a product of matrices, `i % 32` of two vectors, and these sums are
//! added as a tree at the end. The order depends on the row's length alone. Eight sums are one vector: four weight rows and three activation rows fill twelve registers and need
//! seven loads for twelve products. (Sixteen sums, two weight rows and three activation rows, need ten.)

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
#[repr(align(32))]
pub(super) struct Narrow(pub [f32; NARROW]);

/// Running sums of a product of matrices.
pub(super) const NARROW: usize = 8;

impl Narrow {
    pub const ZERO: Narrow = Narrow([0.0; NARROW]);

    /// The tree: halves are added until one value is left.
    #[inline]
    pub fn total(&self) -> f32 {
        let s = &self.0;
        let a: [f32; 4] = std::array::from_fn(|i| s[i] + s[i + 4]);
        (a[0] + a[2]) + (a[1] + a[3])
    }
}

/// A decoded strip of a weight row, aligned for vector loads.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Strip(pub [f32; STRIP]);

/// Most activation rows that meet the decoded strips before the next are decoded. Decoding takes a tenth of a prompt of `bf16` with 48 of them; their sums, 192 KiB for 64 weight
/// rows, and the strips have to stay in the second-level cache.
pub(super) const GROUP: usize = 96;

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
    use super::{GROUP, LANES, NARROW, Narrow, STRIP, Strip, Sums};
    use crate::kernels::quants::prefetch_far;
    use std::arch::x86_64::*;
    use std::ops::Range;

    /// Activation rows that pass over all weight rows together: their strips, 24 KiB, stay in the first-level cache.
    const STAYING: usize = 24;

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
        for first in (0..a.len()).step_by(STAYING) {
            // SAFETY: the caller's promise.
            unsafe { pass(w, a, first..(first + STAYING).min(a.len()), len, sums) };
        }
    }

    /// The activation rows `acts` of [`tile`].
    ///
    /// # Safety
    /// As [`tile`].
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pass(w: &[Strip], a: &[&[f32]], acts: Range<usize>, len: usize, sums: &mut [[Narrow; GROUP]]) {
        // A part of the activations' next strips with every four weight rows: they lie in the third-level cache or in memory, a kilobyte here and there.
        let ahead = (STRIP * size_of::<f32>()).div_ceil(w.len().div_ceil(4).max(1)).next_multiple_of(64);
        let mut next = STRIP * size_of::<f32>();
        let (mut w, mut sums) = (w, sums);
        while !w.is_empty() {
            if a.len() > 1 {
                a[acts.clone()].iter().for_each(|a| prefetch_far(a.as_ptr().cast::<u8>().wrapping_add(next), ahead));
                next += ahead;
            }
            // One activation row needs more weight rows for as many sums in flight.
            let rows = match w.len() {
                8.. if a.len() == 1 => 8,
                4.. => 4,
                2.. => 2,
                _ => 1,
            };
            let (here, later) = (w.split_at(rows), sums.split_at_mut(rows));
            let mut first = acts.start;
            while first < acts.end {
                // SAFETY: the caller's promise; `first` and what follows are inside.
                first += unsafe {
                    match (rows, acts.end - first) {
                        (8, _) => block::<8, 1>(here.0, a, first, len, later.0),
                        (4, 1) => block::<4, 1>(here.0, a, first, len, later.0),
                        (4, 2) => block::<4, 2>(here.0, a, first, len, later.0),
                        (4, _) => block::<4, 3>(here.0, a, first, len, later.0),
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

    /// Eight values.
    ///
    /// # Safety
    /// The machine has AVX2 and FMA; there are eight values from `at` on.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn eight<const R: usize, const A: usize>(w: &[*const f32; R], a: &[*const f32; A], at: usize, acc: &mut [[__m256; A]; R]) {
        let mut acts = [_mm256_setzero_ps(); A];
        // SAFETY: the caller's promise.
        unsafe {
            for j in 0..A {
                acts[j] = _mm256_loadu_ps(a[j].add(at));
            }
            for r in 0..R {
                let weights = _mm256_load_ps(w[r].add(at));
                for j in 0..A {
                    acc[r][j] = _mm256_fmadd_ps(weights, acts[j], acc[r][j]);
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
            // With indices: iterators over arrays of vectors become calls that copy them.
            let mut acc = [[_mm256_setzero_ps(); A]; R];
            for r in 0..R {
                for j in 0..A {
                    acc[r][j] = _mm256_load_ps(sums[r][first + j].0.as_ptr());
                }
            }
            for at in (0..len).step_by(2 * NARROW) {
                eight::<R, A>(&w, &a, at, &mut acc);
                eight::<R, A>(&w, &a, at + NARROW, &mut acc);
            }
            for r in 0..R {
                for j in 0..A {
                    _mm256_store_ps(sums[r][first + j].0.as_mut_ptr(), acc[r][j]);
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
        let (mut w, mut sums) = (w, sums);
        while !w.is_empty() {
            let rows = match w.len() {
                4.. => 4,
                2.. => 2,
                _ => 1,
            };
            let (here, later) = (w.split_at(rows), sums.split_at_mut(rows));
            for first in (0..a.len()).step_by(2) {
                // SAFETY: the caller's promise; `first` and what follows are inside.
                unsafe {
                    match (rows, a.len() - first) {
                        (4, 1) => block::<4, 1>(here.0, a, first, len, later.0),
                        (4, _) => block::<4, 2>(here.0, a, first, len, later.0),
                        (2, 1) => block::<2, 1>(here.0, a, first, len, later.0),
                        (2, _) => block::<2, 2>(here.0, a, first, len, later.0),
                        (_, 1) => block::<1, 1>(here.0, a, first, len, later.0),
                        (_, _) => block::<1, 2>(here.0, a, first, len, later.0),
                    }
                }
            }
            (w, sums) = (here.1, later.1);
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
