//! The window: fixed slots of memory that hold experts. Planning is pure ([`plan`]); the store carries plans out.

pub mod arena;
pub mod policy;
pub mod recent;

use policy::{Key, Policy, Purpose, Shape, Use};

const NONE: u32 = u32::MAX;
/// Victims that are found without sorting all candidates.
const FEW: usize = 16;
/// In place of a round: see [`ReadPlan::pin`].
const PINNED: u64 = u64::MAX;

/// Which expert is in which slot, and what the policy knows.
pub struct State {
    shape: Shape,
    policy: Policy,
    /// By key: its slot, or NONE.
    slot_of: Vec<u32>,
    /// By slot: its key and layer, or NONE.
    held: Vec<(Key, u32)>,
    /// By slot: [`Policy::beyond`] of its expert. It changes with a turn of the expert's own layer only, and every slot's is looked at for each layer with misses: asking the
    /// policy for each, at a place of its own in memory, took 4.6 ms of a token of 142 ms (3,900 slots).
    beyond: Vec<f32>,
    /// Slots without an expert, next to use last.
    free: Vec<u32>,
    /// Slots for guesses. They are not the policy's: a guess evicts nothing but an older guess.
    staging: Vec<Staged>,
    /// Guesses made, to tell older from newer.
    guesses: u64,
}

/// A slot of the staging area.
#[derive(Clone, Copy, Debug)]
struct Staged {
    slot: u32,
    /// What was read into it on a guess, or NONE.
    key: Key,
    since: u64,
}

/// An expert to bring into the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Miss {
    /// Number of the expert.
    pub expert: u32,
    /// Its slot from now on.
    pub slot: u32,
    /// It is in that slot already, or on its way there, on a guess: nothing is to be read.
    pub staged: bool,
    /// Slot that the expert takes from the policy's: its own, or the one that staging gets for the slot it gives.
    pays: u32,
}

/// What a request must do. Reused from call to call, so that planning allocates nothing.
#[derive(Debug, Default)]
pub struct ReadPlan {
    /// Layer and purpose it was made for.
    layer: u32,
    purpose: Purpose,
    /// Experts that are there, with their slots.
    pub hits: Vec<(u32, u32)>,
    /// Experts that are not.
    pub misses: Vec<Miss>,
    /// By expert of the layer: the round in which it was listed last.
    listed: Vec<u64>,
    /// By slot: the round in which it was last asked for.
    kept: Vec<u64>,
    round: u64,
    /// Slots asked for in this round or later stay.
    keep_from: u64,
    victims: Vec<(f32, u32)>,
    /// By layer: layers until its next turn.
    turns: Vec<f32>,
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// The layer has no such expert.
    NoSuchExpert(u32),
    /// More experts than slots.
    TooMany {
        /// Distinct experts asked for.
        wanted: usize,
        /// Slots.
        slots: usize,
    },
}

impl State {
    /// All `slots` empty, none for guesses.
    pub fn new(shape: Shape, slots: u32, policy: Policy) -> State {
        State::with_staging(shape, slots, 0, policy)
    }

    /// All `slots` empty; `staging` of them for guesses.
    pub fn with_staging(shape: Shape, slots: u32, staging: u32, policy: Policy) -> State {
        let managed = slots - staging.min(slots);
        State {
            slot_of: vec![NONE; shape.keys()],
            held: vec![(NONE, NONE); slots as usize],
            beyond: vec![0.0; slots as usize],
            free: (0..managed).rev().collect(),
            staging: (managed..slots).map(|slot| Staged { slot, key: NONE, since: 0 }).collect(),
            guesses: 0,
            policy,
            shape,
        }
    }

    /// Experts that can be held at once.
    pub fn slots(&self) -> usize {
        self.held.len() - self.staging.len()
    }

    /// Slots in memory, those for guesses included.
    pub fn all_slots(&self) -> usize {
        self.held.len()
    }

    /// Experts of the model.
    pub fn experts(&self) -> usize {
        self.shape.keys()
    }

    /// Slots that one layer and one layer ahead need.
    pub fn floor(&self) -> usize {
        (2 * self.shape.max_top_k() as usize).min(self.slots())
    }

    /// Slot of an expert that is in the window.
    pub fn slot(&self, layer: u32, expert: u32) -> Option<u32> {
        let key = self.shape.key(layer, expert)?;
        self.slot_of.get(key as usize).copied().filter(|&s| s != NONE)
    }

    /// Makes the plan true: misses are taken for present from here on (whoever reads them says [`State::forget`] if that fails), and the policy learns.
    pub fn apply(&mut self, plan: &ReadPlan) {
        for miss in &plan.misses {
            let Some(key) = self.shape.key(plan.layer, miss.expert) else { continue };
            if self.free.last() == Some(&miss.pays) {
                self.free.pop();
            }
            let Some(paid) = self.held.get_mut(miss.pays as usize) else { continue };
            let (evicted, _) = std::mem::replace(paid, (NONE, NONE));
            if evicted != NONE {
                self.slot_of[evicted as usize] = NONE;
            }
            if let Some(staged) = self.staging.iter_mut().find(|s| miss.staged && s.slot == miss.slot) {
                *staged = Staged { slot: miss.pays, key: NONE, since: 0 };
            }
            let Some(held) = self.held.get_mut(miss.slot as usize) else { continue };
            *held = (key, plan.layer);
            self.slot_of[key as usize] = miss.slot;
        }
        let hits = plan.hits.iter().map(|&(expert, _)| (expert, false));
        let used = hits.chain(plan.misses.iter().map(|miss| (miss.expert, true)));
        let used = used.filter_map(|(expert, loaded)| Some(Use { key: self.shape.key(plan.layer, expert)?, loaded }));
        self.policy.visit(&self.shape, plan.layer, used, plan.purpose);
        for key in self.shape.range(plan.layer) {
            if let Some(beyond) = self.beyond.get_mut(self.slot_of[key as usize] as usize) {
                *beyond = self.policy.beyond(key);
            }
        }
    }

    /// An expert is not in its slot after all.
    pub fn forget(&mut self, layer: u32, expert: u32) {
        let Some(key) = self.shape.key(layer, expert) else { return };
        let slot = std::mem::replace(&mut self.slot_of[key as usize], NONE);
        if let Some(held) = self.held.get_mut(slot as usize) {
            *held = (NONE, NONE);
            self.free.push(slot);
        }
    }

    /// Forgets what the policy has learned, as if nothing had been used yet.
    pub fn relearn(&mut self) {
        self.policy = Policy::new(&self.shape);
        for (beyond, held) in self.beyond.iter_mut().zip(&self.held) {
            *beyond = self.policy.beyond(held.0);
        }
    }

    /// Takes a slot of the staging area for a guess that `expert` will be wanted: an empty one, or that of the oldest guess, among those that are
    /// `idle`. `None` if the expert is there already or no slot is to be had.
    pub fn stage(&mut self, layer: u32, expert: u32, idle: impl Fn(u32) -> bool) -> Option<u32> {
        let key = self.shape.key(layer, expert)?;
        if self.slot_of[key as usize] != NONE || self.staging.iter().any(|s| s.key == key) {
            return None;
        }
        self.guesses += 1;
        let now = self.guesses;
        let staged = self.staging.iter_mut().filter(|s| idle(s.slot)).min_by_key(|s| s.since)?;
        (staged.key, staged.since) = (key, now);
        Some(staged.slot)
    }

    /// Layer and expert that a slot of the staging area holds a guess for.
    pub fn guessed(&self, slot: u32) -> Option<(u32, u32)> {
        let staged = self.staging.iter().find(|s| s.slot == slot && s.key != NONE)?;
        self.shape.place(staged.key)
    }

    /// What was guessed is not in its slot after all.
    pub fn unstage(&mut self, slot: u32) {
        if let Some(staged) = self.staging.iter_mut().find(|s| s.slot == slot) {
            (staged.key, staged.since) = (NONE, 0);
        }
    }

    /// The model as the window sees it.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// What decides who leaves.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What decides who leaves.
    pub fn policy_mut(&mut self) -> &mut Policy {
        &mut self.policy
    }

    /// Puts an expert that is not there into a free slot, of which the plan knows nothing; `None` if there is none.
    pub fn fill(&mut self, layer: u32, expert: u32) -> Option<u32> {
        let key = self.shape.key(layer, expert)?;
        if self.slot_of[key as usize] != NONE || self.staging.iter().any(|s| s.key == key) {
            return None;
        }
        let slot = self.free.pop()?;
        self.held[slot as usize] = (key, layer);
        self.beyond[slot as usize] = self.policy.beyond(key);
        self.slot_of[key as usize] = slot;
        Some(slot)
    }

    /// There are slots for guesses.
    pub fn stages(&self) -> bool {
        !self.staging.is_empty()
    }

    /// Gives up all guesses.
    pub fn clear_staging(&mut self) {
        self.staging.iter_mut().for_each(|s| (s.key, s.since) = (NONE, 0));
    }

    /// A slot holds an expert of the window's, not a guess.
    pub fn is_held(&self, slot: u32) -> bool {
        self.held.get(slot as usize).is_some_and(|h| h.0 != NONE)
    }

    /// Slots of the policy's that hold no expert.
    pub fn free_slots(&self) -> usize {
        self.free.len()
    }

    /// Experts in the window with their slots, as (layer, expert, slot), by slot.
    pub fn held(&self) -> impl Iterator<Item = (u32, u32, u32)> {
        let held = (0u32..).zip(&self.held).filter(|(_, (key, _))| *key != NONE);
        held.map(|(slot, &(key, layer))| (layer, key - self.shape.range(layer).start, slot))
    }
}

impl ReadPlan {
    /// The plan asks for what is in this slot.
    pub fn asks_for(&self, slot: u32) -> bool {
        self.kept.get(slot as usize).is_some_and(|&round| round != PINNED && round >= self.keep_from)
    }

    /// Keeps a slot from being given to another expert until it is asked for or unpinned: something is being read into it.
    pub fn pin(&mut self, slot: u32) {
        if let Some(kept) = self.kept.get_mut(slot as usize) {
            *kept = PINNED;
        }
    }

    /// See [`ReadPlan::pin`].
    pub fn unpin(&mut self, slot: u32) {
        if let Some(kept) = self.kept.get_mut(slot as usize).filter(|k| **k == PINNED) {
            *kept = 0;
        }
    }

    /// The layer it was made for.
    pub fn layer(&self) -> u32 {
        self.layer
    }

    /// With room for any plan on `state`.
    pub fn for_state(state: &State) -> ReadPlan {
        let experts = (0..state.shape.layers() as u32).map(|l| state.shape.range(l).len()).max().unwrap_or(0);
        let most = experts.min(state.slots());
        ReadPlan {
            hits: Vec::with_capacity(most),
            misses: Vec::with_capacity(most),
            listed: vec![0; experts],
            kept: vec![0; state.all_slots()],
            victims: Vec::with_capacity(state.slots()),
            turns: Vec::with_capacity(state.shape.layers()),
            ..ReadPlan::default()
        }
    }
}

/// Plans to have `experts` of `layer` in the window all at once: hits stay, misses get free slots first and then those of the experts
/// with the longest wait. Repeated experts count once. With `keep_last`, what the last plan asked for stays as well. Pure but for `out`, which is
/// filled; on an error its lists are empty.
pub fn plan(state: &State, layer: u32, experts: &[u32], purpose: Purpose, keep_last: bool, out: &mut ReadPlan) -> Result<(), PlanError> {
    out.hits.clear();
    out.misses.clear();
    out.layer = layer;
    out.purpose = purpose;
    out.round += 1;
    out.keep_from = out.round - u64::from(keep_last);
    let made = place(state, experts, out);
    if made.is_err() {
        out.hits.clear();
        out.misses.clear();
        // Nobody asked for what this round has marked.
        out.round += 1;
    }
    made
}

fn place(state: &State, experts: &[u32], out: &mut ReadPlan) -> Result<(), PlanError> {
    for &expert in experts {
        let key = state.shape.key(out.layer, expert).ok_or(PlanError::NoSuchExpert(expert))?;
        let listed = out.listed.get_mut(expert as usize).ok_or(PlanError::NoSuchExpert(expert))?;
        if std::mem::replace(listed, out.round) == out.round {
            continue;
        }
        match state.slot_of[key as usize] {
            NONE => {
                let staged = state.staging.iter().find(|s| s.key == key).map(|s| s.slot);
                out.misses.push(Miss { expert, slot: staged.unwrap_or(NONE), staged: staged.is_some(), pays: NONE });
            }
            slot => {
                out.kept[slot as usize] = out.round;
                out.hits.push((expert, slot));
            }
        }
    }
    let wanted = out.hits.len() + out.misses.len();
    let too_many = PlanError::TooMany { wanted, slots: state.slots() };
    if wanted > state.slots() {
        return Err(too_many);
    }
    let from_free = state.free.len().min(out.misses.len());
    choose_victims(state, out.misses.len() - from_free, out);
    if from_free + out.victims.len() < out.misses.len() {
        return Err(too_many);
    }
    let places = state.free.iter().rev().take(from_free).copied().chain(out.victims.iter().map(|v| v.1));
    for (miss, pays) in out.misses.iter_mut().zip(places) {
        miss.pays = pays;
        if !miss.staged {
            miss.slot = pays;
        }
        out.kept[miss.slot as usize] = out.round;
    }
    Ok(())
}

/// Puts `count` slots to empty at the front of `out.victims`, longest wait first; ties leave the lower slot. One pass over the slots for a whole batch of misses.
fn choose_victims(state: &State, count: usize, out: &mut ReadPlan) {
    out.victims.clear();
    if count == 0 {
        return;
    }
    let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    out.turns.clear();
    out.turns.extend((0..state.shape.layers() as u32).map(|layer| state.policy.turn(layer, out.layer)));
    // Of `count` victims the one that waits least.
    let mut least = f32::NEG_INFINITY;
    for (slot, (&(key, key_layer), &beyond)) in (0u32..).zip(state.held.iter().zip(&state.beyond)) {
        let Some(&turn) = out.turns.get(key_layer as usize) else { continue };
        let wait = if out.purpose == Purpose::Prefill { state.policy.wait_of_prompt(key, turn) } else { turn + beyond };
        if wait < least || out.kept[slot as usize] >= out.keep_from {
            continue;
        }
        let candidate = (wait, slot);
        if count > FEW {
            out.victims.push(candidate);
        } else if out.victims.len() < count || out.victims.last().is_some_and(|last| order(&candidate, last).is_lt()) {
            // Hardly any candidate gets here, so that decoding, with a few misses a layer, is spared the sorting.
            let at = out.victims.partition_point(|v| order(v, &candidate).is_lt());
            out.victims.truncate(count - 1);
            out.victims.insert(at, candidate);
            least = if out.victims.len() == count { out.victims[count - 1].0 } else { least };
        }
    }
    if count > FEW {
        if count < out.victims.len() {
            out.victims.select_nth_unstable_by(count - 1, order);
        }
        out.victims.truncate(count);
        out.victims.sort_unstable_by(order);
    }
}

#[cfg(test)]
mod tests;
