//! Medians and percentiles.

use std::time::Duration;

/// Middle value, the mean of the two middle ones for an even count; `None` for no values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get((sorted.len() - 1) / 2)?;
    Some(lower + (upper - lower) / 2.0)
}

/// Percentile by nearest rank: the smallest value that at least `percent` of all values do not exceed. `percent` is 0 to 100; `None` for no values.
pub fn percentile(times: &[Duration], percent: f64) -> Option<Duration> {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let ms = |n: u64| Duration::from_millis(n);
        let times: Vec<Duration> = (1..=100).rev().map(ms).collect();
        for (percent, want) in [(0.0, 1), (0.5, 1), (1.0, 1), (50.0, 50), (98.5, 99), (99.0, 99), (99.1, 100), (100.0, 100)] {
            assert_eq!(percentile(&times, percent), Some(ms(want)), "{percent}");
        }
        assert_eq!(percentile(&[ms(7)], 99.0), Some(ms(7)));
        assert_eq!(percentile(&[ms(7), ms(9)], 50.0), Some(ms(7)));
        assert_eq!(percentile(&[], 50.0), None);
    }
}
