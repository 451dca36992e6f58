//! Learning thresholds from a text, and measuring on the rest of it what they cost.

use super::{Calibration, Firing, Layer, RECALLS, Row};
use crate::engine::{Engine, Wanted};
use crate::error::{Error, Result};

/// Most memory for the logits of a chunk: they are not in the engine's budget, but small against its margin.
const LOGITS_BYTES: usize = 8 << 20;

/// Called with the tokens done so far; an error ends the measurement.
pub type Watch<'a> = &'a mut dyn FnMut(usize) -> Result<()>;

/// Tokens that are fed for chunks of so many tokens.
pub fn work(chunks: &[Vec<u32>]) -> usize {
    let (learned, scored) = split(chunks);
    let count = |part: &[Vec<u32>]| part.iter().map(Vec::len).sum::<usize>();
    count(learned) + count(scored) * (1 + RECALLS.len())
}

/// The first half, to learn from, and the second, to measure with; one chunk is both.
fn split(chunks: &[Vec<u32>]) -> (&[Vec<u32>], &[Vec<u32>]) {
    let (learned, scored) = chunks.split_at(chunks.len().div_ceil(2));
    (learned, if scored.is_empty() { learned } else { scored })
}

/// Calibrates a model that was opened with exact sparsity. Its sequence is empty and its sparsity exact afterwards.
///
/// # Errors
/// [`Error::Request`] if the pack has no neuron groups or there are no tokens; those of [`Engine::feed`] and of `watch`.
pub fn calibrate(engine: &mut Engine, chunks: &[Vec<u32>], watch: Watch<'_>) -> Result<Calibration> {
    let (learned, scored) = split(chunks);
    if engine.plan().groups == 0 {
        return Err(Error::Request("the pack has no neuron groups: there is nothing to calibrate".into()));
    }
    let [whole, kept] = engine.group_bytes();
    let start = engine.neuron_counts();
    engine.start_tally();
    for chunk in learned {
        engine.reset();
        engine.feed(chunk, Wanted::Last, &mut |_, _| ())?;
        watch(chunk.len())?;
    }
    let found = engine.neuron_counts().since(&start);
    let tally = engine.take_tally().ok_or_else(|| Error::Request("no neurons were counted".into()))?;
    let layers = (0..engine.manifest().spec.layers.len()).map(|number| {
        let thresholds: Option<Vec<f32>> = RECALLS.iter().map(|&recall| tally.threshold(number, recall)).collect();
        Layer { active: tally.active(number), thresholds: thresholds.unwrap_or_default() }
    });
    let mut calibration = Calibration {
        tokens: learned.iter().map(|c| c.len() as u64).sum(),
        scored: 0,
        firing: Firing { groups: found.asked_share(), again: found.again_share(), bytes: (found.asked_share() * kept as f64) as u64 },
        table: RECALLS.iter().map(|&recall| Row { recall, read: 0.0, bytes: 0, kl: 0.0, perplexity_change: 0.0 }).collect(),
        layers: layers.collect(),
    };
    let mut exact = Exact::default();
    let mut worse = [0.0; RECALLS.len()];
    let mut read = [(0u64, 0u64); RECALLS.len()];
    for chunk in scored {
        let rows = exact.feed(engine, chunk)?;
        watch(chunk.len())?;
        calibration.scored += rows as u64;
        for (i, row) in calibration.table.iter_mut().enumerate() {
            engine.predict(&calibration.layers, Some(i));
            let before = engine.neuron_counts();
            let compared = exact.compare(engine, chunk, rows);
            let after = engine.neuron_counts();
            engine.predict(&calibration.layers, None);
            let (kl, nats) = compared?;
            row.kl += kl;
            worse[i] += nats;
            read[i] = (read[i].0 + after.asked - before.asked, read[i].1 + after.groups - before.groups);
            watch(chunk.len())?;
        }
    }
    engine.reset();
    let scored = (calibration.scored as f64).max(1.0);
    for ((row, worse), (asked, groups)) in calibration.table.iter_mut().zip(worse).zip(read) {
        row.kl = (row.kl / scored).max(0.0);
        row.perplexity_change = (worse / scored).exp() - 1.0;
        row.read = asked as f64 / groups.max(1) as f64;
        row.bytes = (row.read * whole as f64) as u64;
    }
    Ok(calibration)
}

/// What the exact computation says of the last tokens of a chunk.
#[derive(Default)]
pub struct Exact {
    /// Logarithms of probabilities, row after row.
    logs: Vec<f32>,
}

impl Exact {
    /// Computes a chunk; how many of its last rows count.
    ///
    /// # Errors
    /// Those of [`Engine::feed`].
    pub fn feed(&mut self, engine: &mut Engine, chunk: &[u32]) -> Result<usize> {
        let vocab = engine.manifest().spec.vocab as usize;
        let rows = (LOGITS_BYTES / size_of::<f32>() / vocab).clamp(1, (chunk.len() / 2).max(1)).min(chunk.len().saturating_sub(1));
        self.logs.clear();
        let logs = &mut self.logs;
        each(engine, chunk, rows, &mut |_, row| logs.extend(row.iter().copied()))?;
        self.logs.chunks_exact_mut(vocab).for_each(log_softmax);
        Ok(rows)
    }

    /// Sums over the rows of the KL divergence, and of how much less likely, in nats, the text's next tokens are now.
    ///
    /// # Errors
    /// Those of [`Engine::feed`].
    pub fn compare(&self, engine: &mut Engine, chunk: &[u32], rows: usize) -> Result<(f64, f64)> {
        let vocab = engine.manifest().spec.vocab as usize;
        let (mut kl, mut nats) = (0.0, 0.0);
        let mut want = self.logs.chunks_exact(vocab);
        let mut own = Vec::with_capacity(vocab);
        each(engine, chunk, rows, &mut |position, row| {
            own.clear();
            own.extend_from_slice(row);
            log_softmax(&mut own);
            let Some(want) = want.next() else { return };
            kl += divergence(want, &own);
            if let Some(&next) = chunk.get(position + 1) {
                let at = |logs: &[f32]| logs.get(next as usize).map_or(0.0, |&l| f64::from(l));
                nats += at(want) - at(&own);
            }
        })?;
        Ok((kl, nats))
    }
}

/// Feeds a chunk but for its last token, which is only predicted, and hands out the logits of the last `rows`.
fn each(engine: &mut Engine, chunk: &[u32], rows: usize, sink: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
    engine.reset();
    let fed = chunk.len().saturating_sub(1);
    let (first, last) = chunk[..fed].split_at(fed - rows.min(fed));
    engine.feed(first, Wanted::Last, &mut |_, _| ())?;
    engine.feed(last, Wanted::All, sink)
}

/// Logits to logarithms of probabilities.
pub fn log_softmax(row: &mut [f32]) {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = row.iter().map(|&x| f64::from(x - most).exp()).sum();
    let shift = f64::from(most) + total.ln();
    row.iter_mut().for_each(|x| *x = (f64::from(*x) - shift) as f32);
}

/// KL divergence of `own` from `want`, both logarithms of probabilities, in nats.
pub fn divergence(want: &[f32], own: &[f32]) -> f64 {
    want.iter().zip(own).map(|(&w, &o)| f64::from(w).exp() * f64::from(w - o)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_and_their_divergence() {
        let mut a = [1.0f32, 2.0, 3.0];
        log_softmax(&mut a);
        assert!((a.iter().map(|x| x.exp()).sum::<f32>() - 1.0).abs() < 1e-6);
        assert!(divergence(&a, &a).abs() < 1e-9);
        let (p, q) = ([0.5f32.ln(), 0.5f32.ln()], [0.25f32.ln(), 0.75f32.ln()]);
        let want = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((divergence(&p, &q) - want).abs() < 1e-6);
    }

    #[test]
    fn half_is_learned_from_and_half_measured_with() {
        let chunks = vec![vec![0; 10]; 5];
        assert_eq!((split(&chunks).0.len(), split(&chunks).1.len()), (3, 2));
        assert_eq!(work(&chunks), 30 + 20 * 9);
        assert_eq!(work(&chunks[..1]), 10 + 10 * 9);
    }
}
