//! Policies to compare: the runtime's own, and those that are only simulated.

use super::load::Load;
use forebay::window::policy::{Purpose, ReturnRate, Shape};
use forebay::window::{ReadPlan, State, plan};

/// A cache of experts.
pub trait Cache {
    /// One token uses `keys` of `layer`, all at once: none of them may push out another. Returns how many were there.
    fn visit(&mut self, layer: u32, keys: &[u32]) -> usize;
}

/// The window of the runtime: the same planning code that runs.
pub struct Window {
    state: State,
    plan: ReadPlan,
    shape: Shape,
    experts: Vec<u32>,
}

impl Window {
    pub fn new(shape: &Shape, slots: usize, policy: ReturnRate) -> Window {
        let state = State::new(shape.clone(), slots as u32, policy);
        Window { plan: ReadPlan::for_state(&state), state, shape: shape.clone(), experts: Vec::new() }
    }
}

impl Cache for Window {
    fn visit(&mut self, layer: u32, keys: &[u32]) -> usize {
        let first = self.shape.range(layer).start;
        self.experts.clear();
        self.experts.extend(keys.iter().map(|k| k - first));
        plan(&self.state, layer, &self.experts, Purpose::Decode, false, &mut self.plan).expect("the trace fits its own header");
        self.state.apply(&self.plan);
        self.plan.hits.len()
    }
}

/// A rule that gives every key a badness; the worst leaves.
pub trait Rule {
    /// `key` of `layer` is used at `now`, the number of the visit.
    fn used(&mut self, key: u32, layer: u32, now: usize);
    /// The largest leaves; `layer` is the one visited now.
    fn badness(&self, key: u32, layer: u32, now: usize) -> f64;
}

/// A cache that evicts by a rule.
pub struct Ruled<R> {
    rule: R,
    slots: usize,
    held: Vec<u32>,
    there: Vec<bool>,
    now: usize,
}

impl<R: Rule> Ruled<R> {
    pub fn new(load: &Load, slots: usize, rule: R) -> Self {
        Ruled { rule, slots, held: Vec::with_capacity(slots), there: vec![false; load.shape.keys()], now: 0 }
    }
}

impl<R: Rule> Cache for Ruled<R> {
    fn visit(&mut self, layer: u32, keys: &[u32]) -> usize {
        let hits = keys.iter().filter(|&&k| self.there[k as usize]).count();
        let misses: Vec<u32> = keys.iter().copied().filter(|&k| !self.there[k as usize]).collect();
        let excess = (self.held.len() + misses.len()).saturating_sub(self.slots);
        if excess > 0 {
            let mut order: Vec<(f64, u32)> =
                self.held.iter().filter(|k| !keys.contains(k)).map(|&k| (self.rule.badness(k, layer, self.now), k)).collect();
            if excess < order.len() {
                order.select_nth_unstable_by(excess - 1, |a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            }
            order.truncate(excess);
            order.iter().for_each(|&(_, k)| self.there[k as usize] = false);
            self.held.retain(|&k| self.there[k as usize]);
        }
        misses.iter().for_each(|&k| self.there[k as usize] = true);
        self.held.extend(misses);
        keys.iter().for_each(|&k| self.rule.used(k, layer, self.now));
        self.now += 1;
        hits
    }
}

/// Least recently used.
pub struct Lru {
    used: Vec<usize>,
}

impl Lru {
    pub fn new(load: &Load) -> Lru {
        Lru { used: vec![0; load.shape.keys()] }
    }
}

impl Rule for Lru {
    fn used(&mut self, key: u32, _: u32, now: usize) {
        self.used[key as usize] = now + 1;
    }

    fn badness(&self, key: u32, _: u32, now: usize) -> f64 {
        (now + 1 - self.used[key as usize]) as f64
    }
}

/// By key: its layer.
fn layers_of(shape: &Shape) -> Vec<u32> {
    (0..shape.layers() as u32).flat_map(|layer| shape.range(layer).map(move |_| layer)).collect()
}

/// Decayed frequency with the time to the layer's next turn: each visit to its layer moves an expert's chance `p` by 1/horizon towards used or not, and the longest
/// expected wait `d + layers * (1 / p - 1)` leaves, `d` being the layers to the next turn. What this project shipped first.
pub struct DecayedLfu {
    shape: Shape,
    layer: Vec<u32>,
    chance: Vec<f64>,
    step: f64,
    last: usize,
}

impl DecayedLfu {
    pub fn new(load: &Load, horizon: f32) -> DecayedLfu {
        let layer = layers_of(&load.shape);
        let share = |layer: &u32| load.top_k as f64 / load.shape.range(*layer).len() as f64;
        DecayedLfu {
            chance: layer.iter().map(share).collect(),
            layer,
            shape: load.shape.clone(),
            step: 1.0 / f64::from(horizon),
            last: usize::MAX,
        }
    }
}

impl Rule for DecayedLfu {
    fn used(&mut self, key: u32, layer: u32, now: usize) {
        if std::mem::replace(&mut self.last, now) != now {
            self.shape.range(layer).for_each(|k| self.chance[k as usize] *= 1.0 - self.step);
        }
        self.chance[key as usize] += self.step;
    }

    fn badness(&self, key: u32, layer: u32, _: usize) -> f64 {
        let layers = self.shape.layers() as u32;
        let turn = 1 + (self.layer[key as usize] + layers - layer - 1) % layers;
        f64::from(turn) + f64::from(layers) * (1.0 / self.chance[key as usize].clamp(1e-5, 1.0) - 1.0)
    }
}

/// Least-stale, after SpecMD (2026): what belongs to the layer whose next turn is farthest away leaves first, that is the layer passed last; among those of a layer the
/// one whose last use is longest ago.
pub struct LeastStale {
    lru: Lru,
    layer: Vec<u32>,
    layers: u32,
}

impl LeastStale {
    pub fn new(load: &Load) -> LeastStale {
        LeastStale { lru: Lru::new(load), layer: layers_of(&load.shape), layers: load.shape.layers() as u32 }
    }
}

impl Rule for LeastStale {
    fn used(&mut self, key: u32, layer: u32, now: usize) {
        self.lru.used(key, layer, now);
    }

    fn badness(&self, key: u32, layer: u32, now: usize) -> f64 {
        let turn = (self.layer[key as usize] + self.layers - layer - 1) % self.layers;
        f64::from(turn) * 1e9 + self.lru.badness(key, layer, now)
    }
}

/// Belady's optimum: what is used again last leaves. Knows the trace.
pub struct Belady<'a> {
    /// By visit, by place in it: the visit in which the key is used next.
    next: &'a [Vec<usize>],
    due: Vec<usize>,
    place: usize,
    last: usize,
}

/// For [`Belady`]: when each use of a trace is repeated.
pub fn next_uses(keys: usize, visits: &[(u32, Vec<u32>)]) -> Vec<Vec<usize>> {
    let mut seen = vec![usize::MAX; keys];
    let backwards = visits.iter().enumerate().rev().map(|(now, (_, used))| {
        let next = used.iter().map(|&k| seen[k as usize]).collect();
        used.iter().for_each(|&k| seen[k as usize] = now);
        next
    });
    let mut all: Vec<Vec<usize>> = backwards.collect();
    all.reverse();
    all
}

impl<'a> Belady<'a> {
    pub fn new(load: &'a Load) -> Self {
        Belady { next: &load.next, due: vec![usize::MAX; load.shape.keys()], place: 0, last: usize::MAX }
    }
}

impl Rule for Belady<'_> {
    fn used(&mut self, key: u32, _: u32, now: usize) {
        if self.last != now {
            (self.last, self.place) = (now, 0);
        }
        self.due[key as usize] = self.next[now][self.place];
        self.place += 1;
    }

    fn badness(&self, key: u32, _: u32, _: usize) -> f64 {
        self.due[key as usize] as f64
    }
}
