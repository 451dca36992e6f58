//! What random values a tensor gets, so that activations stay finite, the residual stream stays near its embedding, and routing is as uneven as asked.
//!
//! Every embedding is a common direction `u` (signs) plus noise of its own, half of the energy each where [`super::firing`] does not say otherwise. Mixers and feed-forward parts together add a small share, so the
//! norm in front of each router sees about that mixture. A router row is noise orthogonal to `u`, which makes choices differ from token to token, plus a multiple of
//! `u`, which makes the expert popular: `skew` is the deviation of the second part of a logit over that of the first.
//! By simulation (256 experts, 8 a token) an LRU window of 10 / 20 / 30 / 40% of the experts hits 9 / 19 / 29 / 39% at skew 0, 36 / 61 / 75 / 85% at 0.7,
//! 41 / 68 / 83 / 92% at 1.0 and 56 / 84 / 93 / 97% at 1.3.

use super::firing::Firing;
use super::random::Random;
use crate::arch::Binding;
use forebay_format::model::{Activation, Decay, Ffn, LayerSpec, Mixer, ModelSpec, Norm, NormWeight, QkNorm, Role};

/// What the whole model has in common.
#[derive(Clone, Copy, Debug)]
pub struct Character {
    /// Seed of everything.
    pub seed: u64,
    /// How uneven routing is.
    pub skew: f32,
    /// Share of the embedding's amplitude that is common to all tokens, and that is a token's own: squares add up to 1.
    pub common: f32,
    /// See `common`.
    pub own: f32,
}

impl Character {
    /// Half of an embedding's energy is common.
    pub fn new(seed: u64, skew: f32) -> Self {
        Character { seed, skew, common: std::f32::consts::FRAC_1_SQRT_2, own: std::f32::consts::FRAC_1_SQRT_2 }
    }
}

/// All layers together add this much to the residual stream, whose embedding is 1.
const LAYERS_ADD: f32 = 0.3;
/// Deviation of the part of a router logit that differs from token to token. Real routers are about so sure of themselves.
const ROUTER_DEVIATION: f32 = 1.6;

/// How a tensor is filled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Recipe {
    /// Blocks from a pool of normal values of this deviation.
    Pooled(f32),
    /// The same in stretches that a sketch can be cut into too.
    Trigger(f32),
    /// Normal values of this deviation.
    Normal(f32),
    /// One value.
    Constant(f32),
    /// Decays of a recurrence.
    Decay(Decay),
    /// Rows of the embedding.
    Embedding,
    /// Rows of a router.
    Router,
}

/// Recipes by tensor number.
pub fn recipes(binding: &Binding, tensors: usize, firing: Option<Firing>) -> Vec<Recipe> {
    let spec = &binding.spec;
    let mut recipes = vec![Recipe::Constant(0.0); tensors];
    let mut set = |tensor: usize, recipe: Recipe| {
        if let Some(slot) = recipes.get_mut(tensor) {
            *slot = recipe;
        }
    };
    for bound in binding.embedding.iter().chain(&binding.head) {
        set(bound.source.tensor, of_role(bound.role, bound.cols, spec, None));
    }
    for (layer, trunk) in spec.layers.iter().zip(&binding.trunk) {
        trunk.iter().for_each(|bound| set(bound.source.tensor, of_role(bound.role, bound.cols, spec, Some(layer))));
        let Ffn::Dense(ffn) = &layer.ffn else { continue };
        let [matrix, bias] = if ffn.ungated { [Role::FfnUp, Role::FfnUpBias] } else { [Role::FfnGate, Role::FfnGateBias] };
        for bound in trunk.iter().filter(|_| ffn.activation.is_sparse()) {
            if bound.role == matrix {
                set(bound.source.tensor, Recipe::Trigger((bound.cols as f32).sqrt().recip()));
            } else if let (true, Some(firing)) = (bound.role == bias, firing) {
                let floor = if let Activation::FatRelu { threshold } = ffn.activation { threshold } else { 0.0 };
                set(bound.source.tensor, Recipe::Constant(floor - firing.threshold() as f32));
            }
        }
    }
    for expert in binding.experts.iter().flatten() {
        set(expert.gate.tensor, into(spec.hidden));
        set(expert.up.tensor, into(spec.hidden));
        // `down` has `hidden` rows of as many values as `gate` has rows.
        set(expert.down.tensor, out_of(u32::try_from(expert.gate.count).unwrap_or(u32::MAX), spec));
    }
    recipes
}

/// A matrix that keeps the size of what goes in.
fn into(cols: u32) -> Recipe {
    Recipe::Pooled((cols as f32).sqrt().recip())
}

/// A matrix whose result is added to the residual stream: `2 * layers` of them together add [`LAYERS_ADD`].
fn out_of(cols: u32, spec: &ModelSpec) -> Recipe {
    Recipe::Pooled(LAYERS_ADD / (2.0 * spec.layers.len() as f32 * cols as f32).sqrt())
}

fn one(norm: &Norm) -> Recipe {
    Recipe::Constant(match norm.weight {
        NormWeight::Plain => 1.0,
        NormWeight::ZeroCentered => 0.0,
    })
}

fn of_role(role: Role, cols: u32, spec: &ModelSpec, layer: Option<&LayerSpec>) -> Recipe {
    let mixer = layer.map(|l| &l.mixer);
    match role {
        Role::Embedding => Recipe::Embedding,
        Role::Router => Recipe::Router,
        Role::FinalNorm => one(&spec.final_norm),
        Role::MixerNorm => layer.map_or(Recipe::Constant(1.0), |l| one(&l.mixer_norm)),
        Role::FfnNorm => layer.map_or(Recipe::Constant(1.0), |l| one(&l.ffn_norm)),
        Role::QNorm | Role::KNorm => match mixer {
            Some(Mixer::Attention(a)) => match &a.qk_norm {
                QkNorm::PerHead(norm) | QkNorm::FullWidth(norm) => one(norm),
                QkNorm::None => Recipe::Constant(1.0),
            },
            _ => Recipe::Constant(1.0),
        },
        Role::DeltaNorm => match mixer {
            Some(Mixer::GatedDelta(d)) => one(&d.norm),
            _ => Recipe::Constant(1.0),
        },
        Role::DeltaDecay => match mixer {
            Some(Mixer::GatedDelta(d)) => Recipe::Decay(d.decay),
            _ => Recipe::Constant(0.0),
        },
        Role::DeltaDtBias => Recipe::Normal(0.5),
        Role::DeltaConv => Recipe::Normal(0.3),
        Role::DeltaA | Role::DeltaB | Role::SharedExpertGate => Recipe::Normal((cols as f32).sqrt().recip()),
        Role::FinalNormBias | Role::MixerNormBias | Role::FfnNormBias => Recipe::Normal(0.02),
        Role::QBias | Role::KBias | Role::VBias | Role::OBias => Recipe::Normal(0.02),
        Role::FfnGateBias | Role::FfnUpBias | Role::FfnDownBias => Recipe::Normal(0.02),
        Role::Positions => Recipe::Normal(0.02),
        Role::O | Role::DeltaOut | Role::FfnDown | Role::SharedDown => out_of(cols, spec),
        Role::Head
        | Role::ProjectIn
        | Role::ProjectOut
        | Role::Q
        | Role::K
        | Role::V
        | Role::DeltaQkv
        | Role::DeltaZ
        | Role::FfnGate
        | Role::FfnUp
        | Role::NeuronSketch
        | Role::SharedGate
        | Role::SharedUp => into(cols),
    }
}

/// Values of row `row` of tensor `tensor`, for every recipe but the pooled one.
pub fn row(recipe: Recipe, character: &Character, tensor: usize, row: u64, out: &mut [f32]) {
    let &Character { seed, common, own, .. } = character;
    let mut random = Random::at(seed, [tensor as u64, row]);
    match recipe {
        Recipe::Pooled(deviation) | Recipe::Trigger(deviation) | Recipe::Normal(deviation) => {
            out.iter_mut().for_each(|x| *x = random.normal() * deviation)
        }
        Recipe::Constant(value) => out.fill(value),
        Recipe::Decay(decay) => out.iter_mut().for_each(|x| {
            let log = 2.0 * random.uniform() - 1.0;
            *x = match decay {
                Decay::Log => log,
                Decay::Factor => -log.exp(),
            };
        }),
        Recipe::Embedding => {
            for (column, x) in out.iter_mut().enumerate() {
                *x = common * sign(seed, column) + own * random.normal();
            }
        }
        Recipe::Router => router_row(character, &mut random, out),
    }
}

fn router_row(character: &Character, random: &mut Random, out: &mut [f32]) {
    let &Character { seed, skew, .. } = character;
    let hidden = out.len() as f32;
    let popularity = random.normal() * skew;
    let mut along = 0.0;
    for (column, x) in out.iter_mut().enumerate() {
        *x = random.normal();
        along += *x * sign(seed, column);
    }
    let noise = ROUTER_DEVIATION / (character.own * hidden.sqrt());
    let common = popularity * ROUTER_DEVIATION / (character.common * hidden);
    for (column, x) in out.iter_mut().enumerate() {
        let sign = sign(seed, column);
        *x = (*x - along / hidden * sign) * noise + common * sign;
    }
}

/// The common direction: a sign for each column.
fn sign(seed: u64, column: usize) -> f32 {
    // A bit of a hash, so that no table is carried around.
    let mut z = (column as u64 ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    if z >> 63 == 0 { 1.0 } else { -1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deviation(values: &[f32]) -> f32 {
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt()
    }

    /// Mean over tokens of an expert's logit is its popularity; what differs is the token's.
    #[test]
    fn skew_is_the_ratio_of_popularity_to_what_differs_from_token_to_token() {
        let (hidden, experts, tokens) = (512, 96, 64);
        for skew in [0.0f32, 0.7, 1.3] {
            let rows = |recipe, tensor, n: u64| -> Vec<Vec<f32>> {
                let one = |r| {
                    let mut out = vec![0.0; hidden];
                    row(recipe, &Character::new(5, skew), tensor, r, &mut out);
                    out
                };
                (0..n).map(one).collect()
            };
            let (router, embedding) = (rows(Recipe::Router, 1, experts), rows(Recipe::Embedding, 0, tokens));
            let logit = |r: &[f32], x: &[f32]| r.iter().zip(x).map(|(a, b)| a * b).sum::<f32>();
            let logits: Vec<Vec<f32>> = router.iter().map(|r| embedding.iter().map(|x| logit(r, x)).collect()).collect();
            let means: Vec<f32> = logits.iter().map(|l| l.iter().sum::<f32>() / tokens as f32).collect();
            let own = logits.iter().map(|l| deviation(l)).sum::<f32>() / experts as f32;
            let ratio = deviation(&means) / own;
            assert!((own / ROUTER_DEVIATION - 1.0).abs() < 0.1, "{own}");
            // 64 tokens leave an eighth of the noise in the means.
            assert!((ratio - skew).abs() < 0.15 + 0.1 * skew, "{ratio} for {skew}");
        }
    }
}
