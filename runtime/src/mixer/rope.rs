//! Rotary position encoding (Su et al. 2021) with its frequency scalings.
//!
//! Frequencies and angles are computed in f32, in the order the published weights were trained with (`1 / theta^(2i/dim)`, times the position); a more
//! exact angle would be a different model at long positions.

use forebay_format::model::{Rope, RopePairing, RopeScaling};

/// Frequencies of one rotary encoding. Layers with equal encodings share one.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// Radians per position of each pair.
    frequencies: Vec<f32>,
    /// Multiplies cosines and sines.
    magnitude: f32,
    pairing: RopePairing,
}

impl RopeTable {
    /// The table of `rope`.
    pub fn new(rope: &Rope) -> Self {
        let pairs = rope.dim as usize / 2;
        let base: Vec<f32> = (0..pairs).map(|i| rope.theta.powf((2 * i) as f32 as f64 / rope.dim as f64) as f32).collect();
        let (frequencies, magnitude) = match &rope.scaling {
            RopeScaling::None => (base.iter().map(|p| 1.0 / p).collect(), 1.0),
            RopeScaling::Linear { factor } => (base.iter().map(|p| 1.0 / p / factor).collect(), 1.0),
            RopeScaling::Factors { factors } => (base.iter().zip(factors).map(|(p, f)| 1.0 / p / f).collect(), 1.0),
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, truncate } => {
                let end = |rotations: f32| {
                    let turns = *original_context as f64 / (rotations as f64 * 2.0 * std::f64::consts::PI);
                    rope.dim as f64 * turns.ln() / (2.0 * rope.theta.ln())
                };
                let (mut low, mut high) = (end(*beta_fast), end(*beta_slow));
                if *truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                let (low, mut high) = (low.max(0.0), high.min(rope.dim as f64 - 1.0));
                if low == high {
                    high += 0.001; // the ramp must have a length
                }
                let interpolated = |i: usize| ((i as f64 - low) / (high - low)).clamp(0.0, 1.0) as f32;
                let blend = |(i, p): (usize, &f32)| {
                    let keep = 1.0 - interpolated(i);
                    1.0 / (factor * p) * (1.0 - keep) + 1.0 / p * keep
                };
                (base.iter().enumerate().map(blend).collect(), *attention_factor)
            }
        };
        RopeTable { frequencies, magnitude, pairing: rope.pairing }
    }

    /// Pairs that rotate.
    pub fn pairs(&self) -> usize {
        self.frequencies.len()
    }

    /// Writes the turn of `position`: `pairs` cosines, then `pairs` sines.
    pub fn turn(&self, position: usize, out: &mut [f32]) {
        let (cosines, sines) = out.split_at_mut(self.pairs());
        for ((frequency, c), s) in self.frequencies.iter().zip(cosines).zip(sines) {
            let angle = (position as f32 * frequency) as f64;
            *c = angle.cos() as f32 * self.magnitude;
            *s = angle.sin() as f32 * self.magnitude;
        }
    }

    /// Rotates one head by a turn written by [`RopeTable::turn`].
    pub fn rotate(&self, turn: &[f32], head: &mut [f32]) {
        let pairs = self.pairs();
        let (cosines, sines) = turn.split_at(pairs);
        match self.pairing {
            RopePairing::Halves => {
                let (low, high) = head.split_at_mut(pairs);
                for (((x, y), c), s) in low.iter_mut().zip(high).zip(cosines).zip(sines) {
                    (*x, *y) = (*x * c - *y * s, *y * c + *x * s);
                }
            }
            RopePairing::Adjacent => {
                for ((pair, c), s) in head.chunks_exact_mut(2).zip(cosines).zip(sines) {
                    let (x, y) = (pair[0], pair[1]);
                    (pair[0], pair[1]) = (x * c - y * s, y * c + x * s);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(theta: f64, dim: u32, scaling: RopeScaling) -> Rope {
        Rope { theta, dim, pairing: RopePairing::Halves, scaling }
    }

    /// `1.0 / (1e7 ** (torch.arange(0, 8, 2).float() / 8))` and its cosines at position 200.
    #[test]
    fn frequencies_are_the_f32_ones() {
        let table = RopeTable::new(&rope(1e7, 8, RopeScaling::None));
        assert_eq!(table.frequencies, [1.0, 1.0 / 56.234_133, 1.0 / 3_162.277_6, 1.0 / 177_827.94]);
        let mut turn = [0.0; 8];
        table.turn(200, &mut turn);
        let exact = [200f64, 200.0 / 56.234_132_519, 200.0 / 3_162.277_660_17, 200.0 / 177_827.941];
        for i in 0..4 {
            assert!((turn[i] as f64 - exact[i].cos()).abs() < 1e-6, "cos {i}");
            assert!((turn[4 + i] as f64 - exact[i].sin()).abs() < 1e-6, "sin {i}");
        }
    }

    #[test]
    fn pairings_turn_the_same_plane() {
        let halves = RopeTable::new(&rope(10000.0, 4, RopeScaling::None));
        let adjacent = RopeTable::new(&Rope { pairing: RopePairing::Adjacent, ..rope(10000.0, 4, RopeScaling::None) });
        let mut turn = [0.0; 4];
        halves.turn(7, &mut turn);
        let (mut a, mut b) = ([1.0, 2.0, 3.0, 4.0, 9.0], [1.0, 3.0, 2.0, 4.0, 9.0]);
        halves.rotate(&turn, &mut a);
        adjacent.rotate(&turn, &mut b);
        assert_eq!([a[0], a[2], a[1], a[3], a[4]], b);
        assert_eq!(a[4], 9.0, "beyond dim nothing turns");
        assert!((a[0] - (7f32.cos() - 3.0 * 7f32.sin())).abs() < 1e-6);
        assert!((a[2] - (3.0 * 7f32.cos() + 7f32.sin())).abs() < 1e-6);
    }

    #[test]
    fn scalings_divide_frequencies() {
        let plain = RopeTable::new(&rope(10000.0, 8, RopeScaling::None)).frequencies;
        let linear = RopeTable::new(&rope(10000.0, 8, RopeScaling::Linear { factor: 4.0 })).frequencies;
        let factors = vec![1.0, 2.0, 4.0, 8.0];
        let by_pair = RopeTable::new(&rope(10000.0, 8, RopeScaling::Factors { factors })).frequencies;
        for i in 0..4 {
            assert_eq!(linear[i], plain[i] / 4.0);
            assert_eq!(by_pair[i], plain[i] / (1 << i) as f32);
        }
    }

    /// Against transformers' `_compute_yarn_parameters` with dim 8, base 150000, factor 32, original context 4096, betas 32 and 1: the correction range is
    /// `[1.0116, 2.1748]` (`[1, 3]` truncated).
    #[test]
    fn yarn_interpolates_between_the_betas() {
        let yarn = |truncate| RopeScaling::Yarn {
            factor: 32.0,
            original_context: 4096,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 1.3466,
            truncate,
        };
        let plain = RopeTable::new(&rope(150000.0, 8, RopeScaling::None)).frequencies;
        let range = |r: f64| 8.0 * (4096.0 / (r * std::f64::consts::TAU)).ln() / (2.0 * 150000f64.ln());
        for (truncate, low, high) in [(true, range(32.0).floor(), range(1.0).ceil()), (false, range(32.0), range(1.0))] {
            let table = RopeTable::new(&rope(150000.0, 8, yarn(truncate)));
            for (i, (f, p)) in table.frequencies.iter().zip(&plain).enumerate() {
                let t = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                let want = *p as f64 / 32.0 * t + *p as f64 * (1.0 - t);
                assert!((*f as f64 / want - 1.0).abs() < 1e-6, "pair {i}: {f} {want}");
            }
            assert_eq!(table.frequencies[0], plain[0]);
            let mut turn = [0.0; 8];
            table.turn(0, &mut turn);
            assert_eq!(turn[..4], [1.3466; 4]);
        }
    }
}
