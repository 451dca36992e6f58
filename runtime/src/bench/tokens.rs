//! Tokens to measure with.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// `count` ids below `vocab`, uniformly random; the same seed gives the same ids everywhere, and a longer list starts with the shorter one. Empty for an
/// empty vocabulary.
pub fn random(seed: u64, vocab: u32, count: usize) -> Vec<u32> {
    if vocab == 0 {
        return Vec::new();
    }
    let mut random = ChaCha12Rng::seed_from_u64(seed);
    // The high half of the product of a 32-bit number and the vocabulary: biased by less than vocab / 2^32.
    (0..count).map(|_| ((u64::from(random.next_u32()) * u64::from(vocab)) >> 32) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::random;

    #[test]
    fn seeds_decide_and_lists_grow() {
        let ids = random(1, 1000, 500);
        assert!(ids.iter().all(|&id| id < 1000) && ids.iter().any(|&id| id >= 900) && ids.iter().any(|&id| id < 100));
        assert_eq!(random(1, 1000, 100), ids[..100]);
        assert_ne!(random(2, 1000, 500), ids);
        // What a seed gives must not change: measurements are compared across versions.
        assert_eq!(random(1, 248_320, 4), FROZEN);
        assert!(random(1, 0, 5).is_empty());
    }

    const FROZEN: [u32; 4] = [204_852, 241_924, 197_930, 171_647];
}
