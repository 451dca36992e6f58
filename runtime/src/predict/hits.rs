//! How often an expert is in a window of a given size: from a trace if there is one, else from curves that were measured on other models (docs/cache-policies.md).

use super::Three;
use crate::bench::trace::Trace;
use crate::window::policy::{Policy, Purpose, Shape};
use crate::window::{ReadPlan, State, plan};

/// Windows of the published curves, in percent of the experts.
const WINDOWS: [f64; 10] = [3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 40.0, 50.0];
/// Synthetic routing of skew 1.0, 40 layers of 256 experts.
const SKEW_1: [f64; 10] = [23.4, 27.5, 35.0, 41.2, 51.1, 58.8, 70.5, 78.6, 84.4, 89.7];
/// Made up to repeat itself as large trained models are said to.
const REPEATING: [f64; 10] = [19.8, 26.4, 38.8, 46.0, 55.2, 62.6, 73.1, 78.8, 82.2, 85.8];
/// A trained model of 8 layers of 64 experts.
const SMALL: [f64; 10] = [7.3, 10.2, 15.2, 19.7, 28.1, 35.6, 48.6, 59.4, 68.3, 77.1];
/// Uniform routing.
const UNIFORM: [f64; 10] = [2.8, 3.8, 5.9, 7.9, 11.9, 16.0, 23.9, 31.9, 40.0, 49.8];
/// Windows at which a trace is replayed, in percent.
const REPLAYED: [f64; 8] = [3.0, 6.0, 12.0, 20.0, 30.0, 45.0, 60.0, 80.0];
/// A hit rate that was measured on another run of the same model may be off by this.
const SPREAD: f64 = 0.04;

/// Hit rate by window, with a range, and what it rests on.
#[derive(Clone, Debug, PartialEq)]
pub struct HitCurve {
    /// Where it comes from.
    pub source: String,
    /// Window as a share of the experts, ascending, and hit rates.
    points: Vec<(f64, Three)>,
    /// How uneven routing is, for the number of experts that a prompt needs.
    pub skew: Three,
}

impl HitCurve {
    /// For a trained model of which nothing is known.
    pub fn trained() -> HitCurve {
        let point = |i: usize| {
            let of = |curve: &[f64; 10]| curve.get(i).copied().unwrap_or(0.0) / 100.0;
            let high = of(&SKEW_1).max(of(&REPEATING));
            (WINDOWS.get(i).copied().unwrap_or(0.0) / 100.0, Three { low: of(&SMALL), expected: of(&REPEATING), high })
        };
        HitCurve {
            source: "published curves (docs/cache-policies.md): expected \"repeating\", at worst \"q35-moe-45m\", at best \"synthetic-35b-skew1\""
                .into(),
            points: (0..WINDOWS.len()).map(point).collect(),
            skew: Three { low: 0.5, expected: 1.0, high: 1.3 },
        }
    }

    /// For made-up routing of this skew: between the curves of 0 and 1; beyond 1 that of 1.
    pub fn synthetic(skew: f64) -> HitCurve {
        let share = skew.clamp(0.0, 1.0);
        let point = |((&window, &even), &uneven): ((&f64, &f64), &f64)| (window / 100.0, around((even + (uneven - even) * share) / 100.0));
        HitCurve {
            source: format!("published curves of made-up routing (docs/cache-policies.md), skew {skew}"),
            points: WINDOWS.iter().zip(&UNIFORM).zip(&SKEW_1).map(point).collect(),
            skew: Three { low: skew * 0.85, expected: skew, high: skew * 1.15 },
        }
    }

    /// From a trace, replayed through the window that runs. The first quarter fills the window and does not count.
    pub fn replayed(trace: &Trace, name: &str) -> HitCurve {
        let shape = Shape::new(trace.header.layers.iter().copied());
        let rate = |&percent: &f64| {
            let shape = shape.as_ref()?;
            let slots = ((shape.keys() as f64 * percent / 100.0) as u32).max(1);
            replay(trace, shape, slots).map(|rate| (percent / 100.0, around(rate)))
        };
        HitCurve {
            source: format!("the trace {name}, replayed"),
            points: REPLAYED.iter().filter_map(rate).collect(),
            skew: Three { low: 0.5, expected: 1.0, high: 1.3 },
        }
    }

    /// Hit rate of a window that holds this share of the experts.
    pub fn at(&self, share: f64) -> Three {
        if share >= 1.0 {
            return Three { low: 1.0, expected: 1.0, high: 1.0 };
        }
        let none = (0.0, Three { low: 0.0, expected: 0.0, high: 0.0 });
        let all = (1.0, Three { low: 1.0, expected: 1.0, high: 1.0 });
        let mut last = none;
        for &next in self.points.iter().chain([&all]) {
            if share <= next.0 {
                let part = ((share - last.0) / (next.0 - last.0).max(1e-9)).clamp(0.0, 1.0);
                let mix = |a: f64, b: f64| a + (b - a) * part;
                let (a, b) = (last.1, next.1);
                return Three { low: mix(a.low, b.low), expected: mix(a.expected, b.expected), high: mix(a.high, b.high) };
            }
            last = next;
        }
        all.1
    }
}

fn around(rate: f64) -> Three {
    Three { low: (rate - SPREAD).max(0.0), expected: rate, high: (rate + SPREAD).min(1.0) }
}

/// Hit rate of the last three quarters of a trace; `None` if it has too little, or a window of this size cannot hold a step.
fn replay(trace: &Trace, shape: &Shape, slots: u32) -> Option<f64> {
    let mut state = State::new(shape.clone(), slots, Policy::new(shape));
    let mut reads = ReadPlan::for_state(&state);
    let single: Vec<_> = trace.visits.iter().filter(|v| !v.prompt && !v.experts.is_empty()).collect();
    let (mut hits, mut asked) = (0usize, 0usize);
    for (i, visit) in single.iter().enumerate() {
        plan(&state, visit.layer, &visit.experts, Purpose::Decode, false, &mut reads).ok()?;
        state.apply(&reads);
        if i >= single.len() / 4 {
            hits += reads.hits.len();
            asked += visit.experts.len();
        }
    }
    (asked > 0).then(|| hits as f64 / asked as f64)
}

/// Experts of a layer that at least one of `tokens` tokens chooses, by simulation: an expert's score is its popularity (of a deviation that grows with `skew`) plus what differs
/// from token to token (of deviation 1), and the best `top_k` are chosen.
pub fn distinct(experts: u32, top_k: u32, tokens: u32, skew: f64) -> f64 {
    /// Popularity at a skew of 1, in units of one token's taste: 64 tokens of the made-up 35B file then need the 136 experts a layer that were measured.
    const SPREAD: f64 = 0.7;
    // More tokens than this find hardly any new experts.
    const MOST: u32 = 512;
    let mut seed = 0x0F0E_BA15;
    let mut normal = || {
        let mut z: u64 = seed;
        seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        let sum: u64 = (0..4).map(|i| (z >> (16 * i)) & 0xFFFF).sum();
        (sum as f64 / 65536.0 - 2.0) * 3f64.sqrt()
    };
    let popular: Vec<f64> = (0..experts).map(|_| normal() * SPREAD * skew).collect();
    let mut seen = vec![false; experts as usize];
    let mut scores: Vec<(f64, usize)> = Vec::with_capacity(popular.len());
    let top_k = (top_k as usize).min(popular.len());
    if top_k == 0 {
        return 0.0;
    }
    for _ in 0..tokens.min(MOST) {
        scores.clear();
        scores.extend(popular.iter().enumerate().map(|(e, p)| (p + normal(), e)));
        scores.select_nth_unstable_by(top_k - 1, |a, b| b.0.total_cmp(&a.0));
        for (_, e) in scores.iter().take(top_k) {
            if let Some(s) = seen.get_mut(*e) {
                *s = true;
            }
        }
    }
    seen.iter().filter(|s| **s).count() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_rise_from_nothing_to_all_and_keep_their_order() {
        for curve in [HitCurve::trained(), HitCurve::synthetic(1.0), HitCurve::synthetic(0.0)] {
            let rates: Vec<Three> = (0..=20).map(|i| curve.at(f64::from(i) / 20.0)).collect();
            assert!(rates.windows(2).all(|w| w[0].expected <= w[1].expected), "{rates:?}");
            assert!(rates.iter().all(|r| r.low <= r.expected && r.expected <= r.high));
            assert_eq!((rates[0].expected, rates[20].expected), (0.0, 1.0));
        }
        assert!((HitCurve::synthetic(1.0).at(0.12).expected - 0.511).abs() < 1e-9);
        assert!((HitCurve::synthetic(0.0).at(0.24).expected - 0.239).abs() < 1e-9);
    }

    #[test]
    fn a_prompt_needs_fewer_experts_where_some_are_popular() {
        let even = distinct(256, 8, 64, 0.0);
        // 256 (1 - (1 - 8/256)^64) = 222.
        assert!((even - 222.0).abs() < 8.0, "{even}");
        // 64 tokens of the synthetic 35B file, whose skew is 1 and a bit, needed 136 experts a layer.
        let uneven = distinct(256, 8, 64, 1.0);
        assert!((125.0..180.0).contains(&uneven), "{uneven}");
        assert_eq!((distinct(8, 8, 1, 1.0), distinct(8, 2, 0, 1.0), distinct(8, 0, 5, 1.0)), (8.0, 0.0, 0.0));
    }
}
