//! Random numbers that are found by place: any row of any tensor, on any thread, is the same for the same seed.

/// SplitMix64 (Steele, Lea and Flood 2014).
pub struct Random(u64);

impl Random {
    /// The stream of this place.
    pub fn at(seed: u64, place: [u64; 2]) -> Self {
        let mut random = Random(seed);
        for part in place {
            random.0 ^= part;
            random.0 = random.bits();
        }
        random
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Mean 0, deviation 1, at most 3.5 in size: the sum of four uniform numbers (Irwin and Hall).
    pub fn normal(&mut self) -> f32 {
        let bits = self.bits();
        let sum: u64 = (0..4).map(|i| (bits >> (16 * i)) & 0xFFFF).sum();
        (sum as f32 / 65536.0 - 2.0) * 3f32.sqrt()
    }

    /// Uniform in 0 .. 1.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn places_have_streams_of_their_own_and_normals_are_normal() {
        let bits = |place| Random::at(1, place).bits();
        assert_eq!(bits([2, 3]), bits([2, 3]));
        assert!(bits([2, 3]) != bits([3, 2]) && bits([2, 3]) != bits([2, 4]) && bits([2, 3]) != Random::at(2, [2, 3]).bits());
        let mut random = Random::at(1, [0, 0]);
        let values: Vec<f64> = (0..20_000).map(|_| f64::from(random.normal())).collect();
        let mean = values.iter().sum::<f64>() / 20_000.0;
        let square = values.iter().map(|v| v * v).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03 && (square - 1.0).abs() < 0.03, "{mean} {square}");
    }
}
