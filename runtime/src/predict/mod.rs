//! How fast a model will be on this machine, before anything of it is loaded: memory by the budget itself, hits by a curve, kernels and disk by a short measurement.
//!
//! Computing `C` and reading `R` go on at the same time. A token of a prompt takes `max(C, R) + u min(C, R)`: the share `u` of the smaller is not hidden behind the larger.
//! A decoded one takes the root of `C^2 + R^2`: its layers miss a few experts each, now more and now fewer, and the closer the two are the more often either waits for the
//! other. Where a layer is computed sooner than one expert can be read, nobody can ask in time, and a part of a token takes `C + R` ([`Predictor::late`]). `C` is what the
//! products of the model take, what else a token costs, and what bytes that are read cost the processors; everything that goes in is printed.

pub mod compute;
pub mod drive;
pub mod hits;
pub mod neurons;
pub mod work;

use crate::budget::MemoryPlan;
use crate::disk::Twice;
use crate::store::Resident;
use compute::Compute;
use drive::Drive;
use hits::HitCurve;
use neurons::Firing;
pub use work::Work;

/// What a token takes beside products, recurrences and attention, as a share of those: norms, activations, choosing experts, handing work to threads. Decoding
/// was 10, 10 and 7% above the products alone in the medians of three tables of eight (docs/LEARNED.md, 2026-11-26).
const REST: f64 = 0.10;
/// A byte that is read goes through memory so many times before a kernel sees it: the drive's copy, and its being fetched for the sum.
const TRAFFIC: f64 = 2.0;
/// Part of the smaller of computing and reading that is not hidden behind the larger in a prompt: as expected, at best and at worst.
/// Measured (docs/LEARNED.md, 2026-11-26): 0.02 to 0.16.
pub const UNHIDDEN_PROMPT: Three = Three { low: 0.05, expected: 0.13, high: 0.4 };
/// The same of decoded tokens at best and at worst. What is expected is the root of the sum of squares, which leaves up to 0.41: 0.27 to 0.6 measured where they are about equal.
pub const UNHIDDEN_DECODING: [f64; 2] = [0.05, 0.6];
/// How far a short measurement may be from what the machine gives a minute later.
const WAVERING: f64 = 0.1;
/// What is read on wrong guesses, as a share of what is missed: 0.03 at 45% misses of a made-up mixture whose routers are easily guessed, 0.37 at 13% of a small trained one.
const GUESSED_IN_VAIN: f64 = 0.1;
/// Layers whose routers are asked ahead.
const GUESSES: f64 = 2.0;

/// A number with a range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Three {
    /// Smallest.
    pub low: f64,
    /// Expected.
    pub expected: f64,
    /// Largest.
    pub high: f64,
}

/// What the machine gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Speeds {
    /// Its processors and memory.
    pub compute: Compute,
    /// Its disk.
    pub drive: Drive,
}

/// What is expected of a token or a prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Share of experts that are in the window.
    pub hit_rate: Three,
    /// Share of the neuron groups that a token (or a step of a prompt) wants, and of those in the window.
    pub groups: f64,
    /// Share of the wanted neuron groups that are in the window.
    pub group_hits: Three,
    /// Bytes read for each token.
    pub bytes: f64,
    /// Seconds of reading alone, for each token.
    pub io: f64,
    /// Seconds of computing alone, for each token.
    pub compute: f64,
    /// Seconds that what is read costs the processors, for each token.
    pub taking_in: f64,
    /// Tokens a second.
    pub rate: Three,
}

impl Prediction {
    /// The larger of compute and I/O over the expected time.
    pub fn efficiency(&self) -> f64 {
        self.io.max(self.compute) * self.rate.expected
    }

    /// Experts that a layer with experts does not find, at least one.
    pub fn missed_per_layer(&self, work: &Work) -> f64 {
        missed_per_layer(work, self.hit_rate.expected)
    }
}

/// Whether places were read before. Most that is read was, in this session or the last; where a host's or a drive's cache makes that matter, the first time is the worst case.
#[derive(Clone, Copy)]
enum Reading {
    First,
    Again,
}

impl Reading {
    fn of(self, speed: Twice) -> f64 {
        match self {
            Reading::First => speed.first,
            Reading::Again => speed.again,
        }
    }
}

/// Computing and reading of some tokens, in seconds and bytes.
#[derive(Clone, Copy)]
struct Parts {
    compute: f64,
    bytes: f64,
    io: f64,
    taking_in: f64,
}

impl Parts {
    /// Seconds, if `unhidden` of the smaller part is not hidden.
    fn seconds(&self, unhidden: f64) -> f64 {
        seconds(self.io, self.compute + self.taking_in, unhidden)
    }

    /// Seconds of a decoded token, as expected.
    fn decoding(&self) -> f64 {
        self.io.hypot(self.compute + self.taking_in).max(1e-9)
    }

    /// Seconds of a decoded token that takes `in_time` as far as experts can be asked for in time.
    fn with_late(&self, in_time: f64, late: Late) -> f64 {
        in_time + late.share * (self.io + self.compute + self.taking_in - in_time) + late.waits
    }
}

/// Reading that nobody can ask for in time.
#[derive(Clone, Copy)]
struct Late {
    /// Share of a token's reading that nothing is computed beside.
    share: f64,
    /// Seconds that a token waits for it behind wrong guesses.
    waits: f64,
}

/// A machine and a model.
#[derive(Clone, Copy)]
pub struct Predictor<'a> {
    /// What a token takes.
    pub work: &'a Work,
    /// What the machine gives.
    pub speeds: &'a Speeds,
    /// Hit rate by window.
    pub hits: &'a HitCurve,
    /// Which neuron groups tokens want; `None`: all, or there are none.
    pub firing: Option<&'a Firing>,
}

impl Predictor<'_> {
    /// Single tokens at about `position`, `after` so many from an empty window; `None`: when the window has settled.
    pub fn decode(&self, plan: &MemoryPlan, position: u32, after: Option<u32>) -> Prediction {
        let hits = self.hits_at(plan, after);
        let group_hits = self.group_hits(plan);
        let parts = |of: fn(Three) -> f64, reading: Reading| self.token(plan, of(hits), of(group_hits), position, reading);
        let expected = parts(|t| t.expected, Reading::Again);
        let [best, worst] = UNHIDDEN_DECODING;
        let late = |hit: f64, parts: Parts, in_time: f64| parts.with_late(in_time, self.late(plan, hit, parts.compute));
        let slow = [Reading::First, Reading::Again].map(|reading| {
            let parts = parts(|t| t.low, reading);
            late(hits.low, parts, parts.seconds(worst))
        });
        let fast = parts(|t| t.high, Reading::Again);
        Prediction {
            hit_rate: hits,
            groups: neurons::wanted(self.firing, plan, 1),
            group_hits,
            bytes: expected.bytes,
            io: expected.io,
            compute: expected.compute,
            taking_in: expected.taking_in,
            rate: Three {
                low: 1.0 / (slow[0].max(slow[1]) * (1.0 + WAVERING)),
                expected: 1.0 / late(hits.expected, expected, expected.decoding()),
                high: 1.0 / (late(hits.high, fast, fast.seconds(best)) * (1.0 - WAVERING)),
            },
        }
    }

    /// What `of` says of the same model in a type that takes `share` of the bytes, at the same limit.
    pub fn lighter<T>(&self, plan: &MemoryPlan, share: f64, of: impl FnOnce(&Predictor<'_>, &MemoryPlan) -> T) -> T {
        let less = |bytes: u64| (bytes as f64 * share) as u64;
        let (mut work, mut plan) = (self.work.clone(), plan.clone());
        for bytes in [&mut work.trunk_bytes, &mut work.routed_bytes, &mut work.experts_bytes, &mut work.expert_bytes] {
            *bytes = less(*bytes);
        }
        work.experts.iter_mut().for_each(|e| e.bytes = less(e.bytes));
        work.grouped.iter_mut().for_each(|g| g.bytes = g.bytes.map(less));
        plan.group_slots = ((f64::from(plan.group_slots) / share) as u32).min(plan.groups);
        // What the trunk gives up goes to the layers that are streamed, then to the window.
        let mut freed = plan.trunk - less(plan.trunk);
        let streamed = less(plan.streamed_bytes);
        plan.streamed_bytes = streamed.saturating_sub(freed);
        freed = freed.saturating_sub(streamed);
        let room = plan.slot_bytes.saturating_mul(u64::from(plan.slots)).saturating_add(freed);
        let slots = room.checked_div(less(plan.slot_bytes)).unwrap_or(0);
        plan.slots = u32::try_from(slots).unwrap_or(u32::MAX).min(plan.experts);
        let speeds = Speeds { compute: self.speeds.compute.lighter(share), drive: self.speeds.drive.clone() };
        of(&Predictor { work: &work, speeds: &speeds, ..*self }, &plan)
    }

    /// Hit rate of the plan's window. Until it is full, it is as if it held everything that was chosen so far.
    fn hits_at(&self, plan: &MemoryPlan, after: Option<u32>) -> Three {
        let Some(main) = self.work.main_experts() else { return self.hits.at(1.0) };
        let settled = self.hits.at(f64::from(plan.slots) / f64::from(plan.experts.max(1)));
        let Some(after) = after else { return settled };
        let fresh = |skew: f64| {
            let room = self.needed(after, skew).0 <= f64::from(plan.slots);
            room.then(|| hits::chosen_before(main.count, main.top_k, after, skew))
        };
        let Three { low, expected, high } = self.hits.skew;
        let least = |skew: f64, settled: f64| fresh(skew).map_or(settled, |fresh| fresh.min(settled));
        Three { low: least(low, settled.low), expected: least(expected, settled.expected), high: least(high, settled.high) }
    }

    /// Share of the wanted neuron groups that are in the plan's window when it has settled.
    fn group_hits(&self, plan: &MemoryPlan) -> Three {
        let held = f64::from(plan.group_slots) / f64::from(plan.groups.max(1));
        match self.firing {
            Some(firing) if plan.resident == Resident::Triggers => firing.hits(held),
            // A cycle through all of them finds what stays.
            _ => Three { low: held, expected: held, high: held },
        }
    }

    /// Bytes of neuron groups, and bytes a second of reading them.
    fn groups(&self, plan: &MemoryPlan, share: f64, reading: Reading) -> (f64, f64) {
        let d = &self.speeds.drive;
        let reads = neurons::reads(self.work, plan, share);
        (reads.bytes, reading.of(if reads.in_order { d.sequential } else { d.groups }))
    }

    /// A token at the hit rates of experts and of neuron groups.
    fn token(&self, plan: &MemoryPlan, hit: f64, group_hit: f64, position: u32, reading: Reading) -> Parts {
        let (work, c, d) = (self.work, &self.speeds.compute, &self.speeds.drive);
        let missed = work.routed_bytes as f64 * (1.0 - hit);
        let experts = missed * (1.0 + GUESSED_IN_VAIN);
        let streamed = (plan.streamed_bytes + if plan.row_slots > 0 { plan.row_slot_bytes } else { 0 }) as f64;
        let batch = missed_per_layer(work, hit);
        let guesses = if plan.staging > 0 { GUESSES * c.guesses } else { 0.0 };
        let products = c.trunk.at(1.0) + c.head + c.experts.at(1.0) + guesses + c.groups_for(plan).at(1.0);
        let (groups, group_speed) = self.groups(plan, neurons::wanted(self.firing, plan, 1) * (1.0 - group_hit), reading);
        let compute = (products + c.recurrence[0] + self.attention(f64::from(position))) * (1.0 + REST);
        let bytes = experts + streamed + groups;
        let io = experts / reading.of(d.experts(batch)) + streamed / reading.of(d.sequential) + groups / group_speed;
        Parts { compute, bytes, io, taking_in: self.taking_in(bytes) }
    }

    /// What cannot be read in time. An expert is asked for about one layer's computing before it is wanted: where that is shorter than reading one takes, the rest is waited for,
    /// and in half of the layers that miss something a wrong guess is with the drive when the right one comes.
    fn late(&self, plan: &MemoryPlan, hit: f64, compute: f64) -> Late {
        let (work, layers) = (self.work, self.work.experts.len().max(1) as f64);
        let Some(main) = work.main_experts().filter(|_| plan.slots < plan.experts) else { return Late { share: 0.0, waits: 0.0 } };
        let latency = main.bytes as f64 / self.speeds.drive.experts(1.0).again;
        let share = 1.0 - (compute / layers / latency).min(1.0);
        let missing = layers * (1.0 - hit.powi(main.top_k as i32));
        Late { share, waits: share * missing * latency / 2.0 }
    }

    /// Attention of one token that sees so many positions.
    fn attention(&self, positions: f64) -> f64 {
        self.speeds.compute.position * positions
    }

    /// What bytes that are read cost the processors: their sums, and the memory that they pass through.
    fn taking_in(&self, bytes: f64) -> f64 {
        let c = &self.speeds.compute;
        bytes * (c.sum + TRAFFIC * c.memory)
    }

    /// Experts that `tokens` tokens choose, and their bytes, in all layers.
    fn needed(&self, tokens: u32, skew: f64) -> (f64, f64) {
        let mut known: Option<((u32, u32), f64)> = None;
        let each = self.work.experts.iter().map(|e| {
            let shape = (e.count, e.top_k);
            let count = match known {
                Some((last, count)) if last == shape => count,
                _ => hits::distinct(e.count, e.top_k, tokens, skew),
            };
            known = Some((shape, count));
            (count, count * e.bytes as f64)
        });
        each.fold((0.0, 0.0), |sum, each| (sum.0 + each.0, sum.1 + each.1))
    }

    /// A prompt of `tokens` tokens in steps of `chunk`, from an empty window; all numbers are for each token.
    pub fn prompt(&self, plan: &MemoryPlan, tokens: u32, chunk: u32) -> Prediction {
        let tokens = tokens.max(1);
        let steps = tokens.div_ceil(chunk.max(1));
        let step = tokens.div_ceil(steps);
        let fits = plan.slots >= plan.experts;
        let parts = |skew: f64, reading: Reading| {
            let (work, c, d) = (self.work, &self.speeds.compute, &self.speeds.drive);
            let (rows, steps) = (f64::from(step), f64::from(steps));
            let (experts, expert_bytes) = self.needed(step, skew);
            // What fits is read once; else each step reads what it needs.
            let read = if fits { self.needed(tokens, skew).1 } else { expert_bytes * steps };
            let streamed = plan.streamed_bytes as f64 * steps;
            let routed = work.routed as f64;
            let group = if experts > 0.0 { rows * routed / experts } else { 1.0 };
            let of_experts = if routed > 0.0 { experts / routed * c.experts.at(group) } else { 0.0 };
            let step_seconds = c.trunk.at(rows)
                + of_experts
                + c.groups_for(plan).at(rows)
                + rows * (c.recurrence[1] + self.attention(f64::from(tokens) / 2.0));
            let compute = (steps * step_seconds + c.head) * (1.0 + REST);
            let batch = (experts / work.experts.len().max(1) as f64 / 2.0).max(1.0);
            let groups = match plan.group_slots >= plan.groups {
                true => self.groups(plan, neurons::wanted(self.firing, plan, tokens), reading),
                false => self.groups(plan, neurons::wanted(self.firing, plan, step) * steps, reading),
            };
            let bytes = read + streamed + groups.0;
            // Layers were read when the trunk was loaded.
            let io = read / reading.of(d.experts(batch)) + streamed / Reading::Again.of(d.sequential) + groups.0 / groups.1;
            let each = f64::from(tokens);
            Parts { compute: compute / each, bytes: bytes / each, io: io / each, taking_in: self.taking_in(bytes) / each }
        };
        let expected = parts(self.hits.skew.expected, Reading::Again);
        let seconds = |skew: f64, reading: Reading, unhidden: f64| parts(skew, reading).seconds(unhidden);
        let worst = |reading: Reading| seconds(self.hits.skew.low, reading, UNHIDDEN_PROMPT.high);
        Prediction {
            hit_rate: Three { low: 0.0, expected: 0.0, high: 0.0 },
            groups: neurons::wanted(self.firing, plan, step),
            group_hits: Three { low: 0.0, expected: 0.0, high: 0.0 },
            bytes: expected.bytes,
            io: expected.io,
            compute: expected.compute,
            taking_in: expected.taking_in,
            rate: Three {
                low: 1.0 / (worst(Reading::First).max(worst(Reading::Again)) * (1.0 + WAVERING)),
                expected: 1.0 / expected.seconds(UNHIDDEN_PROMPT.expected),
                high: 1.0 / (seconds(self.hits.skew.high, Reading::Again, UNHIDDEN_PROMPT.low) * (1.0 - WAVERING)),
            },
        }
    }
}

/// Where anything is missed, it is at least one expert.
fn missed_per_layer(work: &Work, hit: f64) -> f64 {
    (work.routed as f64 * (1.0 - hit) / work.experts.len().max(1) as f64).max(1.0)
}

/// The larger, and a part of the smaller.
fn seconds(io: f64, compute: f64, unhidden: f64) -> f64 {
    (io.max(compute) + io.min(compute) * unhidden).max(1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_hides_the_smaller_part() {
        assert_eq!(seconds(3.0, 2.0, 0.0), 3.0);
        assert_eq!(seconds(2.0, 3.0, 1.0), 5.0);
        assert_eq!(seconds(0.0, 3.0, 1.0), 3.0);
        let parts = Parts { compute: 2.5, bytes: 1.0, io: 4.0, taking_in: 0.5 };
        assert_eq!(parts.decoding(), 5.0);
        assert_eq!(parts.with_late(5.0, Late { share: 0.5, waits: 0.25 }), 6.25);
    }

    #[test]
    fn what_is_asked_for_too_late_is_waited_for() {
        let pack = crate::testing::TinyPack::new().open();
        let work = Work::new(&pack.manifest, &pack.index);
        let needs = crate::budget::Needs::default();
        let mut plan = MemoryPlan::new(&pack.manifest, &pack.index, &pack.superblock, &needs, 1 << 40).unwrap();
        plan.slots = plan.experts / 2;
        let speeds = Speeds { compute: Compute::assumed(&work, 20e9, 100e9), drive: Drive::assumed(1e9) };
        let predictor = Predictor { work: &work, speeds: &speeds, hits: &HitCurve::trained(), firing: None };
        let latency = work.main_experts().unwrap().bytes as f64 / 1e9;
        let layers = work.experts.len() as f64;
        let none = predictor.late(&plan, 0.5, layers * latency);
        assert_eq!((none.share, none.waits), (0.0, 0.0));
        let half = predictor.late(&plan, 0.0, layers * latency / 2.0);
        assert!((half.share - 0.5).abs() < 1e-9 && (half.waits - layers * latency / 4.0).abs() < 1e-9);
        plan.slots = plan.experts;
        assert_eq!(predictor.late(&plan, 0.0, 0.0).share, 0.0);
    }

    #[test]
    fn more_memory_faster_disks_and_faster_kernels_help_and_ranges_hold_what_is_expected() {
        let pack = crate::testing::TinyPack::new().open();
        let work =
            Work { routed_bytes: 540 << 20, trunk_bytes: 1170 << 20, expert_bytes: 1769472, ..Work::new(&pack.manifest, &pack.index) };
        let of = |disk: f64, weights: f64| Speeds { compute: Compute::assumed(&work, weights, 100e9), drive: Drive::assumed(disk) };
        let hits = HitCurve::trained();
        let needs = crate::budget::Needs::default();
        let with = |speeds: &Speeds, slots: u32| {
            let mut plan = MemoryPlan::new(&pack.manifest, &pack.index, &pack.superblock, &needs, 1 << 40).unwrap();
            plan.slots = slots;
            Predictor { work: &work, speeds, hits: &hits, firing: None }.decode(&plan, 0, None)
        };
        let speeds = of(2e9, 20e9);
        let (few, many, all) = (with(&speeds, 4), with(&speeds, 10), with(&speeds, 16));
        let rates = [few.rate.expected, many.rate.expected, all.rate.expected];
        assert!(rates[0] < rates[1] && rates[1] < rates[2], "{few:?} {many:?} {all:?}");
        assert_eq!((all.bytes, all.hit_rate.expected), (0.0, 1.0));
        for p in [few, many, all] {
            assert!(p.rate.low <= p.rate.expected && p.rate.expected <= p.rate.high && p.efficiency() <= 1.0 + 1e-9, "{p:?}");
        }
        assert!(with(&of(4e9, 20e9), 4).rate.expected > few.rate.expected);
        assert!(with(&of(2e9, 40e9), 16).rate.expected > all.rate.expected * 1.4);
    }
}
