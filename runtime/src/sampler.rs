//! From logits to the next token. The same seed and logits give the same token everywhere.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// How to choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Logits are divided by it; 0 takes the likeliest token.
    pub temperature: f32,
    /// Only the `k` likeliest tokens; 0 for all.
    pub top_k: u32,
    /// Only the likeliest tokens that together reach this probability; 1 for all.
    pub top_p: f32,
    /// Only tokens at least this likely relative to the likeliest; 0 for all.
    pub min_p: f32,
    /// Seed of the random numbers.
    pub seed: u64,
}

impl Params {
    /// Always the likeliest token.
    pub const GREEDY: Params = Params { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };
}

/// Chooses tokens by [`Params`]: temperature first, then top-k, top-p, min-p, as `transformers` orders them.
pub struct Sampler {
    params: Params,
    random: ChaCha12Rng,
    /// Candidates: scaled logit and id. Kept between calls for its memory.
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler at the beginning of its random numbers.
    pub fn new(params: Params) -> Self {
        Sampler { params, random: ChaCha12Rng::seed_from_u64(params.seed), candidates: Vec::new() }
    }

    /// The next token for logits `[vocab]`; `None` if none of them is a number above minus infinity.
    pub fn sample(&mut self, logits: &[f32]) -> Option<u32> {
        let temperature = self.params.temperature;
        if temperature <= 0.0 {
            return argmax(logits);
        }
        // Differences to the maximum keep a tiny temperature from overflowing.
        let best = logits.get(argmax(logits)? as usize).copied()?;
        if best == f32::INFINITY {
            return argmax(logits);
        }
        self.candidates.clear();
        let scaled = logits.iter().zip(0..).map(|(&logit, id)| ((logit - best) / temperature, id));
        self.candidates.extend(scaled.filter(|(logit, _)| *logit > f32::NEG_INFINITY));
        self.keep_top_k();
        self.keep_top_p();
        if self.params.min_p > 0.0 {
            let least = self.params.min_p.min(1.0).ln();
            self.candidates.retain(|(logit, _)| *logit >= least);
        }
        self.draw()
    }

    fn keep_top_k(&mut self) {
        let k = self.params.top_k as usize;
        if k > 0 && k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, likelier);
            self.candidates.truncate(k);
        }
    }

    fn keep_top_p(&mut self) {
        if self.params.top_p >= 1.0 {
            return;
        }
        let all: f64 = self.candidates.iter().map(weight).sum();
        let wanted = all * f64::from(self.params.top_p.max(0.0));
        // Sort no more of a large vocabulary than is needed: twice as many each time until the mass is reached.
        let mut sorted = 64;
        loop {
            sorted = (sorted * 2).min(self.candidates.len());
            if sorted < self.candidates.len() {
                self.candidates.select_nth_unstable_by(sorted - 1, likelier);
            }
            let Some(head) = self.candidates.get_mut(..sorted) else { return };
            head.sort_unstable_by(likelier);
            let mut mass = 0.0;
            let reached = head.iter().position(|candidate| {
                mass += weight(candidate);
                mass >= wanted
            });
            match reached {
                Some(last) => return self.candidates.truncate(last + 1),
                None if sorted == self.candidates.len() => return,
                None => {}
            }
        }
    }

    fn draw(&mut self) -> Option<u32> {
        // A fixed order, whatever the selections above have left.
        self.candidates.sort_unstable_by_key(|&(_, id)| id);
        let total: f64 = self.candidates.iter().map(weight).sum();
        let unit = (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        let mut left = unit * total;
        for candidate in &self.candidates {
            left -= weight(candidate);
            if left < 0.0 {
                return Some(candidate.1);
            }
        }
        // Rounding can leave a trace at the end.
        self.candidates.last().map(|&(_, id)| id)
    }
}

/// Probability up to a common factor.
fn weight(candidate: &(f32, u32)) -> f64 {
    f64::from(candidate.0).exp()
}

/// Descending logit; ties: the lower id first.
fn likelier(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Id of the largest logit; ties: the lowest id. NaN counts as minus infinity.
pub fn argmax(logits: &[f32]) -> Option<u32> {
    let mut best = f32::NEG_INFINITY;
    let mut at = None;
    for (&logit, id) in logits.iter().zip(0..) {
        if logit > best {
            best = logit;
            at = Some(id);
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Params = Params { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 7 };

    fn counts(params: Params, logits: &[f32], draws: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(params);
        let mut counts = vec![0; logits.len()];
        for _ in 0..draws {
            counts[sampler.sample(logits).unwrap() as usize] += 1;
        }
        counts
    }

    fn drawn(params: Params, logits: &[f32]) -> Vec<usize> {
        counts(params, logits, 2000).iter().enumerate().filter(|(_, n)| **n > 0).map(|(id, _)| id).collect()
    }

    #[test]
    fn greedy_takes_the_first_of_equals_and_no_nan() {
        assert_eq!(argmax(&[0.0, 3.0, f32::NAN, 3.0]), Some(1));
        assert_eq!(Sampler::new(Params::GREEDY).sample(&[f32::NAN, -1.0, -1.0]), Some(1));
        for params in [Params::GREEDY, PLAIN] {
            assert_eq!(Sampler::new(params).sample(&[f32::NAN, f32::NEG_INFINITY]), None);
            assert_eq!(Sampler::new(params).sample(&[]), None);
            assert_eq!(Sampler::new(params).sample(&[0.0, f32::INFINITY, f32::INFINITY]), Some(1));
        }
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits: Vec<f32> = [0.5_f32, 0.3, 0.15, 0.05].iter().map(|p| p.ln() + 10.0).collect();
        let counts = counts(PLAIN, &logits, 100_000);
        for (count, p) in counts.iter().zip([0.5, 0.3, 0.15, 0.05]) {
            // Five standard deviations.
            assert!((*count as f64 / 1e5 - p).abs() < 5.0 * (p * (1.0 - p) / 1e5_f64).sqrt(), "{counts:?}");
        }
        // At temperature 1/2 probabilities are squared: 0.25, 0.09, 0.0225, 0.0025 of 0.365.
        let sharper = self::counts(Params { temperature: 0.5, ..PLAIN }, &logits, 100_000);
        assert!((sharper[0] as f64 / 1e5 - 0.25 / 0.365).abs() < 0.01, "{sharper:?}");
    }

    #[test]
    fn cuts_keep_what_they_say() {
        let logits: Vec<f32> = [0.1_f32, 0.4, 0.1, 0.4].iter().map(|p| p.ln()).collect();
        assert_eq!(drawn(Params { top_k: 1, ..PLAIN }, &logits), [1]);
        assert_eq!(drawn(Params { top_k: 3, ..PLAIN }, &logits), [0, 1, 3]);
        assert_eq!(drawn(Params { top_k: 9, ..PLAIN }, &logits), [0, 1, 2, 3]);
        assert_eq!(drawn(Params { top_p: 0.39, ..PLAIN }, &logits), [1]);
        assert_eq!(drawn(Params { top_p: 0.75, ..PLAIN }, &logits), [1, 3]);
        assert_eq!(drawn(Params { top_p: 0.85, ..PLAIN }, &logits), [0, 1, 3]);
        assert_eq!(drawn(Params { top_p: 0.0, ..PLAIN }, &logits), [1]);
        assert_eq!(drawn(Params { min_p: 0.5, ..PLAIN }, &logits), [1, 3]);
        assert_eq!(drawn(Params { min_p: 1.0, ..PLAIN }, &logits), [1, 3]);
        assert_eq!(drawn(Params { min_p: 0.2, ..PLAIN }, &logits), [0, 1, 2, 3]);
        assert_eq!(drawn(Params { temperature: 1e-30, ..PLAIN }, &[1.0, 1.5, 1.4]), [1]);
    }

    #[test]
    fn a_large_vocabulary_is_cut_like_a_small_one() {
        let logits: Vec<f32> = (0..50_000_u32).map(|id| ((id.wrapping_mul(2_654_435_761) >> 8) % 997) as f32 / 300.0).collect();
        let mut order: Vec<u32> = (0..50_000).collect();
        order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        let all: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
        let mut mass = 0.0;
        let kept = order.iter().position(|id| {
            mass += f64::from(logits[*id as usize]).exp() / all;
            mass >= 0.3
        });
        let mut sampler = Sampler::new(Params { top_p: 0.3, ..PLAIN });
        sampler.sample(&logits).unwrap();
        let mut expected: Vec<u32> = order[..=kept.unwrap()].to_vec();
        expected.sort_unstable();
        // Sums in another order may differ in the last digit, which can move the cut by one.
        let ids: Vec<u32> = sampler.candidates.iter().map(|&(_, id)| id).collect();
        assert!(ids.len().abs_diff(expected.len()) <= 1, "{} and {}", ids.len(), expected.len());
        assert!(ids.iter().filter(|id| expected.binary_search(id).is_err()).count() <= 1);
    }

    #[test]
    fn seeds_decide() {
        let logits = vec![0.0; 1000];
        let run = |seed| {
            let mut sampler = Sampler::new(Params { seed, ..PLAIN });
            (0..8).map(|_| sampler.sample(&logits).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        // What a seed gives is part of what users rely on: computed once, not to change.
        assert_eq!(run(42), [526, 542, 636, 405, 34, 414, 737, 849]);
    }
}
