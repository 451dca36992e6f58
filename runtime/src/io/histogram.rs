//! Counts of values by size class, for percentiles of latencies and read sizes. Fixed memory, nothing allocated while counting.

/// Classes to a doubling: a percentile is known to 1/8, about 9%.
const STEPS: usize = 8;
/// Largest power of two that is told apart.
const DOUBLINGS: usize = 44;

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; STEPS * DOUBLINGS],
    total: u64,
    largest: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: [0; STEPS * DOUBLINGS], total: 0, largest: 0 }
    }
}

impl Histogram {
    /// Counts a value.
    pub fn add(&mut self, value: u64) {
        self.counts[class(value)] += 1;
        self.total += 1;
        self.largest = self.largest.max(value);
    }

    /// Values counted.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Upper bound of the class in which the value at `percent` of all lies; `None` if there are none.
    pub fn percentile(&self, percent: f64) -> Option<u64> {
        let rank = ((self.total as f64 * percent / 100.0).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        let class = self.counts.iter().position(|&n| {
            seen += n;
            seen >= rank
        })?;
        Some(bound(class).min(self.largest))
    }

    /// Counts all that `other` has counted.
    pub fn merge(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(other.counts).for_each(|(n, more)| *n += more);
        self.total += other.total;
        self.largest = self.largest.max(other.largest);
    }

    /// What was counted since `before`, an earlier state of this histogram. The largest value is that of all.
    pub fn since(&self, before: &Histogram) -> Histogram {
        let mut counts = self.counts;
        counts.iter_mut().zip(before.counts).for_each(|(n, b)| *n -= b.min(*n));
        Histogram { total: counts.iter().sum(), counts, largest: self.largest }
    }
}

/// Class of a value: below [`STEPS`] the value itself, then [`STEPS`] classes to a doubling.
fn class(value: u64) -> usize {
    if value < STEPS as u64 {
        return value as usize;
    }
    let doubling = value.ilog2() as usize;
    let step = (value >> (doubling - 3)) as usize & (STEPS - 1);
    ((doubling - 2) * STEPS + step).min(STEPS * DOUBLINGS - 1)
}

/// Largest value of a class.
fn bound(class: usize) -> u64 {
    if class < STEPS {
        return class as u64;
    }
    let (doubling, step) = (class / STEPS + 2, class % STEPS);
    (((STEPS + step + 1) as u64) << (doubling - 3)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_in_order_and_hold_their_bounds() {
        for c in 0..STEPS * DOUBLINGS - 1 {
            assert_eq!(class(bound(c)), c);
            assert_eq!(class(bound(c) + 1), c + 1);
        }
        assert_eq!(class(u64::MAX), STEPS * DOUBLINGS - 1);
    }

    #[test]
    fn percentiles_are_at_most_an_eighth_too_large() {
        let mut h = Histogram::default();
        assert_eq!(h.percentile(50.0), None);
        (1..=1000).for_each(|v| h.add(v * 100));
        for (percent, exact) in [(1.0, 1000), (50.0, 50_000), (99.0, 99_000), (100.0, 100_000)] {
            let got = h.percentile(percent).unwrap();
            assert!(got >= exact && got <= exact + exact / 8, "{percent}: {got}");
        }
        let before = h.clone();
        h.add(7);
        let since = h.since(&before);
        assert_eq!((since.total(), since.percentile(50.0), h.largest), (1, Some(7), 100_000));
    }
}
