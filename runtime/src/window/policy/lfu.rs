//! Decayed frequency, with the time to the layer's next turn.
//!
//! For each expert `p` estimates the chance that a step uses it: on each visit to its layer `p += (used - p) / HORIZON`, an exponentially ageing
//! frequency. If uses were independent, the next one is `1 / p - 1` steps beyond the layer's next turn, which is `d` layers away. So the
//! expected wait is `d + layers * (1 / p - 1)` layers, and the expert with the longest one leaves.
//!
//! Frequencies are kept for experts that are not in the window too: a newcomer does not start from nothing, and one use does not make it popular.
//! Scan-resistant on two grounds: one use moves `p` by 1/HORIZON only, and among equals the layer that was just passed leaves first. So on
//! a cyclic walk, where least-recently-used never hits, a fixed part stays and hits in every round.

use super::{Key, Purpose, Shape, Use};

/// Steps over which a frequency fades to 1/e. Long enough that one step changes little, short enough to follow a change of topic within an answer.
const HORIZON: f32 = 64.0;
/// Lower bound of `p`, so that waits stay finite and comparable.
const MIN_CHANCE: f32 = 1e-5;
/// While a prompt looks for room, what a prompt brought in waits this many times longer: longer than anything else.
const PROMPT_FIRST: f32 = 1e12;

/// See the module's text.
pub struct DecayedLfu {
    layers: f32,
    /// What one visit moves `p` by.
    step: f32,
    /// `p` by key.
    chance: Vec<f32>,
    /// By key: a prompt brought it in and no decode step has used it since.
    prompt_only: Vec<bool>,
}

impl DecayedLfu {
    /// Every expert starts at its fair share, `top_k / experts`.
    pub fn new(shape: &Shape) -> DecayedLfu {
        DecayedLfu::with_horizon(shape, HORIZON)
    }

    /// As [`DecayedLfu::new`], with frequencies that fade to 1/e over `horizon` steps (at least one).
    pub fn with_horizon(shape: &Shape, horizon: f32) -> DecayedLfu {
        let mut chance = Vec::with_capacity(shape.keys());
        for (layer, &top_k) in (0u32..).zip(&shape.top_k) {
            let experts = shape.range(layer).len();
            chance.extend(std::iter::repeat_n((top_k as f32 / experts.max(1) as f32).clamp(MIN_CHANCE, 1.0), experts));
        }
        DecayedLfu { layers: shape.layers() as f32, step: 1.0 / horizon.max(1.0), prompt_only: vec![false; chance.len()], chance }
    }

    pub(super) fn visit(&mut self, layer: std::ops::Range<Key>, uses: impl Iterator<Item = Use>, purpose: Purpose) {
        if purpose == Purpose::Prefill {
            // A prompt uses nearly everything once, which says little about the steps to come: frequencies stay.
            for Use { key, .. } in uses.filter(|u| u.loaded) {
                if let Some(flag) = self.prompt_only.get_mut(key as usize) {
                    *flag = true;
                }
            }
            return;
        }
        if let Some(chances) = self.chance.get_mut(layer.start as usize..layer.end as usize) {
            chances.iter_mut().for_each(|p| *p = (*p * (1.0 - self.step)).max(MIN_CHANCE));
        }
        for Use { key, .. } in uses {
            if let (Some(p), Some(flag)) = (self.chance.get_mut(key as usize), self.prompt_only.get_mut(key as usize)) {
                *p = (*p + self.step).min(1.0);
                *flag = false;
            }
        }
    }

    pub(super) fn wait(&self, key: Key, key_layer: u32, layer: u32, purpose: Purpose) -> f32 {
        let (Some(&p), Some(&prompt_only)) = (self.chance.get(key as usize), self.prompt_only.get(key as usize)) else {
            return f32::INFINITY;
        };
        let mut turn = key_layer as f32 - layer as f32;
        if turn <= 0.0 {
            turn += self.layers;
        }
        match purpose == Purpose::Prefill && prompt_only {
            true => PROMPT_FIRST * turn,
            false => turn + self.layers * (1.0 / p - 1.0),
        }
    }
}
