//! How often neurons of a made-up network fire, and for how long.
//!
//! A network's input is normalised: its values have mean square 1. A row of deviation `1 / sqrt(hidden)` makes of it a pre-activation that is normal with deviation 1
//! over the neurons, so a bias of minus the (1 - share) quantile lets that share fire. Two tokens whose inputs have correlation `r` have pre-activations with correlation `r`;
//! what they share is the common direction of all embeddings, whose part of the energy is thus `r`. It makes some neurons fire for nearly every token and most for none.

use crate::error::{Error, Result};

/// Shares of neurons.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Firing {
    /// Neurons that fire for a token, of all.
    pub active: f64,
    /// Of those, neurons that fire for another token too.
    pub overlap: f64,
}

impl Firing {
    /// Fails unless both shares can be had.
    pub fn check(self) -> Result<()> {
        if !(self.active > 0.0 && self.active < 0.5) {
            return Err(Error::Usage("--active must be above 0% and below 50%".into()));
        }
        if !(self.overlap > self.active && self.overlap < 1.0) {
            return Err(Error::Usage("--overlap must be above --active (what chance gives) and below 100%".into()));
        }
        Ok(())
    }

    /// What a pre-activation of deviation 1 exceeds with probability `active`.
    pub fn threshold(self) -> f64 {
        bisect(0.0, 8.0, |t| normal_tail(t) < self.active)
    }

    /// Correlation of two tokens' pre-activations.
    pub fn correlation(self) -> f64 {
        let threshold = self.threshold();
        bisect(0.0, 1.0 - 1e-9, |r| both(threshold, r) > self.overlap * self.active)
    }
}

/// Where `beyond` becomes true between `low` and `high`.
fn bisect(mut low: f64, mut high: f64, beyond: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if beyond(middle) { high = middle } else { low = middle }
    }
    (low + high) / 2.0
}

fn density(x: f64) -> f64 {
    (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// Probability that a normal number exceeds `x`: Zelen and Severo 1964 (Abramowitz and Stegun 26.2.17), to 7.5e-8.
fn normal_tail(x: f64) -> f64 {
    if x < 0.0 {
        return 1.0 - normal_tail(-x);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * x);
    let terms = [0.319_381_530, -0.356_563_782, 1.781_477_937, -1.821_255_978, 1.330_274_429];
    density(x) * t * terms.iter().rev().fold(0.0, |sum, term| sum * t + term)
}

/// Probability that two normal numbers of correlation `r` both exceed `t`.
fn both(t: f64, r: f64) -> f64 {
    const STEPS: u32 = 4000;
    let width = 10.0 / f64::from(STEPS);
    let own = (1.0 - r * r).sqrt();
    let at = |i: u32| {
        let x = t + (f64::from(i) + 0.5) * width;
        density(x) * normal_tail((t - r * x) / own)
    };
    (0..STEPS).map(at).sum::<f64>() * width
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_come_back() {
        for (active, quantile) in [(0.03, 1.880_794), (0.1, 1.281_552), (0.001, 3.090_232)] {
            let threshold = Firing { active, overlap: 0.5 }.threshold();
            assert!((threshold - quantile).abs() < 1e-4, "{threshold}");
        }
        for overlap in [0.1, 0.5, 0.75, 0.9] {
            let firing = Firing { active: 0.03, overlap };
            let r = firing.correlation();
            assert!((both(firing.threshold(), r) / 0.03 - overlap).abs() < 1e-4, "{r}");
        }
        // Without correlation, chance: the square.
        assert!((both(1.880_794, 0.0) - 0.0009).abs() < 1e-6);
        for (active, overlap) in [(0.0, 0.5), (0.6, 0.9), (0.03, 0.02), (0.03, 1.0), (f64::NAN, 0.5)] {
            assert!(Firing { active, overlap }.check().is_err(), "{active} {overlap}");
        }
    }
}
