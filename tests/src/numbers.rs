//! Comparing logits.

/// Position of the largest value; the first of equal ones.
pub fn argmax(row: &[f32]) -> u32 {
    let best = row.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &x)| if x > best.1 { (i, x) } else { best });
    best.0 as u32
}

/// Largest absolute difference; infinite if a value is not a number or the lengths differ.
pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::INFINITY;
    }
    let pairs = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    pairs.fold(0.0, |m, d| if d.is_nan() { f32::INFINITY } else { m.max(d) })
}

/// Root of the mean squared difference.
pub fn rms_difference(a: &[f32], b: &[f32]) -> f64 {
    let sum: f64 = a.iter().zip(b).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum();
    (sum / a.len() as f64).sqrt()
}

/// Standard deviation.
pub fn deviation(values: &[f32]) -> f64 {
    let mean = values.iter().map(|&x| x as f64).sum::<f64>() / values.len() as f64;
    (values.iter().map(|&x| (x as f64 - mean).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
}

/// Natural logarithms of the softmax.
pub fn log_softmax(row: &[f32]) -> Vec<f64> {
    let max = row.iter().fold(f64::NEG_INFINITY, |m, &x| m.max(x as f64));
    let sum: f64 = row.iter().map(|&x| (x as f64 - max).exp()).sum();
    row.iter().map(|&x| x as f64 - max - sum.ln()).collect()
}

/// Kullback-Leibler divergence of softmax(`other`) from softmax(`truth`), in nats.
pub fn kl(truth: &[f32], other: &[f32]) -> f64 {
    let (p, q) = (log_softmax(truth), log_softmax(other));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
}

/// Middle value (the upper one of two).
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Arithmetic mean.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]), 1);
        assert_eq!(largest_difference(&[1.0, 2.0], &[1.5, f32::NAN]), f32::INFINITY);
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert!((kl(&[0.0, 0.0], &[0.0, 3f32.ln()]) - (0.5 * (2f64).ln() + 0.5 * (2.0f64 / 3.0).ln())).abs() < 1e-6);
        assert!((deviation(&[1.0, 3.0]) - 1.0).abs() < 1e-12);
    }
}
