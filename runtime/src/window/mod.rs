//! The window: fixed slots of memory that hold experts. Planning is pure ([`plan`]); the store carries plans out.

pub mod arena;
pub mod policy;

use policy::{Key, Policy, Purpose, Shape, Use};

const NONE: u32 = u32::MAX;

/// Which expert is in which slot, and what the policy knows.
pub struct State {
    shape: Shape,
    policy: Policy,
    /// By key: its slot, or NONE.
    slot_of: Vec<u32>,
    /// By slot: its key and layer, or NONE.
    held: Vec<(Key, u32)>,
    /// Slots without an expert, next to use last.
    free: Vec<u32>,
}

/// What a hold must do. Reused from call to call, so that planning allocates nothing.
#[derive(Debug, Default)]
pub struct ReadPlan {
    /// Layer and purpose it was made for.
    layer: u32,
    purpose: Purpose,
    /// Experts that are there, with their slots.
    pub hits: Vec<(u32, u32)>,
    /// Experts to read, with the slots to read them into.
    pub misses: Vec<(u32, u32)>,
    /// By expert of the layer: the round in which it was listed last.
    listed: Vec<u64>,
    /// By slot: the round in which it was a hit.
    kept: Vec<u64>,
    round: u64,
    victims: Vec<(f32, u32)>,
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
    /// All `slots` empty.
    pub fn new(shape: Shape, slots: u32, policy: Policy) -> State {
        State {
            slot_of: vec![NONE; shape.keys()],
            held: vec![(NONE, NONE); slots as usize],
            free: (0..slots).rev().collect(),
            policy,
            shape,
        }
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
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
        for &(expert, slot) in &plan.misses {
            let Some(key) = self.shape.key(plan.layer, expert) else { continue };
            if self.free.last() == Some(&slot) {
                self.free.pop();
            }
            let Some(held) = self.held.get_mut(slot as usize) else { continue };
            if held.0 != NONE {
                self.slot_of[held.0 as usize] = NONE;
            }
            *held = (key, plan.layer);
            self.slot_of[key as usize] = slot;
        }
        let hits = plan.hits.iter().map(|&(expert, _)| (expert, false));
        let used = hits.chain(plan.misses.iter().map(|&(expert, _)| (expert, true)));
        let used = used.filter_map(|(expert, loaded)| Some(Use { key: self.shape.key(plan.layer, expert)?, loaded }));
        self.policy.visit(&self.shape, plan.layer, used, plan.purpose);
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
}

impl ReadPlan {
    /// With room for any plan on `state`.
    pub fn for_state(state: &State) -> ReadPlan {
        let experts = (0..state.shape.layers() as u32).map(|l| state.shape.range(l).len()).max().unwrap_or(0);
        let most = experts.min(state.slots());
        ReadPlan {
            hits: Vec::with_capacity(most),
            misses: Vec::with_capacity(most),
            listed: vec![0; experts],
            kept: vec![0; state.slots()],
            victims: Vec::with_capacity(state.slots()),
            ..ReadPlan::default()
        }
    }
}

/// Plans to have `experts` of `layer` in the window all at once: hits stay, misses get free slots first and then those of the experts
/// with the longest wait. Repeated experts count once. Pure but for `out`, which is filled; on an error its lists are empty.
pub fn plan(state: &State, layer: u32, experts: &[u32], purpose: Purpose, out: &mut ReadPlan) -> Result<(), PlanError> {
    out.hits.clear();
    out.misses.clear();
    out.layer = layer;
    out.purpose = purpose;
    out.round += 1;
    let made = place(state, experts, out);
    if made.is_err() {
        out.hits.clear();
        out.misses.clear();
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
            NONE => out.misses.push((expert, NONE)),
            slot => {
                out.kept[slot as usize] = out.round;
                out.hits.push((expert, slot));
            }
        }
    }
    let wanted = out.hits.len() + out.misses.len();
    if wanted > state.slots() {
        return Err(PlanError::TooMany { wanted, slots: state.slots() });
    }
    let from_free = state.free.len().min(out.misses.len());
    for (miss, &slot) in out.misses.iter_mut().zip(state.free.iter().rev()) {
        miss.1 = slot;
    }
    choose_victims(state, out.misses.len() - from_free, out);
    for (miss, victim) in out.misses[from_free..].iter_mut().zip(&out.victims) {
        miss.1 = victim.1;
    }
    Ok(())
}

/// Puts `count` slots to empty at the front of `out.victims`, longest wait first; ties leave the lower slot. One pass over the slots for a whole batch of misses.
fn choose_victims(state: &State, count: usize, out: &mut ReadPlan) {
    out.victims.clear();
    if count == 0 {
        return;
    }
    for (slot, &(key, key_layer)) in (0u32..).zip(&state.held) {
        if key != NONE && out.kept[slot as usize] != out.round {
            out.victims.push((state.policy.wait(key, key_layer, out.layer, out.purpose), slot));
        }
    }
    let order = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
    if count < out.victims.len() {
        out.victims.select_nth_unstable_by(count - 1, order);
    }
    out.victims.truncate(count);
    out.victims.sort_unstable_by(order);
}

#[cfg(test)]
mod tests;
