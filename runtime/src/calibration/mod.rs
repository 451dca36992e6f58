//! What is known of a model's neurons from running a text: from which score on a neuron is worth reading, and what that costs in quality. Kept in a file beside
//! the pack ([`file`]) and used by predicted sparsity.

pub mod file;
pub mod measure;
pub mod tally;

use serde::{Deserialize, Serialize};

/// Recalls that a calibration has thresholds for, ascending: shares of the neurons that fire which the prediction is to find.
pub const RECALLS: [f64; 8] = [0.80, 0.90, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999];
/// Largest change of perplexity, as a share, that the default recall may cause.
pub const TOLERANCE: f64 = 0.01;
/// Without a calibration a neuron is worth reading if its score says that it fires at all.
pub const PLAIN_THRESHOLD: f32 = 0.0;

/// One row of the table: what a recall costs and what it saves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Share of the firing neurons that thresholds were set to find.
    pub recall: f64,
    /// Share of all groups that is read.
    pub read: f64,
    /// Bytes of those that a token reads if none is in the window.
    pub bytes: u64,
    /// Mean KL divergence from the exact computation, in nats.
    pub kl: f64,
    /// Change of perplexity against the exact computation: 0.01 is one per cent worse.
    pub perplexity_change: f64,
}

/// What exact sparsity reads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firing {
    /// Share of the groups that have a neuron which fires.
    pub groups: f64,
    /// Share of a token's groups that the token before it wanted too.
    pub again: f64,
    /// Bytes that a token reads if none is in the window: without triggers, which stay in memory.
    pub bytes: u64,
}

/// What is known of a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Share of neurons that fire.
    pub active: f64,
    /// Score above which a neuron is worth reading, for each row of the table.
    pub thresholds: Vec<f32>,
}

/// A calibration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Tokens that the thresholds were learned from.
    pub tokens: u64,
    /// Tokens that the table was measured with.
    pub scored: u64,
    /// Without predictions.
    pub firing: Firing,
    /// By recall, ascending.
    pub table: Vec<Row>,
    /// Layers of the model; empty thresholds for those without neuron groups.
    pub layers: Vec<Layer>,
}

impl Calibration {
    /// Everything is finite, in order and of one length; `layers` is the model's number.
    pub fn is_sound(&self, layers: usize) -> bool {
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let row = |r: &Row| share(r.recall) && share(r.read) && r.kl.is_finite() && r.perplexity_change.is_finite();
        let thresholds = |l: &Layer| {
            let whole = l.thresholds.is_empty() || l.thresholds.len() == self.table.len();
            share(l.active) && whole && l.thresholds.iter().all(|t| t.is_finite())
        };
        let ascending = self.table.windows(2).all(|w| w[0].recall < w[1].recall);
        !self.table.is_empty()
            && share(self.firing.groups)
            && share(self.firing.again)
            && ascending
            && self.table.iter().all(row)
            && self.layers.len() == layers
            && self.layers.iter().all(thresholds)
    }

    /// The row to use: the first that finds at least `recall`, or without one the first from which on no row changes perplexity by more than [`TOLERANCE`] (the last, if none is so good).
    pub fn choose(&self, recall: Option<f64>) -> usize {
        let last = self.table.len().saturating_sub(1);
        match recall {
            Some(recall) => self.table.iter().position(|r| r.recall >= recall - 1e-9).unwrap_or(last),
            None => {
                let good = self.table.iter().rev().take_while(|r| r.perplexity_change.abs() <= TOLERANCE).count();
                (self.table.len() - good).min(last)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibration() -> Calibration {
        let row = |recall, change| Row { recall, read: 0.3, bytes: 9, kl: 0.01, perplexity_change: change };
        Calibration {
            tokens: 100,
            scored: 50,
            firing: Firing { groups: 0.2, again: 0.6, bytes: 5 },
            table: vec![row(0.8, 0.2), row(0.9, 0.005), row(0.95, 0.02), row(0.97, -0.009), row(0.99, 0.001)],
            layers: vec![Layer { active: 0.1, thresholds: vec![0.5, 0.2, 0.0, -0.1, -0.4] }, Layer { active: 0.0, thresholds: vec![] }],
        }
    }

    #[test]
    fn the_default_is_the_first_from_which_on_all_are_good() {
        let mut c = calibration();
        assert!(c.is_sound(2) && !c.is_sound(3));
        assert_eq!((c.choose(None), c.choose(Some(0.9)), c.choose(Some(0.96)), c.choose(Some(1.0))), (3, 1, 3, 4));
        c.table.iter_mut().for_each(|r| r.perplexity_change = 0.5);
        assert_eq!(c.choose(None), 4);
        c.table.iter_mut().for_each(|r| r.perplexity_change = 0.0);
        assert_eq!(c.choose(None), 0);
    }

    #[test]
    fn what_makes_no_sense_is_not_sound() {
        type Harm = fn(&mut Calibration);
        let harms: [Harm; 8] = [
            |c| c.firing.again = -0.5,
            |c| c.table.clear(),
            |c| c.table[1].recall = 0.8,
            |c| c.table[0].kl = f64::NAN,
            |c| c.table[0].read = 1.5,
            |c| c.layers[0].thresholds[2] = f32::INFINITY,
            |c| c.layers[0].thresholds.truncate(1),
            |c| c.layers[1].active = -0.1,
        ];
        for harm in harms {
            let mut c = calibration();
            harm(&mut c);
            assert!(!c.is_sound(2), "{c:?}");
        }
    }
}
