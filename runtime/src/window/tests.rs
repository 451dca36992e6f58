use super::*;
use crate::testing::Random;
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};

fn shape() -> Shape {
    Shape::new([(8, 2), (0, 0), (5, 2), (20, 4)]).unwrap()
}

/// Slots and experts of the state, checked against themselves.
fn contents(state: &State) -> HashMap<(u32, u32), u32> {
    let mut map = HashMap::new();
    for layer in 0..state.shape.layers() as u32 {
        for expert in 0..state.shape.range(layer).len() as u32 {
            if let Some(slot) = state.slot(layer, expert) {
                assert_eq!(state.held[slot as usize], (state.shape.key(layer, expert).unwrap(), layer));
                let key = state.shape.key(layer, expert).unwrap();
                assert_eq!(state.beyond[slot as usize], state.policy.beyond(key), "what victims are chosen by is what the policy says");
                map.insert((layer, expert), slot);
            }
        }
    }
    let staging = state.staging.iter().map(|s| s.slot);
    let slots: BTreeSet<u32> = map.values().copied().chain(state.free.iter().copied()).chain(staging).collect();
    assert_eq!(slots.len(), map.len() + state.free.len() + state.staging.len(), "no slot twice");
    assert_eq!(slots.len(), state.all_slots(), "no slot lost");
    assert_eq!(state.held().count(), map.len());
    assert!(state.held().all(|(layer, expert, slot)| map.get(&(layer, expert)) == Some(&slot)));
    map
}

proptest! {
    /// Against a model that is a map: hits and misses are right, nothing asked for is evicted, no slot is used twice or lost.
    #[test]
    fn plans_are_right(
        slots in 4u32..40, staging in 0u32..4, guess in 0u32..22,
        steps in prop::collection::vec((0u32..4, prop::collection::vec(0u32..22, 0..9), any::<bool>(), 0u8..10), 1..80),
    ) {
        let shape = shape();
        let policy = Policy::new(&shape);
        let mut state = State::with_staging(shape, slots + staging, staging, policy);
        let mut out = ReadPlan::for_state(&state);
        let mut last: Vec<(u32, u32)> = Vec::new();
        for (layer, experts, prefill, fails) in steps {
            let before = contents(&state);
            let staged = state.stage(layer, guess % 20, |_| true);
            prop_assert_eq!(&contents(&state), &before, "a guess evicts nothing");
            let keep_last = prefill && last.len() + experts.len() <= slots as usize;
            let wanted: BTreeSet<u32> = experts.iter().copied().collect();
            let purpose = if prefill { Purpose::Prefill } else { Purpose::Decode };
            let result = plan(&state, layer, &experts, purpose, keep_last, &mut out);
            let count = state.shape.range(layer).len() as u32;
            if let Some(&bad) = experts.iter().find(|&&e| e >= count) {
                prop_assert_eq!(result, Err(PlanError::NoSuchExpert(bad)));
                prop_assert!(out.hits.is_empty() && out.misses.is_empty());
                last.clear();
                continue;
            }
            if wanted.len() > slots as usize {
                prop_assert_eq!(result, Err(PlanError::TooMany { wanted: wanted.len(), slots: slots as usize }));
                last.clear();
                continue;
            }
            prop_assert_eq!(result, Ok(()));
            prop_assert_eq!(&contents(&state), &before, "planning changes nothing");
            let hits: BTreeSet<u32> = out.hits.iter().map(|h| h.0).collect();
            let misses: BTreeSet<u32> = out.misses.iter().map(|m| m.expert).collect();
            prop_assert_eq!(&hits, &wanted.iter().copied().filter(|&e| before.contains_key(&(layer, e))).collect());
            prop_assert_eq!(&misses, &wanted.difference(&hits).copied().collect());
            prop_assert_eq!(out.hits.len() + out.misses.len(), wanted.len());
            if let Some(slot) = staged {
                let adopted = out.misses.iter().find(|m| m.staged);
                prop_assert_eq!(adopted.map(|m| (m.expert, m.slot)), Some((guess % 20, slot)).filter(|g| wanted.contains(&g.0)));
            }
            state.apply(&out);
            let after = contents(&state);
            if keep_last {
                prop_assert!(last.iter().all(|k| after.contains_key(k)), "what the last plan asked for stays");
            }
            last = wanted.iter().map(|&e| (layer, e)).collect();
            for &e in &wanted {
                prop_assert!(after.contains_key(&(layer, e)));
            }
            let evicted = before.keys().filter(|k| !after.contains_key(k)).count();
            prop_assert_eq!(evicted, misses.len().saturating_sub(slots as usize - before.len()), "no more is evicted than must be");
            if fails == 0 {
                for m in out.misses.clone() {
                    state.forget(layer, m.expert);
                }
                last.retain(|k| !misses.contains(&k.1));
                prop_assert_eq!(contents(&state).len(), after.len() - misses.len());
            }
        }
    }
}

/// Hit rate in the second half of a walk: each step gives the experts of each layer.
fn hit_rate(shape: &Shape, slots: u32, steps: usize, mut pick: impl FnMut(usize, u32) -> Vec<u32>) -> f64 {
    let mut state = State::new(shape.clone(), slots, Policy::new(shape));
    let mut out = ReadPlan::for_state(&state);
    let (mut hits, mut all) = (0, 0);
    for step in 0..steps {
        for layer in 0..shape.layers() as u32 {
            plan(&state, layer, &pick(step, layer), Purpose::Decode, false, &mut out).unwrap();
            state.apply(&out);
            if step >= steps / 2 {
                hits += out.hits.len();
                all += out.hits.len() + out.misses.len();
            }
        }
    }
    hits as f64 / all as f64
}

#[test]
fn a_cyclic_walk_larger_than_the_window_still_hits() {
    let shape = Shape::new([(8, 4); 10]).unwrap();
    let rate = hit_rate(&shape, 20, 100, |_, _| vec![0, 1, 2, 3]);
    // Least-recently-used never hits here. 20 slots, 40 experts in the cycle, 4 slots pass through: the best possible is 16 or 17 of 40.
    assert!(rate >= 0.4, "{rate}");
}

/// A choice of `k` experts of `n`, the chance of expert e of a layer falling with its rank as 1 / (rank + 2).
fn skewed(random: &mut Random, layer: u32, n: u32, k: usize) -> Vec<u32> {
    let mut chosen = Vec::new();
    while chosen.len() < k {
        let u = random.below(1 << 20) as f64 / (1 << 20) as f64;
        let rank = (2.0 * (((n + 2) as f64 / 2.0).powf(u) - 1.0)) as u32;
        let expert = (rank.min(n - 1) * 7 + layer * 3) % n;
        if !chosen.contains(&expert) {
            chosen.push(expert);
        }
    }
    chosen
}

#[test]
fn small_windows_hit_more_than_least_recently_used() {
    let shape = Shape::new([(64, 4); 12]).unwrap();
    // Least-recently-used hits 0, 15, 25 and 72% of this walk.
    for (slots, least) in [(24, 0.14), (48, 0.26), (96, 0.41), (384, 0.76)] {
        let mut random = Random(5);
        let rate = hit_rate(&shape, slots, 400, |_, layer| skewed(&mut random, layer, 64, 4));
        assert!(rate >= least, "{slots} slots: {rate}");
    }
}

/// Routing that repeats itself: half of the choices are those of the token before, the others any expert's.
#[test]
fn what_was_used_last_is_kept_where_routing_repeats_itself() {
    let shape = Shape::new([(64, 4); 12]).unwrap();
    let mut random = Random(5);
    let mut last = vec![Vec::new(); 12];
    let rate = hit_rate(&shape, 60, 400, |_, layer| {
        let chosen: &mut Vec<u32> = &mut last[layer as usize];
        chosen.retain(|_| random.below(2) == 0);
        while chosen.len() < 4 {
            let expert = random.below(64) as u32;
            if !chosen.contains(&expert) {
                chosen.push(expert);
            }
        }
        chosen.clone()
    });
    // 48 of 60 slots for what was used last hit half of the choices; frequencies alone, which are all equal, would hit one in thirteen.
    assert!(rate > 0.45, "{rate}");
}

#[test]
fn a_prompt_leaves_the_decode_window_alone() {
    let shape = Shape::new([(64, 4); 12]).unwrap();
    let mut random = Random(5);
    let mut state = State::new(shape.clone(), 200, Policy::new(&shape));
    let mut out = ReadPlan::for_state(&state);
    for _ in 0..300 {
        for layer in 0..12 {
            plan(&state, layer, &skewed(&mut random, layer, 64, 4), Purpose::Decode, false, &mut out).unwrap();
            state.apply(&out);
        }
    }
    let popular: Vec<_> = contents(&state).into_keys().collect();
    for _chunk in 0..3 {
        for layer in 0..12 {
            for group in (0..64u32).collect::<Vec<_>>().chunks(50) {
                plan(&state, layer, group, Purpose::Prefill, false, &mut out).unwrap();
                state.apply(&out);
            }
        }
    }
    let kept = popular.iter().filter(|&&(l, e)| state.slot(l, e).is_some()).count();
    assert!(kept >= 150 - 14, "{kept} of 200 survive groups of 50");
}

#[test]
fn a_change_of_topic_is_followed() {
    let shape = Shape::new([(64, 4); 4]).unwrap();
    let mut random = Random(2);
    let rate = hit_rate(&shape, 64, 600, |step, layer| {
        skewed(&mut random, layer, 20, 4).into_iter().map(|e| if step < 300 { e } else { e + 30 }).collect()
    });
    assert!(rate > 0.6, "{rate}");
}
