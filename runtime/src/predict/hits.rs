//! How often an expert is in a window of a given size: from a trace if there is one, else from curves that were measured on other models (docs/cache-policies.md).

use super::Three;
use crate::bench::trace::{Header, Trace, Visit};
use crate::disk::next;
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
/// Deviation of the experts' popularity, in units of what differs from token to token, where nothing is known: 64 tokens of a 35B-A3B shape with routing about as uneven as is
/// published need 136 to 143 experts a layer (measured), which is 0.7.
const TRAINED_SKEW: Three = Three { low: 0.35, expected: 0.7, high: 0.95 };
/// Layers of a simulation: windows are shared among so many.
const SIMULATED_LAYERS: u32 = 8;
/// Tokens of a simulation.
const SIMULATED_TOKENS: u32 = 512;
/// Tokens that count where the window has not settled.
const COUNTED_TOKENS: u32 = 24;
/// Windows at which a trace is replayed, in percent.
const REPLAYED: [f64; 10] = [2.0, 4.0, 7.0, 12.0, 20.0, 30.0, 40.0, 55.0, 70.0, 85.0];
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
            skew: TRAINED_SKEW,
        }
    }

    /// For made-up routing of this skew, with so many experts a layer of which a token uses `top_k`: simulated, and replayed through the window that runs; `after` so many
    /// tokens from an empty window.
    pub fn synthetic(experts: u32, top_k: u32, skew: f64, after: Option<u32>) -> HitCurve {
        let layers = vec![(experts, top_k); SIMULATED_LAYERS as usize];
        let header = Header { pack: String::new(), tokens: String::new(), layers };
        let mut routing: Vec<Routing> = (0..SIMULATED_LAYERS).map(|layer| Routing::new(experts, top_k, skew, u64::from(layer))).collect();
        let mut visits = Vec::new();
        let tokens = after.map_or(SIMULATED_TOKENS, |after| after.min(SIMULATED_TOKENS) + COUNTED_TOKENS);
        for position in 0..tokens {
            for (layer, routing) in (0..).zip(&mut routing) {
                visits.push(Visit { prompt: false, position, layer, experts: routing.choose().to_vec() });
            }
        }
        HitCurve {
            source: format!("made-up routing of skew {skew}, simulated"),
            skew: Three { low: skew * 0.85, expected: skew, high: skew * 1.15 },
            points: points(&Trace { header, visits }, after.map(|after| after.min(SIMULATED_TOKENS))),
        }
    }

    /// From a trace, replayed through the window that runs. The first quarter fills the window and does not count.
    pub fn replayed(trace: &Trace, name: &str) -> HitCurve {
        HitCurve { source: format!("the trace {name}, replayed"), points: points(trace, None), skew: TRAINED_SKEW }
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

/// A trace replayed at all windows. What counts are the tokens from position `after` on; without it the last three quarters.
fn points(trace: &Trace, after: Option<u32>) -> Vec<(f64, Three)> {
    let Some(shape) = Shape::new(trace.header.layers.iter().copied()) else { return Vec::new() };
    let rate = |&percent: &f64| {
        let slots = ((shape.keys() as f64 * percent / 100.0) as u32).max(1);
        replay(trace, &shape, slots, after).map(|rate| (percent / 100.0, around(rate)))
    };
    REPLAYED.iter().filter_map(rate).collect()
}

fn around(rate: f64) -> Three {
    Three { low: (rate - SPREAD).max(0.0), expected: rate, high: (rate + SPREAD).min(1.0) }
}

/// Hit rate of what counts of a trace; `None` if it has too little, or a window of this size cannot hold a step.
fn replay(trace: &Trace, shape: &Shape, slots: u32, after: Option<u32>) -> Option<f64> {
    let mut state = State::new(shape.clone(), slots, Policy::new(shape));
    let mut reads = ReadPlan::for_state(&state);
    let single: Vec<_> = trace.visits.iter().filter(|v| !v.prompt && !v.experts.is_empty()).collect();
    let (mut hits, mut asked) = (0usize, 0usize);
    for (i, visit) in single.iter().enumerate() {
        plan(&state, visit.layer, &visit.experts, Purpose::Decode, false, &mut reads).ok()?;
        state.apply(&reads);
        if after.map_or(i >= single.len() / 4, |after| visit.position >= after) {
            hits += reads.hits.len();
            asked += visit.experts.len();
        }
    }
    (asked > 0).then(|| hits as f64 / asked as f64)
}

/// Experts of a layer that at least one of `tokens` tokens chooses, by simulation: the mean of a few layers.
pub fn distinct(experts: u32, top_k: u32, tokens: u32, skew: f64) -> f64 {
    // More tokens than this find hardly any new experts.
    const MOST: u32 = 1024;
    const LAYERS: u32 = 4;
    let of = |layer: u32| {
        let mut routing = Routing::new(experts, top_k, skew, u64::from(layer));
        let mut seen = vec![false; experts as usize];
        for _ in 0..tokens.min(MOST) {
            for &e in routing.choose() {
                if let Some(s) = seen.get_mut(e as usize) {
                    *s = true;
                }
            }
        }
        seen.iter().filter(|s| **s).count() as f64
    };
    (0..LAYERS).map(of).sum::<f64>() / f64::from(LAYERS)
}

/// Share of a token's choices that one of the `after` tokens before made too: the hit rate of a window that has room for all that they chose.
pub fn chosen_before(experts: u32, top_k: u32, after: u32, skew: f64) -> f64 {
    const TOKENS: u32 = 16;
    let new = distinct(experts, top_k, after + TOKENS, skew) - distinct(experts, top_k, after, skew);
    1.0 - new / f64::from(TOKENS * top_k.max(1))
}

/// Routing of one layer by chance: an expert's score is its popularity (of a deviation that is the skew) plus what differs from token to token (of deviation 1), and the
/// best `top_k` are chosen. It is what `forebay-repack synth` builds into its routers.
struct Routing {
    random: u64,
    popular: Vec<f64>,
    scores: Vec<(f64, u32)>,
    chosen: Vec<u32>,
    top_k: usize,
}

impl Routing {
    fn new(experts: u32, top_k: u32, skew: f64, layer: u64) -> Routing {
        let mut routing = Routing {
            random: 0x0F0E_BA15 ^ layer << 32,
            popular: Vec::new(),
            scores: Vec::new(),
            chosen: Vec::new(),
            top_k: top_k.min(experts) as usize,
        };
        routing.popular = (0..experts).map(|_| routing.normal() * skew).collect();
        routing
    }

    /// About normal: the sum of four uniform numbers.
    fn normal(&mut self) -> f64 {
        let bits = next(&mut self.random);
        let sum: u64 = (0..4).map(|i| (bits >> (16 * i)) & 0xFFFF).sum();
        (sum as f64 / 65536.0 - 2.0) * 3f64.sqrt()
    }

    /// What the next token chooses.
    fn choose(&mut self) -> &[u32] {
        let mut scores = std::mem::take(&mut self.scores);
        scores.clear();
        for expert in 0..self.popular.len() {
            let popular = self.popular.get(expert).copied().unwrap_or(0.0);
            scores.push((popular + self.normal(), expert as u32));
        }
        self.chosen.clear();
        if self.top_k > 0 {
            scores.select_nth_unstable_by(self.top_k - 1, |a, b| b.0.total_cmp(&a.0));
            self.chosen.extend(scores.iter().take(self.top_k).map(|s| s.1));
        }
        self.scores = scores;
        &self.chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_rise_from_nothing_to_all_and_keep_their_order() {
        for curve in [HitCurve::trained(), HitCurve::synthetic(256, 8, 1.0, None), HitCurve::synthetic(128, 8, 0.0, None)] {
            let rates: Vec<Three> = (0..=20).map(|i| curve.at(f64::from(i) / 20.0)).collect();
            assert!(rates.windows(2).all(|w| w[0].expected <= w[1].expected), "{rates:?}");
            assert!(rates.iter().all(|r| r.low <= r.expected && r.expected <= r.high));
            assert_eq!((rates[0].expected, rates[20].expected), (0.0, 1.0));
        }
        // Half or more in an eighth at a skew of 1, and no more than the window's share of uniform choices.
        let uneven = HitCurve::synthetic(256, 8, 1.0, None).at(0.12).expected;
        assert!((0.4..0.75).contains(&uneven), "{uneven}");
        let even = HitCurve::synthetic(256, 8, 0.0, None).at(0.2).expected;
        assert!((0.17..0.21).contains(&even), "{even}");
        let fresh = HitCurve::synthetic(256, 8, 1.0, Some(16)).at(0.5).expected;
        assert!(
            fresh < HitCurve::synthetic(256, 8, 1.0, None).at(0.5).expected && (fresh - chosen_before(256, 8, 28, 1.0)).abs() < 0.1,
            "{fresh}"
        );
    }

    #[test]
    fn a_prompt_needs_fewer_experts_where_some_are_popular() {
        let even = distinct(256, 8, 64, 0.0);
        // 256 (1 - (1 - 8/256)^64) = 222.
        assert!((even - 222.0).abs() < 8.0, "{even}");
        // 64 tokens of the converted 35B file needed 136 to 143 experts a layer.
        let uneven = distinct(256, 8, 64, TRAINED_SKEW.expected);
        assert!((120.0..160.0).contains(&uneven), "{uneven}");
        assert_eq!((distinct(8, 8, 1, 1.0), distinct(8, 2, 0, 1.0), distinct(8, 0, 5, 1.0)), (8.0, 0.0, 0.0));
    }
}
