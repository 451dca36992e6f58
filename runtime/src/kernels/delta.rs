//! One token of the gated delta rule (Yang et al. 2024) on one head: `S *= decay; S += k (beta (v - S^T k))^T; out = S^T q`.
//!
//! The state is `[key_dim][value_dim]`. Columns are independent; every sum runs over the key axis in order. Two passes: the first only
//! reads, the second decays, adds and reads out at once.

use super::Kernels;

/// Vectors and scalars of one token and head.
#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    /// Query, `[key_dim]`.
    pub q: &'a [f32],
    /// Key, `[key_dim]`.
    pub k: &'a [f32],
    /// Value, `[value_dim]`.
    pub v: &'a [f32],
    /// How much of the key's old value is replaced.
    pub beta: f32,
    /// What the whole state is multiplied by first.
    pub decay: f32,
}

/// Moves `state` on by one token; its output goes to `out`, `[value_dim]`.
///
/// # Panics
/// If the lengths do not agree.
pub fn step(kernels: &Kernels, state: &mut [f32], token: &Token<'_>, out: &mut [f32]) {
    let Token { q, k, v, .. } = token;
    assert!(q.len() == k.len() && v.len() == out.len() && state.len() == k.len() * v.len(), "sizes of a head");
    // SAFETY: the set runs on this machine; the lengths agree.
    unsafe { (kernels.ops.delta)(state, token, out) }
}

/// [`step`] of the columns `from..` in plain Rust; with `FMA` products are not rounded before they are added.
#[inline(always)]
fn columns<const FMA: bool>(state: &mut [f32], t: &Token<'_>, out: &mut [f32], from: usize) {
    let add = |a: f32, b: f32, c: f32| if FMA { a.mul_add(b, c) } else { a * b + c };
    let width = t.v.len();
    const TOGETHER: usize = 32;
    for first in (from..width).step_by(TOGETHER) {
        let here = first..(first + TOGETHER).min(width);
        let mut change = [0.0f32; TOGETHER];
        for (row, &k) in state.chunks_exact(width).zip(t.k) {
            change.iter_mut().zip(&row[here.clone()]).for_each(|(held, &s)| *held = add(k, s, *held));
        }
        change.iter_mut().zip(&t.v[here.clone()]).for_each(|(c, &v)| *c = t.beta * add(-t.decay, *c, v));
        let out = &mut out[here.clone()];
        out.fill(0.0);
        for ((row, &k), &q) in state.chunks_exact_mut(width).zip(t.k).zip(t.q) {
            for ((s, &c), o) in row[here.clone()].iter_mut().zip(&change).zip(out.iter_mut()) {
                *s = add(k, c, *s * t.decay);
                *o = add(q, *s, *o);
            }
        }
    }
}

/// [`step`] in plain Rust.
pub(super) fn scalar(state: &mut [f32], token: &Token<'_>, out: &mut [f32]) {
    columns::<false>(state, token, out, 0);
}

/// The same with fused multiply-add: AVX2 and AVX-512 give the same bits.
#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::Token;
    use std::arch::x86_64::*;

    /// # Safety
    /// The machine has AVX2 and FMA; the lengths agree.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2(state: &mut [f32], token: &Token<'_>, out: &mut [f32]) {
        super::columns::<true>(state, token, out, 0);
    }

    /// # Safety
    /// The machine has AVX-512F; the lengths agree.
    #[target_feature(enable = "avx512f,avx2,fma")]
    pub unsafe fn avx512(state: &mut [f32], token: &Token<'_>, out: &mut [f32]) {
        let width = token.v.len();
        let mut from = 0;
        // SAFETY: all columns are below `width`.
        unsafe {
            while from + 128 <= width {
                vectors::<8>(state, token, out, from);
                from += 128;
            }
            while from + 16 <= width {
                vectors::<1>(state, token, out, from);
                from += 16;
            }
        }
        super::columns::<true>(state, token, out, from);
    }

    /// `16 * V` columns from `from` on.
    ///
    /// # Safety
    /// The machine has AVX-512F; the lengths agree, and there are that many columns.
    #[target_feature(enable = "avx512f,avx2,fma")]
    unsafe fn vectors<const V: usize>(state: &mut [f32], t: &Token<'_>, out: &mut [f32], from: usize) {
        debug_assert!(from + 16 * V <= t.v.len() && state.len() == t.k.len() * t.v.len());
        // SAFETY: row `i < k.len()` of the state and the vectors have `16 * V` values from `from` on.
        unsafe {
            let (first, width) = (state.as_mut_ptr().add(from), t.v.len());
            let mut change = [_mm512_setzero_ps(); V];
            for (i, &k) in t.k.iter().enumerate() {
                let (row, k) = (first.add(i * width), _mm512_set1_ps(k));
                for (j, held) in change.iter_mut().enumerate() {
                    *held = _mm512_fmadd_ps(k, _mm512_loadu_ps(row.add(16 * j)), *held);
                }
            }
            let (beta, decay) = (_mm512_set1_ps(t.beta), _mm512_set1_ps(t.decay));
            for (j, c) in change.iter_mut().enumerate() {
                *c = _mm512_mul_ps(beta, _mm512_fnmadd_ps(decay, *c, _mm512_loadu_ps(t.v.as_ptr().add(from + 16 * j))));
            }
            let mut sums = [_mm512_setzero_ps(); V];
            for (i, (&k, &q)) in t.k.iter().zip(t.q).enumerate() {
                let (row, k, q) = (first.add(i * width), _mm512_set1_ps(k), _mm512_set1_ps(q));
                for (j, sum) in sums.iter_mut().enumerate() {
                    let s = _mm512_fmadd_ps(k, change[j], _mm512_mul_ps(_mm512_loadu_ps(row.add(16 * j)), decay));
                    _mm512_storeu_ps(row.add(16 * j), s);
                    *sum = _mm512_fmadd_ps(q, s, *sum);
                }
            }
            for (j, sum) in sums.into_iter().enumerate() {
                _mm512_storeu_ps(out.as_mut_ptr().add(from + 16 * j), sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{ActivationMode, KernelSet};

    fn sets() -> Vec<Kernels> {
        crate::kernels::ops::all().map(|o| Kernels::with_set(o.set, ActivationMode::Int8).unwrap()).collect()
    }

    fn token<'a>(q: &'a [f32], k: &'a [f32], v: &'a [f32], beta: f32) -> Token<'a> {
        Token { q, k, v, beta, decay: 0.5 }
    }

    /// Two steps by hand: one key dimension pair, one value dimension.
    #[test]
    fn the_delta_rule_replaces_what_a_key_holds() {
        for kernels in sets() {
            let mut state = vec![0.0; 2];
            let mut out = [0.0];
            step(&kernels, &mut state, &token(&[1.0, 0.0], &[1.0, 0.0], &[3.0], 1.0), &mut out);
            assert_eq!((state[0], state[1], out[0]), (3.0, 0.0, 3.0));
            // S decays to 1.5; with beta 1 the key's value becomes 7 whatever it was.
            step(&kernels, &mut state, &token(&[1.0, 2.0], &[1.0, 0.0], &[7.0], 1.0), &mut out);
            assert_eq!((state[0], state[1], out[0]), (7.0, 0.0, 7.0));
            // Another key leaves it alone but for the decay; beta halves what is written.
            step(&kernels, &mut state, &token(&[1.0, 1.0], &[0.0, 1.0], &[4.0], 0.5), &mut out);
            assert_eq!((state[0], state[1], out[0]), (3.5, 2.0, 5.5));
        }
    }

    /// Against f64, for widths with and without a tail; the fused sets agree to the bit.
    #[test]
    fn many_steps_of_every_width() {
        for (keys, width) in [(3, 1), (8, 16), (5, 37), (16, 128), (7, 150)] {
            let value = |i: usize| ((i * 7919 % 1009) as f32 - 504.0) / 1009.0;
            let mut exact = vec![0.0f64; keys * width];
            let mut states: Vec<Vec<f32>> = sets().iter().map(|_| vec![0.0; keys * width]).collect();
            for t in 0..6 {
                let q: Vec<f32> = (0..keys).map(|i| value(i + 31 * t)).collect();
                let k: Vec<f32> = (0..keys).map(|i| value(i + 57 * t + 1)).collect();
                let v: Vec<f32> = (0..width).map(|i| value(i + 91 * t + 2)).collect();
                let mut truth = vec![0.0f64; width];
                for c in 0..width {
                    let held: f64 = (0..keys).map(|i| f64::from(k[i]) * 0.5 * exact[i * width + c]).sum();
                    for i in 0..keys {
                        let s = &mut exact[i * width + c];
                        *s = 0.5 * *s + f64::from(k[i]) * f64::from(0.7f32) * (f64::from(v[c]) - held);
                        truth[c] += f64::from(q[i]) * *s;
                    }
                }
                let mut fused: Option<Vec<f32>> = None;
                for (kernels, state) in sets().iter().zip(&mut states) {
                    let mut out = vec![f32::NAN; width];
                    step(kernels, state, &token(&q, &k, &v, 0.7), &mut out);
                    assert!(out.iter().zip(&truth).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5), "{} {keys} x {width}", kernels.name());
                    if kernels.set() != KernelSet::Scalar {
                        assert_eq!(*fused.get_or_insert_with(|| out.clone()), out);
                    }
                }
            }
        }
    }
}
