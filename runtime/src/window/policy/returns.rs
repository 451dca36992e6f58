//! Learned return rates, with the time to the layer's next turn.
//!
//! The question is how likely an expert is to be chosen at the layer's next turn. Two things tell: how long ago it was chosen last (text repeats itself, and routers
//! with it) and how often it is chosen at all (some experts are popular). How much each of the two tells differs from model to model: for routers that ignore the text age
//! says nothing, for others nearly half of the choices are those of the token before. So it is measured: experts are put into classes of equal age and similar
//! frequency, and for each class the policy counts how many of its experts were chosen at the turn that followed. That share is the chance of an expert of the
//! class (the hazard rate of its age). Beckmann, Chen and Cidon's LHD (NSDI 2018) ranks by such measured rates too.
//!
//! If turns were independent from there on, the next use of an expert with chance `p` would be `1 / p - 1` turns beyond the layer's next turn, which is `d` layers away. So the expected
//! wait is `d + layers * (1 / p - 1)` layers, and the expert with the longest one leaves. Among equals the layer that was just passed leaves first; so on a cyclic
//! walk, where least-recently-used never hits, a fixed part stays and hits in every round.
//!
//! Ages and frequencies are kept for experts that are not in the window too: what happens to be held does not change what is learned.
//! Replayed traces and the policies that lost are in `docs/cache-policies.md`.

use super::{Key, Purpose, Shape, Use};

/// Turns over which a frequency fades to 1/e.
const HORIZON: f32 = 128.0;
/// Until a layer has had that many turns a frequency is the mean of all, as if this many had come before at the fair share.
const START: f32 = 8.0;
/// A class without experience takes the frequency of its expert for the chance, and gives that up as if it had seen so many experts.
const PRIOR: f32 = 100.0;
/// A class that has seen so many experts halves its counts: what was learned long ago fades, and the counts stay exact.
const MEMORY: f32 = 65_536.0;
/// Lower bound of chances and frequencies, so that waits stay finite and comparable.
const MIN_CHANCE: f32 = 1e-4;
/// Oldest age: older ones are of one class.
const OLDEST: u8 = 255;
/// While a prompt looks for room, what a prompt brought in waits this many times longer: longer than anything else.
const PROMPT_FIRST: f32 = 1e12;

/// First age of each class of ages, in turns since the last use.
const AGES: [u8; 10] = [0, 1, 2, 3, 4, 6, 9, 15, 29, 61];
/// Classes of frequencies: quarters of an octave, from [`MIN_CHANCE`] to 1.
const FREQUENCIES: usize = (quarter(1.0) - quarter(MIN_CHANCE) + 1) as usize;

/// Exponent and the first two bits of the mantissa: a logarithm in steps of a quarter octave.
const fn quarter(x: f32) -> u32 {
    x.to_bits() >> 21
}

/// By age: its class.
const AGE_CLASS: [u8; 256] = {
    let mut classes = [0; 256];
    let (mut age, mut class) = (0, 0);
    while age < 256 {
        if class + 1 < AGES.len() && age >= AGES[class + 1] as usize {
            class += 1;
        }
        classes[age] = class as u8;
        age += 1;
    }
    classes
};

/// What is known of an expert.
#[derive(Clone, Copy)]
struct Expert {
    /// Share of turns in which it was chosen, fading.
    frequency: f32,
    /// Chance that it is chosen at the next turn of its layer.
    chance: f32,
    /// Layers that it is expected to wait beyond its layer's next turn.
    beyond: f32,
    /// Turns since it was chosen, up to [`OLDEST`].
    age: u8,
    /// Chosen at this turn; false between turns.
    chosen: bool,
    /// A prompt brought it in and no decode step has used it since.
    prompt_only: bool,
}

impl Expert {
    fn expect(&mut self, chance: f32, layers: f32) {
        self.chance = chance.clamp(MIN_CHANCE, 1.0);
        self.beyond = layers * (1.0 / self.chance - 1.0);
    }

    fn class(&self) -> usize {
        let frequency = quarter(self.frequency.clamp(MIN_CHANCE, 1.0)) - quarter(MIN_CHANCE);
        usize::from(AGE_CLASS[usize::from(self.age)]) * FREQUENCIES + frequency as usize
    }
}

/// Experience with the experts of a class.
#[derive(Clone, Copy, Default)]
struct Class {
    /// Experts seen in it.
    seen: f32,
    /// Those of them that were chosen at the next turn.
    returned: f32,
}

/// See the module's text.
pub struct ReturnRate {
    layers: f32,
    horizon: f32,
    /// By key.
    experts: Vec<Expert>,
    /// By layer: turns it has had.
    turns: Vec<f32>,
    /// By age and frequency.
    classes: Vec<Class>,
}

impl ReturnRate {
    /// Every expert starts at its fair share, `top_k / experts`, chosen never.
    pub fn new(shape: &Shape) -> ReturnRate {
        ReturnRate::with_horizon(shape, HORIZON)
    }

    /// As [`ReturnRate::new`], with frequencies that fade to 1/e over `horizon` turns (at least one).
    pub fn with_horizon(shape: &Shape, horizon: f32) -> ReturnRate {
        let mut experts = Vec::with_capacity(shape.keys());
        let layers = shape.layers() as f32;
        for (layer, &top_k) in (0u32..).zip(&shape.top_k) {
            let count = shape.range(layer).len();
            let share = (top_k as f32 / count.max(1) as f32).clamp(MIN_CHANCE, 1.0);
            let mut expert = Expert { frequency: share, chance: share, beyond: 0.0, age: OLDEST, chosen: false, prompt_only: false };
            expert.expect(share, layers);
            experts.extend(std::iter::repeat_n(expert, count));
        }
        let classes = vec![Class::default(); AGES.len() * FREQUENCIES];
        ReturnRate { layers, horizon: horizon.max(1.0), experts, turns: vec![0.0; shape.layers()], classes }
    }

    /// A visit to a layer; all of `uses` are of that layer.
    pub fn visit(&mut self, shape: &Shape, layer: u32, uses: impl Iterator<Item = Use>, purpose: Purpose) {
        let prompt = purpose == Purpose::Prefill;
        for Use { key, loaded } in uses {
            let Some(expert) = self.experts.get_mut(key as usize) else { continue };
            // A prompt uses nearly everything once, which says little about the steps to come: it leaves no other mark than this one.
            expert.chosen = !prompt;
            expert.prompt_only = prompt && (loaded || expert.prompt_only);
        }
        let range = shape.range(layer);
        let of_layer = self.experts.get_mut(range.start as usize..range.end as usize);
        let (Some(experts), Some(turns), false) = (of_layer, self.turns.get_mut(layer as usize), prompt) else { return };
        *turns += 1.0;
        let step = 1.0 / self.horizon.min(START + *turns);
        for expert in experts {
            if let Some(class) = self.classes.get_mut(expert.class()) {
                class.learn(expert.chosen);
            }
            let used = f32::from(u8::from(expert.chosen));
            expert.frequency = (expert.frequency + step * (used - expert.frequency)).clamp(MIN_CHANCE, 1.0);
            expert.age = if expert.chosen { 0 } else { expert.age.saturating_add(1) };
            expert.chosen = false;
            let class = self.classes.get(expert.class()).copied().unwrap_or_default();
            expert.expect((class.returned + PRIOR * expert.frequency) / (class.seen + PRIOR), self.layers);
        }
    }

    /// Share of turns in which an expert was chosen, 0 to 1.
    pub fn frequency(&self, key: Key) -> f32 {
        self.experts.get(key as usize).map_or(0.0, |e| e.frequency)
    }

    /// Takes over a frequency that was learned before.
    pub fn remember(&mut self, key: Key, frequency: f32) {
        if let Some(expert) = self.experts.get_mut(key as usize) {
            expert.frequency = frequency.clamp(MIN_CHANCE, 1.0);
            expert.expect(expert.frequency, self.layers);
        }
    }

    /// How long, in layers, until `key` of `key_layer` is wanted again, seen from a visit to `layer`. The largest value leaves first.
    pub fn wait(&self, key: Key, key_layer: u32, layer: u32, purpose: Purpose) -> f32 {
        let turn = self.turn(key_layer, layer);
        if purpose == Purpose::Prefill { self.wait_of_prompt(key, turn) } else { turn + self.beyond(key) }
    }

    /// Layers until the next turn of `key_layer`, seen from a visit to `layer`.
    pub fn turn(&self, key_layer: u32, layer: u32) -> f32 {
        let turn = key_layer as f32 - layer as f32;
        if turn <= 0.0 { turn + self.layers } else { turn }
    }

    /// Layers that `key` is expected to wait beyond its layer's next turn; changes with a turn of that layer only.
    pub fn beyond(&self, key: Key) -> f32 {
        self.experts.get(key as usize).map_or(f32::INFINITY, |e| e.beyond)
    }

    /// The wait of `key`, whose layer has its next turn after `turn` layers, while a prompt looks for room.
    pub fn wait_of_prompt(&self, key: Key, turn: f32) -> f32 {
        let prompt_only = self.experts.get(key as usize).is_some_and(|e| e.prompt_only);
        if prompt_only { PROMPT_FIRST * turn } else { turn + self.beyond(key) }
    }
}

impl Class {
    fn learn(&mut self, returned: bool) {
        if self.seen >= MEMORY {
            self.seen /= 2.0;
            self.returned /= 2.0;
        }
        self.seen += 1.0;
        self.returned += f32::from(u8::from(returned));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn visit(policy: &mut ReturnRate, shape: &Shape, keys: &[Key]) {
        policy.visit(shape, 0, keys.iter().map(|&key| Use { key, loaded: false }), Purpose::Decode);
    }

    #[test]
    fn classes_are_in_order_and_in_range() {
        let class = |age, frequency| Expert { frequency, chance: 0.0, beyond: 0.0, age, chosen: false, prompt_only: false }.class();
        assert_eq!((class(0, 0.0), class(0, 1.0), class(1, 0.0)), (0, FREQUENCIES - 1, FREQUENCIES));
        assert_eq!(class(OLDEST, 2.0) + 1, AGES.len() * FREQUENCIES);
        assert_eq!(class(60, 0.01), class(29, 0.01));
        assert!(class(61, 0.01) > class(60, 0.01) && class(3, 0.02) > class(3, 0.01));
        assert!((0..=255).all(|age: u8| age >= AGES[usize::from(AGE_CLASS[usize::from(age)])]));
    }

    #[test]
    fn without_a_pattern_in_time_chance_is_frequency() {
        // Key 0 at every turn, the others in turn: key 0 waits least, and a chance is near the share of turns.
        let shape = Shape::new([(8, 2)]).unwrap();
        let mut policy = ReturnRate::new(&shape);
        (0..2000).for_each(|i| visit(&mut policy, &shape, &[0, 1 + i * 3 % 7]));
        assert!(policy.experts[0].chance > 0.95, "{}", policy.experts[0].chance);
        assert!(policy.wait(0, 0, 0, Purpose::Decode) < policy.wait(1, 0, 0, Purpose::Decode));
    }

    #[test]
    fn age_counts_where_it_tells_something() {
        // Every other turn, by chance, repeats the one before; the rest choose any of 64.
        let shape = Shape::new([(64, 1)]).unwrap();
        let (mut policy, mut random, mut last) = (ReturnRate::new(&shape), Random(3), 0);
        for _ in 0..40_000 {
            last = if random.below(2) == 0 { last } else { random.below(64) as Key };
            visit(&mut policy, &shape, &[last]);
        }
        let just_chosen = policy.experts[last as usize].chance;
        let others: f32 = (0..64).filter(|&k| k != last as usize).map(|k| policy.experts[k].chance).sum();
        assert!((0.4..0.6).contains(&just_chosen) && others / 63.0 < 0.03, "{just_chosen} {others}");
    }

    #[test]
    fn counts_fade_and_stay_finite() {
        let mut class = Class::default();
        (0..200_000).for_each(|_| class.learn(true));
        (0..200_000).for_each(|_| class.learn(false));
        assert!(class.seen <= MEMORY + 1.0 && class.returned / class.seen < 0.15, "{} of {}", class.returned, class.seen);
    }
}
