//! Counts of scores: how high the sketch scores neurons that fire, and all of them, layer by layer. Bounded memory, whatever the text's length.

/// Bins of an octave, and octaves on either side of zero: from 2^-16 to 2^16. A threshold is thus known to 3%.
const OCTAVE: usize = 32;
const BINS: usize = 32 * OCTAVE;
/// Bits of a float below its exponent and the first five of its fraction.
const SHIFT: u32 = 18;
/// The smallest magnitude that is told apart from zero, 2^-16, in the same units.
const LEAST: u32 = (127 - 16) << 5;

/// Counts of one layer.
#[derive(Clone, Debug)]
struct Counts {
    firing: Vec<u64>,
    all: Vec<u64>,
}

/// Counts of all layers.
#[derive(Clone, Debug)]
pub struct Tally {
    layers: Vec<Counts>,
}

/// Place of a score among the bins, which are in order.
fn bin(score: f32) -> usize {
    let magnitude = ((score.abs().to_bits() >> SHIFT).saturating_sub(LEAST) as usize).min(BINS - 1);
    if score < 0.0 { BINS - 1 - magnitude } else { BINS + magnitude }
}

/// The largest number below all scores of a bin.
fn below(bin: usize) -> f32 {
    match bin.checked_sub(BINS) {
        // What counts as zero lies in the first bin above it.
        Some(0) => -f32::MIN_POSITIVE,
        Some(magnitude) => f32::from_bits(((magnitude as u32 + LEAST) << SHIFT) - 1),
        None => -f32::from_bits(((BINS - bin) as u32 + LEAST) << SHIFT),
    }
}

impl Tally {
    /// Nothing counted yet, for so many layers.
    pub fn new(layers: usize) -> Tally {
        Tally { layers: vec![Counts { firing: vec![0; 2 * BINS], all: vec![0; 2 * BINS] }; layers] }
    }

    /// Counts neurons of a layer: their scores, and whether they fire.
    pub fn add(&mut self, layer: u32, scores: &[f32], fires: impl Fn(usize) -> bool) {
        let Some(counts) = self.layers.get_mut(layer as usize) else { return };
        for (i, &score) in scores.iter().enumerate() {
            counts.all[bin(score)] += 1;
            counts.firing[bin(score)] += u64::from(fires(i));
        }
    }

    /// Share of a layer's neurons that fire.
    pub fn active(&self, layer: usize) -> f64 {
        let sum = |list: &[u64]| list.iter().sum::<u64>() as f64;
        self.layers.get(layer).map_or(0.0, |c| sum(&c.firing) / sum(&c.all).max(1.0))
    }

    /// The score above which a share `recall` of a layer's firing neurons lies, at least; `None` if nothing was counted.
    pub fn threshold(&self, layer: usize, recall: f64) -> Option<f32> {
        let counts = self.layers.get(layer)?;
        let firing: u64 = counts.firing.iter().sum();
        if counts.all.iter().sum::<u64>() == 0 {
            return None;
        }
        let wanted = recall * firing as f64;
        let mut found = 0;
        for bin in (0..2 * BINS).rev() {
            found += counts.firing[bin];
            if found as f64 >= wanted && found > 0 {
                return Some(below(bin));
            }
        }
        // A layer in which nothing fires: only what scores higher than anything has.
        Some(below(2 * BINS - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_in_order_and_their_bounds_are_below_them() {
        let mut scores: Vec<f32> = (-200..200).map(|i| i as f32 * 0.37).collect();
        scores.extend([0.0, -0.0, 1e-9, -1e-9, 1e9, -1e9, 2e-5, -2e-5]);
        scores.sort_by(f32::total_cmp);
        assert!(scores.windows(2).all(|w| bin(w[0]) <= bin(w[1]) || w[0] == w[1]));
        for &s in scores.iter().filter(|s| s.abs() < 6e4) {
            assert!(below(bin(s)) < s || s == 0.0, "{s}: {}", below(bin(s)));
            assert!((below(bin(s)) - s).abs() <= s.abs() * 0.04 + 2e-5, "{s}: {}", below(bin(s)));
        }
    }

    #[test]
    fn thresholds_find_the_share_that_was_asked_for() {
        let mut tally = Tally::new(2);
        // Scores 0.01, 0.02, ..., 10; those above 5 fire.
        let scores: Vec<f32> = (1..=1000).map(|i| i as f32 / 100.0).collect();
        tally.add(0, &scores, |i| scores[i] > 5.0);
        assert!((tally.active(0) - 0.5).abs() < 1e-9);
        for recall in [0.5, 0.9, 0.99, 1.0] {
            let threshold = tally.threshold(0, recall).unwrap();
            let found = scores.iter().filter(|&&s| s > 5.0 && s > threshold).count() as f64 / 500.0;
            assert!((recall..recall + 0.06).contains(&found), "{recall}: {found}");
        }
        assert_eq!(tally.threshold(1, 0.9), None);
        tally.add(1, &scores, |_| false);
        assert!(tally.threshold(1, 0.9).unwrap() > 1e4);
        tally.add(7, &scores, |_| true);
    }
}
