//! Types whose blocks have a scale and a minimum for each sub-block (`q4_k`, `q2_k`): both are searched, sub-block by sub-block; then both are put on the grids that the block's two
//! halves span, trying the neighbours on both grids; then the two halves are fitted again to the codes that came out.
//!
//! All values weigh the same. Weighting by magnitude, as ggml does without an importance matrix, gave no lower divergence from the
//! unquantised model on trained weights (0.029 nats a token either way).

use super::search::{LANES, NOTHING, limit, low_byte, round, sum, to_half, total};

/// What a type's blocks look like: `SUBS` sub-blocks of `SUB` values.
#[derive(Clone, Copy)]
pub(super) struct Kind<const SUB: usize, const SUBS: usize> {
    /// Largest code.
    pub top: f32,
    /// Largest scale or minimum on its grid.
    pub grid: f32,
}

/// Roundings tried for a sub-block, and how far apart their (relative) scales are.
const TRIES: usize = 7;
const TRY_STEP: f32 = 0.25;

/// `value = scale * q - min`, `min >= 0`.
#[derive(Clone, Copy, Default)]
pub(super) struct Fit {
    scale: f32,
    min: f32,
}

/// A block under fixed halves.
#[derive(Clone)]
pub(super) struct Coded<const SUBS: usize> {
    /// The half that scales are multiples of, as bytes and as a number.
    pub d: ([u8; 2], f32),
    /// The same for minima.
    pub dmin: ([u8; 2], f32),
    /// Scales on their grid.
    pub scales: [u8; SUBS],
    /// Minima on theirs.
    pub mins: [u8; SUBS],
    error: f32,
}

impl<const SUBS: usize> Coded<SUBS> {
    fn fit(&self, sub: usize) -> Fit {
        Fit { scale: self.d.1 * f32::from(self.scales[sub]), min: self.dmin.1 * f32::from(self.mins[sub]) }
    }
}

impl<const SUB: usize, const SUBS: usize> Kind<SUB, SUBS> {
    /// Scales and minima for the values of a block; `None` if nothing of them can be kept.
    pub(super) fn encode(self, values: &[f32; 256]) -> Option<Coded<SUBS>> {
        let largest = values.iter().fold(0.0, |best: f32, v| if v.abs() > best { v.abs() } else { best });
        if largest < NOTHING {
            return None;
        }
        let subs = values.as_chunks::<SUB>().0;
        let mut fits = [Fit::default(); SUBS];
        for (fit, x) in fits.iter_mut().zip(subs) {
            *fit = self.search(x);
        }
        let top = fits.iter().fold(Fit::default(), |top, f| Fit { scale: top.scale.max(f.scale), min: top.min.max(f.min) });
        let mut best = self.on_grid(subs, &fits, to_half(top.scale / self.grid), to_half(top.min / self.grid));
        if let Some(halves) = self.refit(subs, &best) {
            let (d, dmin) = (to_half(halves.scale), to_half(halves.min));
            let again = self.with_halves(subs, &best, d, dmin);
            if again.error < best.error {
                best = again;
            }
        }
        Some(best)
    }

    /// Codes of sub-block `sub`, whose values are `x`.
    pub(super) fn codes(self, coded: &Coded<SUBS>, sub: usize, x: &[f32; SUB]) -> [u8; SUB] {
        let fit = coded.fit(sub);
        let inverse = if fit.scale > 0.0 { 1.0 / fit.scale } else { 0.0 };
        let offset = fit.min * inverse;
        x.map(|x| low_byte(limit(x * inverse + offset, 0.0, self.top)))
    }

    /// Code of a value.
    #[inline(always)]
    fn code(self, x: f32, inverse: f32, offset: f32) -> f32 {
        round(limit(x * inverse + offset, 0.0, self.top))
    }

    /// Squared error of a sub-block.
    #[inline(always)]
    fn error(self, x: &[f32; SUB], fit: Fit) -> f32 {
        let inverse = if fit.scale > 0.0 { 1.0 / fit.scale } else { 0.0 };
        let offset = fit.min * inverse;
        sum(x, |x| {
            let rest = fit.scale * self.code(x, inverse, offset) - fit.min - x;
            rest * rest
        })
    }

    /// `sum(q)`, `sum(q q)`, `sum(x q)` for the codes that a fit gives.
    #[inline(always)]
    fn moments(self, x: &[f32; SUB], inverse: f32, offset: f32) -> [f32; 3] {
        let mut lanes = [[0.0; LANES]; 3];
        for x in x.as_chunks::<LANES>().0 {
            for i in 0..LANES {
                let q = self.code(x[i], inverse, offset);
                lanes[0][i] += q;
                lanes[1][i] += q * q;
                lanes[2][i] += q * x[i];
            }
        }
        lanes.map(total)
    }

    /// The best scale and minimum found for one sub-block.
    fn search(self, x: &[f32; SUB]) -> Fit {
        let low = x.iter().fold(0.0, |low: f32, &v| if v < low { v } else { low });
        let high = x.iter().fold(low, |high: f32, &v| if v > high { v } else { high });
        let range = high - low;
        if range < NOTHING {
            return Fit { scale: 0.0, min: -low };
        }
        let sum_x = sum(x, |x| x);
        let (mut best, mut best_gain) = (Fit { scale: range / self.top, min: -low }, f32::NEG_INFINITY);
        for k in 0..TRIES {
            let inverse = (self.top + (k as f32 - (TRIES / 2) as f32) * TRY_STEP) / range;
            let [q, qq, xq] = self.moments(x, inverse, -low * inverse);
            let Some((fit, gain)) = self.solve(sum_x, q, qq, xq) else { continue };
            if gain > best_gain {
                (best, best_gain) = (fit, gain);
            }
        }
        best
    }

    /// Least squares for `x ~ scale * q - min` with `min >= 0`. The second value is by how much the squared error falls below `sum(x x)`.
    #[inline(always)]
    fn solve(self, sum_x: f32, q: f32, qq: f32, xq: f32) -> Option<(Fit, f32)> {
        let det = SUB as f32 * qq - q * q;
        if det <= 0.0 {
            return None;
        }
        let mut scale = (SUB as f32 * xq - sum_x * q) / det;
        let mut min = (q * xq - qq * sum_x) / det;
        if min < 0.0 {
            min = 0.0;
            scale = xq / qq;
        }
        let gain = 2.0 * (scale * xq - min * sum_x) - scale * (scale * qq - 2.0 * min * q) - min * min * SUB as f32;
        (scale > 0.0 && scale.is_finite()).then_some((Fit { scale, min }, gain))
    }

    /// Nearest grid points to the wanted fits, or a neighbour of them if it does better.
    fn on_grid(self, subs: &[[f32; SUB]], fits: &[Fit; SUBS], d: ([u8; 2], f32), dmin: ([u8; 2], f32)) -> Coded<SUBS> {
        let mut coded = Coded { d, dmin, scales: [0; SUBS], mins: [0; SUBS], error: 0.0 };
        let grid = |v: f32, unit: f32| if unit > 0.0 { limit(round(v / unit), 0.0, self.grid) } else { 0.0 };
        for (sub, (x, fit)) in subs.iter().zip(fits).enumerate() {
            let (s0, m0) = (grid(fit.scale, d.1), grid(fit.min, dmin.1));
            let mut best = f32::INFINITY;
            for (ds, dm) in [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1)] {
                let (s, m) = (s0 + ds as f32, m0 + dm as f32);
                if !(0.0..=self.grid).contains(&s) || !(0.0..=self.grid).contains(&m) {
                    continue;
                }
                let error = self.error(x, Fit { scale: d.1 * s, min: dmin.1 * m });
                if error < best {
                    (best, coded.scales[sub], coded.mins[sub]) = (error, s as u8, m as u8);
                }
            }
            coded.error += best;
        }
        coded
    }

    /// The halves (`scale` for `d`, `min` for `dmin`) that fit a block's codes best.
    fn refit(self, subs: &[[f32; SUB]], coded: &Coded<SUBS>) -> Option<Fit> {
        let [mut aa, mut ab, mut bb, mut xa, mut xb] = [0.0f32; 5];
        for (sub, x) in subs.iter().enumerate() {
            let fit = coded.fit(sub);
            let inverse = if fit.scale > 0.0 { 1.0 / fit.scale } else { 0.0 };
            let [q, qq, xq] = self.moments(x, inverse, fit.min * inverse);
            let (s, m) = (f32::from(coded.scales[sub]), f32::from(coded.mins[sub]));
            aa += s * s * qq;
            ab += s * m * q;
            bb += m * m * SUB as f32;
            xa += s * xq;
            xb += m * sum(x, |x| x);
        }
        let det = aa * bb - ab * ab;
        let fit = if det > 0.0 {
            Fit { scale: (xa * bb - xb * ab) / det, min: (xa * ab - xb * aa) / det }
        } else {
            Fit { scale: xa / aa, min: 0.0 }
        };
        (fit.scale > 0.0 && fit.min >= 0.0 && fit.scale.is_finite() && fit.min.is_finite()).then_some(fit)
    }

    /// The same grid points under other halves.
    fn with_halves(self, subs: &[[f32; SUB]], from: &Coded<SUBS>, d: ([u8; 2], f32), dmin: ([u8; 2], f32)) -> Coded<SUBS> {
        let mut coded = Coded { d, dmin, ..from.clone() };
        coded.error = subs.iter().enumerate().map(|(sub, x)| self.error(x, coded.fit(sub))).sum();
        coded
    }
}
