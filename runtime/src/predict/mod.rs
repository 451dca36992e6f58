//! How fast a model will be on this machine, before anything of it is loaded: memory by the budget itself, hits by a curve, disk and kernels by a short measurement.
//!
//! A token costs `max(compute, I/O)` and a part of the smaller of the two, because overlap is never perfect. Everything that goes in is printed.

pub mod hits;
pub mod speeds;

use crate::budget::MemoryPlan;
use forebay_format::layout::manifest::TensorPlace;
use forebay_format::model::{Ffn, Role};
use forebay_format::{BundleId, Index, Kind, Manifest, QuantType};
use hits::HitCurve;
use speeds::Speeds;
use std::collections::HashMap;

/// Share of the kernels' speed on one large matrix that whole tokens reach: routers, norms, attention and hand-outs take the rest.
pub const DECODE_SHARE: f64 = 0.75;
/// The same for prompts.
pub const PROMPT_SHARE: f64 = 0.6;
/// Part of the smaller of compute and I/O that is not hidden behind the larger: as expected, at best and at worst.
pub const UNHIDDEN: Three = Three { low: 0.1, expected: 0.4, high: 1.0 };
/// What is read on wrong guesses, as a share of what is read.
const GUESSED_IN_VAIN: f64 = 0.05;

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

/// What a token of a model takes, whatever the machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// Trunk bytes that every token goes through: all layers and the head.
    pub trunk_bytes: u64,
    /// Expert bytes that a token uses.
    pub routed_bytes: u64,
    /// Experts that a token uses.
    pub routed: u64,
    /// Bytes of all experts.
    pub experts_bytes: u64,
    /// Longest expert.
    pub expert_bytes: u64,
    /// Slices of an expert.
    pub slices: u64,
    /// Layers with experts: number of experts, experts a token uses, bytes of one.
    pub layers: Vec<(u32, u32, u64)>,
    /// Multiply-adds of a token.
    pub macs: u64,
    /// The type of most of the bytes that a token goes through.
    pub main_type: QuantType,
}

impl Work {
    /// From a pack, or the outline of one.
    pub fn new(manifest: &Manifest, index: &Index) -> Work {
        let length = |id: BundleId| index.get(id).map_or(0, |r| r.length);
        let mut types: HashMap<QuantType, u64> = HashMap::new();
        let mut macs = 0u64;
        let mut trunk_bytes = length(BundleId::global(Kind::Head, 0));
        let mut tensor = |place: &TensorPlace| {
            let values = u64::from(place.rows) * u64::from(place.cols);
            macs += values;
            let bytes = place.qtype.row_bytes(place.cols as usize).map_or(0, |b| b as u64 * u64::from(place.rows));
            *types.entry(place.qtype).or_default() += bytes;
        };
        manifest.head.iter().filter(|p| p.role == Role::Head).for_each(&mut tensor);
        if manifest.spec.tied_head {
            trunk_bytes += length(BundleId::global(Kind::Embedding, 0));
            manifest.embedding.iter().for_each(&mut tensor);
        }
        for (layer, places) in (0u32..).zip(&manifest.trunk) {
            trunk_bytes += length(BundleId::trunk(layer));
            places.iter().for_each(&mut tensor);
        }
        let mut layers = Vec::new();
        for ((layer, spec), place) in (0u32..).zip(&manifest.spec.layers).zip(&manifest.experts) {
            let (Ffn::Routed(routed), Some(place)) = (&spec.ffn, place) else { continue };
            let bytes = length(BundleId::expert(layer, 0));
            layers.push((routed.experts, routed.top_k, bytes));
            macs += 3 * u64::from(routed.expert.inner) * u64::from(manifest.spec.hidden) * u64::from(routed.top_k);
            *types.entry(place.gate).or_default() += bytes * u64::from(routed.top_k) * 2 / 3;
            *types.entry(place.down).or_default() += bytes * u64::from(routed.top_k) / 3;
        }
        let main_type = types.into_iter().max_by_key(|&(t, bytes)| (bytes, t as u32)).map_or(QuantType::F32, |t| t.0);
        Work {
            trunk_bytes,
            routed_bytes: layers.iter().map(|&(_, k, bytes)| u64::from(k) * bytes).sum(),
            routed: layers.iter().map(|l| u64::from(l.1)).sum(),
            experts_bytes: layers.iter().map(|&(n, _, bytes)| u64::from(n) * bytes).sum(),
            expert_bytes: layers.iter().map(|l| l.2).max().unwrap_or(0),
            slices: manifest.experts.iter().flatten().map(|p| p.slices.len() as u64).max().unwrap_or(1),
            layers,
            macs,
            main_type,
        }
    }
}

/// What is expected of a token or a prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// Share of experts that are in the window.
    pub hit_rate: f64,
    /// Bytes read for each token.
    pub bytes: f64,
    /// Seconds of reading alone, for each token.
    pub io: f64,
    /// Seconds of computing alone, for each token.
    pub compute: f64,
    /// Tokens a second.
    pub rate: Three,
}

impl Prediction {
    /// The larger of compute and I/O over the expected time.
    pub fn efficiency(&self) -> f64 {
        self.io.max(self.compute) * self.rate.expected
    }
}

/// A machine and a model.
pub struct Predictor<'a> {
    /// What a token takes.
    pub work: &'a Work,
    /// What the machine gives.
    pub speeds: &'a Speeds,
    /// Hit rate by window.
    pub hits: &'a HitCurve,
}

impl Predictor<'_> {
    /// Single tokens, the window warm.
    pub fn decode(&self, plan: &MemoryPlan) -> Prediction {
        let share = if plan.experts == 0 { 1.0 } else { f64::from(plan.slots) / f64::from(plan.experts) };
        let hits = self.hits.at(share);
        let at = |hit: f64| self.token(plan, hit);
        let (bytes, io, compute) = at(hits.expected);
        let rate = |hit: f64, unhidden: f64| {
            let (_, io, compute) = at(hit);
            1.0 / seconds(io, compute, unhidden)
        };
        Prediction {
            hit_rate: hits.expected,
            bytes,
            io,
            compute,
            rate: Three {
                low: rate(hits.low, UNHIDDEN.high),
                expected: rate(hits.expected, UNHIDDEN.expected),
                high: rate(hits.high, UNHIDDEN.low),
            },
        }
    }

    /// Bytes, I/O and compute of a token at a hit rate.
    fn token(&self, plan: &MemoryPlan, hit: f64) -> (f64, f64, f64) {
        let missed = self.work.routed_bytes as f64 * (1.0 - hit);
        let experts = if missed > 0.0 { missed * (1.0 + GUESSED_IN_VAIN) } else { 0.0 };
        let streamed = (plan.streamed_bytes + if plan.row_slots > 0 { plan.row_slot_bytes } else { 0 }) as f64;
        // A layer's misses are with the drive together, and the guesses for the next; where anything is missed, it is at least one expert.
        let per_layer = (self.work.routed as f64 * (1.0 - hit) / self.work.layers.len().max(1) as f64).max(1.0);
        let depth = (2.0 * per_layer * self.work.expert_bytes as f64 / self.speeds.read_bytes as f64).clamp(1.0, 64.0);
        let io = experts / self.speeds.random(depth) + streamed / self.speeds.sequential;
        let compute = (self.work.trunk_bytes + self.work.routed_bytes) as f64 / (self.speeds.weights * DECODE_SHARE);
        (experts + streamed, io, compute)
    }

    /// A prompt of `tokens` tokens in steps of `chunk`, from an empty window; all numbers are for each token.
    pub fn prompt(&self, plan: &MemoryPlan, tokens: u32, chunk: u32) -> Prediction {
        let tokens = tokens.max(1);
        let steps = tokens.div_ceil(chunk.max(1));
        let step = tokens.div_ceil(steps);
        let fits = plan.slots >= plan.experts;
        // What fits is read once; else each step reads what it needs.
        let (rounds, together) = if fits { (1, tokens) } else { (steps, step) };
        let needed = |skew: f64| -> f64 {
            let of = |&(experts, top_k, bytes): &(u32, u32, u64)| hits::distinct(experts, top_k, together, skew) * bytes as f64;
            let mut known: Option<((u32, u32, u64), f64)> = None;
            let layers = self.work.layers.iter().map(|layer| match known {
                Some((last, bytes)) if last == *layer => bytes,
                _ => {
                    let bytes = of(layer);
                    known = Some((*layer, bytes));
                    bytes
                }
            });
            layers.sum::<f64>() * f64::from(rounds)
        };
        let streamed = plan.streamed_bytes as f64 * f64::from(steps);
        let compute = self.work.macs as f64 / (self.speeds.macs * PROMPT_SHARE);
        let per = |skew: f64| {
            let bytes = (needed(skew) + streamed) / f64::from(tokens);
            (bytes, bytes / self.speeds.random(16.0).max(self.speeds.sequential))
        };
        let (bytes, io) = per(self.hits.skew.expected);
        let rate = |skew: f64, unhidden: f64| 1.0 / seconds(per(skew).1, compute, unhidden);
        Prediction {
            hit_rate: 0.0,
            bytes,
            io,
            compute,
            rate: Three {
                low: rate(self.hits.skew.low, UNHIDDEN.high),
                expected: rate(self.hits.skew.expected, UNHIDDEN.expected),
                high: rate(self.hits.skew.high, UNHIDDEN.low),
            },
        }
    }
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
    }

    #[test]
    fn work_of_a_small_pack_adds_up() {
        let pack = crate::testing::TinyPack::new().open();
        let work = Work::new(&pack.manifest, &pack.index);
        let experts: u64 = pack.index.records().iter().filter(|r| r.id.kind == Kind::Expert).map(|r| r.length).sum();
        assert_eq!(work.experts_bytes, experts);
        assert!(work.routed > 0 && work.routed_bytes < experts && work.macs > 0 && work.trunk_bytes > 0);
    }

    #[test]
    fn more_memory_faster_disks_and_faster_kernels_help_and_ranges_hold_what_is_expected() {
        let pack = crate::testing::TinyPack::new().open();
        let work =
            Work { routed_bytes: 540 << 20, trunk_bytes: 1170 << 20, expert_bytes: 1769472, ..Work::new(&pack.manifest, &pack.index) };
        let speeds = Speeds::assumed(&work, 2e9, 20e9, 100e9);
        let hits = HitCurve::trained();
        let needs = crate::budget::Needs::default();
        let with = |speeds: &Speeds, slots: u32| {
            let mut plan = MemoryPlan::new(&pack.manifest, &pack.index, &pack.superblock, &needs, 1 << 40).unwrap();
            plan.slots = slots;
            Predictor { work: &work, speeds, hits: &hits }.decode(&plan)
        };
        let (few, many, all) = (with(&speeds, 4), with(&speeds, 10), with(&speeds, 16));
        let rates = [few.rate.expected, many.rate.expected, all.rate.expected];
        assert!(rates[0] < rates[1] && rates[1] < rates[2], "{few:?} {many:?} {all:?}");
        assert_eq!((all.bytes, all.hit_rate), (0.0, 1.0));
        for p in [few, many, all] {
            assert!(p.rate.low <= p.rate.expected && p.rate.expected <= p.rate.high && p.efficiency() <= 1.0 + 1e-9, "{p:?}");
        }
        assert!(with(&Speeds::assumed(&work, 4e9, 20e9, 100e9), 4).rate.expected > few.rate.expected);
        assert!(with(&Speeds::assumed(&work, 2e9, 40e9, 100e9), 16).rate.expected > all.rate.expected * 1.9);
    }
}
