//! The gated delta rule (Yang et al. 2024) on one head, token by token: `S *= decay; S += k (beta (v - S^T k))^T; out = S^T q`.
//!
//! The state `[key_dim][value_dim]` lies in panels of [`COLUMNS`] columns, `[value_dim / 32][key_dim][32]`, the last one narrower where the width is no multiple: a panel
//! of 128 keys is 16 KiB in one piece, and stays in the first-level cache while all tokens pass over it. (A quarter of the columns of a matrix 512 bytes wide
//! would compete for a quarter of that cache.) Columns are independent; every sum runs over the key axis in order, so the number of tokens in a call changes no bit.

use super::Kernels;

/// Columns of a panel.
const COLUMNS: usize = 32;
/// Most tokens of a call: their queries and keys are read once for each panel, from the second-level cache.
pub const MANY: usize = 16;

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

/// Moves a head's `state` on by some tokens; their outputs go to `out`, `[tokens][value_dim]`.
///
/// # Panics
/// If the lengths do not agree.
pub fn steps(kernels: &Kernels, state: &mut [f32], tokens: &[Token<'_>], out: &mut [f32]) {
    let Some(first) = tokens.first() else { return };
    let (keys, width) = (first.k.len(), first.v.len());
    let agree = |t: &Token<'_>| t.q.len() == keys && t.k.len() == keys && t.v.len() == width;
    assert!(tokens.iter().all(agree) && out.len() == tokens.len() * width && state.len() == keys * width, "sizes of a head");
    // SAFETY: the set runs on this machine; the lengths agree.
    unsafe { (kernels.ops.delta)(state, tokens, out) }
}

/// [`steps`] of the panel of `width` columns from `from` on, in plain Rust; with `FMA` products are not rounded before they are added.
#[inline(always)]
fn narrow<const FMA: bool>(panel: &mut [f32], tokens: &[Token<'_>], out: &mut [f32], from: usize, width: usize) {
    let add = |a: f32, b: f32, c: f32| if FMA { a.mul_add(b, c) } else { a * b + c };
    for (t, out) in tokens.iter().zip(out.chunks_exact_mut(tokens[0].v.len())) {
        let mut change = [0.0f32; COLUMNS];
        for (row, &k) in panel.chunks_exact(width).zip(t.k) {
            change.iter_mut().zip(row).for_each(|(held, &s)| *held = add(k, s, *held));
        }
        change.iter_mut().zip(&t.v[from..from + width]).for_each(|(c, &v)| *c = t.beta * add(-t.decay, *c, v));
        let out = &mut out[from..from + width];
        out.fill(0.0);
        for ((row, &k), &q) in panel.chunks_exact_mut(width).zip(t.k).zip(t.q) {
            for ((s, &c), o) in row.iter_mut().zip(&change).zip(out.iter_mut()) {
                *s = add(k, c, *s * t.decay);
                *o = add(q, *s, *o);
            }
        }
    }
}

/// The panels of a state, each with its first column and the number of its columns.
fn panels(state: &mut [f32], keys: usize, width: usize) -> impl Iterator<Item = (&mut [f32], usize, usize)> {
    state
        .chunks_mut(keys.max(1) * COLUMNS)
        .zip((0..width).step_by(COLUMNS))
        .map(move |(panel, from)| (panel, from, COLUMNS.min(width - from)))
}

/// [`steps`] in plain Rust.
pub(super) fn scalar(state: &mut [f32], tokens: &[Token<'_>], out: &mut [f32]) {
    for (panel, from, width) in panels(state, tokens[0].k.len(), tokens[0].v.len()) {
        narrow::<false>(panel, tokens, out, from, width);
    }
}

/// The same with fused multiply-add, which every AArch64 machine has: the bits of the x86 sets.
#[cfg(target_arch = "aarch64")]
pub(super) fn fused(state: &mut [f32], tokens: &[Token<'_>], out: &mut [f32]) {
    for (panel, from, width) in panels(state, tokens[0].k.len(), tokens[0].v.len()) {
        narrow::<true>(panel, tokens, out, from, width);
    }
}

/// The same with fused multiply-add: AVX2 and AVX-512 give the same bits.
#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use super::{COLUMNS, Token};
    use std::arch::x86_64::*;

    /// A kernel of whole panels for one width of vectors. One pass over the panel a token: what it writes is added to the next token's `S^T k` while it is in a register.
    macro_rules! kernel {
        ($name:ident, $features:literal, $lanes:literal, $load:ident, $store:ident, $set:ident, $zero:ident, $fma:ident, $fnma:ident, $mul:ident) => {
            /// # Safety
            /// The machine has the features; the lengths agree, and there is a token.
            #[target_feature(enable = $features)]
            pub unsafe fn $name(state: &mut [f32], tokens: &[Token<'_>], out: &mut [f32]) {
                const V: usize = COLUMNS / $lanes;
                let (keys, all) = (tokens[0].k.len(), tokens[0].v.len());
                for (panel, from, width) in super::panels(state, keys, all) {
                    if width < COLUMNS {
                        super::narrow::<true>(panel, tokens, out, from, width);
                        continue;
                    }
                    debug_assert!(panel.len() == keys * COLUMNS && from + COLUMNS <= all);
                    // SAFETY: row `i < keys` of the panel has `COLUMNS` values, keys and queries have `keys`, values and rows of `out` `COLUMNS` from `from` on.
                    unsafe {
                        let first = panel.as_mut_ptr();
                        let mut held = [$zero(); V];
                        for (i, &k) in tokens[0].k.iter().enumerate() {
                            let (row, k) = (first.add(i * COLUMNS), $set(k));
                            for (j, held) in held.iter_mut().enumerate() {
                                *held = $fma(k, $load(row.add($lanes * j)), *held);
                            }
                        }
                        for (n, t) in tokens.iter().enumerate() {
                            let (beta, decay) = ($set(t.beta), $set(t.decay));
                            let mut change = held;
                            for (j, c) in change.iter_mut().enumerate() {
                                *c = $mul(beta, $fnma(decay, *c, $load(t.v.as_ptr().add(from + $lanes * j))));
                            }
                            // After the last token the sums are of no use.
                            let next = tokens.get(n + 1).unwrap_or(t).k.as_ptr();
                            let mut sums = [$zero(); V];
                            held = [$zero(); V];
                            for (i, (&k, &q)) in t.k.iter().zip(t.q).enumerate() {
                                let (row, k, q, next) = (first.add(i * COLUMNS), $set(k), $set(q), $set(*next.add(i)));
                                for j in 0..V {
                                    let s = $fma(k, change[j], $mul($load(row.add($lanes * j)), decay));
                                    $store(row.add($lanes * j), s);
                                    sums[j] = $fma(q, s, sums[j]);
                                    held[j] = $fma(next, s, held[j]);
                                }
                            }
                            for (j, sum) in sums.into_iter().enumerate() {
                                $store(out.as_mut_ptr().add(n * all + from + $lanes * j), sum);
                            }
                        }
                    }
                }
            }
        };
    }
    kernel!(
        avx2,
        "avx2,fma",
        8,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_setzero_ps,
        _mm256_fmadd_ps,
        _mm256_fnmadd_ps,
        _mm256_mul_ps
    );
    kernel!(
        avx512,
        "avx512f,avx2,fma",
        16,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_setzero_ps,
        _mm512_fmadd_ps,
        _mm512_fnmadd_ps,
        _mm512_mul_ps
    );
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
            steps(&kernels, &mut state, &[token(&[1.0, 0.0], &[1.0, 0.0], &[3.0], 1.0)], &mut out);
            assert_eq!((state[0], state[1], out[0]), (3.0, 0.0, 3.0));
            // S decays to 1.5; with beta 1 the key's value becomes 7 whatever it was.
            steps(&kernels, &mut state, &[token(&[1.0, 2.0], &[1.0, 0.0], &[7.0], 1.0)], &mut out);
            assert_eq!((state[0], state[1], out[0]), (7.0, 0.0, 7.0));
            // Another key leaves it alone but for the decay; beta halves what is written.
            steps(&kernels, &mut state, &[token(&[1.0, 1.0], &[0.0, 1.0], &[4.0], 0.5)], &mut out);
            assert_eq!((state[0], state[1], out[0]), (3.5, 2.0, 5.5));
        }
    }

    /// Against f64, for widths with and without a narrow panel; tokens alone and together give the same bits, and so do the fused sets.
    #[test]
    fn many_steps_of_every_width() {
        const TOKENS: usize = 6;
        for (keys, width) in [(3, 1), (8, 16), (5, 37), (16, 128), (7, 150)] {
            let value = |i: usize| ((i * 7919 % 1009) as f32 - 504.0) / 1009.0;
            let vectors = |n: usize, a: usize, b: usize| -> Vec<Vec<f32>> {
                (0..TOKENS).map(|t| (0..n).map(|i| value(i + a * t + b)).collect()).collect()
            };
            let (q, k, v) = (vectors(keys, 31, 0), vectors(keys, 57, 1), vectors(width, 91, 2));
            let (mut exact, mut truth) = (vec![0.0f64; keys * width], vec![0.0f64; TOKENS * width]);
            for t in 0..TOKENS {
                for c in 0..width {
                    let held: f64 = (0..keys).map(|i| f64::from(k[t][i]) * 0.5 * exact[i * width + c]).sum();
                    for i in 0..keys {
                        let s = &mut exact[i * width + c];
                        *s = 0.5 * *s + f64::from(k[t][i]) * f64::from(0.7f32) * (f64::from(v[t][c]) - held);
                        truth[t * width + c] += f64::from(q[t][i]) * *s;
                    }
                }
            }
            let tokens: Vec<Token<'_>> = (0..TOKENS).map(|t| token(&q[t], &k[t], &v[t], 0.7)).collect();
            let mut fused: Option<Vec<f32>> = None;
            for kernels in sets() {
                let run = |together: usize| {
                    let (mut state, mut out) = (vec![0.0; keys * width], vec![f32::NAN; TOKENS * width]);
                    for (tokens, out) in tokens.chunks(together).zip(out.chunks_mut(together * width)) {
                        steps(&kernels, &mut state, tokens, out);
                    }
                    (out, state)
                };
                let all = run(TOKENS);
                assert!((1..TOKENS).all(|n| run(n) == all), "{} {keys} x {width}", kernels.name());
                assert!(all.0.iter().zip(&truth).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5), "{} {keys} x {width}", kernels.name());
                if kernels.set() != KernelSet::Scalar {
                    assert_eq!(*fused.get_or_insert_with(|| all.0.clone()), all.0);
                }
            }
        }
    }
}
