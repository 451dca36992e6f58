//! Loading the trunk, and learning on the way how the drive likes to be read: the size of a request, and how much to ask for at once.
//!
//! More in flight than the drive needs is not free. A virtual drive that serves requests one after the other may report none of them before the last is
//! done; even on a good one, whatever is in flight goes before what turns out to be urgent. So the least is used that gets what the drive can give.

use std::time::Instant;

use forebay_format::BundleId;

use super::reader::Arrival;
use super::{Store, lost};
use crate::budget::MemoryPlan;
use crate::error::{Error, Result};
use crate::io::{PIECE_BYTES, Urgency};
use crate::kernels::Pool;
use crate::trunk::TrunkMap;

const MIB: usize = 1 << 20;
/// Request sizes tried: about a slice of an expert, and the longest.
const REQUESTS: [usize; 2] = [256 << 10, PIECE_BYTES];
/// Bytes in flight tried.
const IN_FLIGHT: [usize; 5] = [2 * MIB, 4 * MIB, 8 * MIB, 16 * MIB, 32 * MIB];
/// A run shorter than this says little about the drive.
pub const LEAST_RUN: u64 = 8 << 20;
/// Each way is tried at least this often.
pub const ROUNDS: usize = 2;
/// Least in flight where there are no experts: layers are streamed in order, and nothing urgent has to wait behind them. While loading, a drive may give the same in every way,
/// as a virtual one does whose host has not read the places before; 23 of 32 layers streamed for each token then took 1.51 to 1.59 GB/s with 2 MiB in flight and 1.64 to 1.95
/// with 8 or 16.
const STREAMING: usize = 16 * MIB;
/// The share of the best throughput that is good enough for a way that asks for less.
const ENOUGH: f64 = 0.85;

/// How the drive is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Bytes of a request, where there is a choice.
    pub request: usize,
    /// Most bytes with the drive at once.
    pub in_flight: usize,
}

impl Default for Pace {
    /// For a drive that was not measured: enough for one of 2.7 GB/s with a latency of 6 ms.
    fn default() -> Pace {
        Pace { request: REQUESTS[0], in_flight: 16 * MIB }
    }
}

/// One measurement of a pack's drive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// How it was read.
    pub pace: Pace,
    /// Bytes a second.
    pub rate: f64,
}

/// The ways that are tried, in turns.
pub fn paces() -> impl Iterator<Item = Pace> {
    let all = REQUESTS.into_iter().flat_map(|request| IN_FLIGHT.map(|in_flight| Pace { request, in_flight }));
    all.filter(|p| p.in_flight >= p.request)
}

/// The median rate of each way, in the order of [`paces`]; empty if one was not tried often enough.
pub fn curve(samples: &[Sample]) -> Vec<Sample> {
    let of = |pace: Pace| {
        let rates: Vec<f64> = samples.iter().filter(|s| s.pace == pace).map(|s| s.rate).collect();
        Some(Sample { pace, rate: median(rates).filter(|_| samples.len() >= ROUNDS * paces().count())? })
    };
    paces().map(of).collect::<Option<_>>().unwrap_or_default()
}

/// The least in flight that gets [`ENOUGH`] of what more would, and there the shorter request if it gets as large a share of what the longer one does. What more
/// would is a median too, over all that have at least as much in flight: with the best of them instead, one lucky moment of an uneven drive would decide.
pub fn choose(curve: &[Sample]) -> Pace {
    let rate = |request: usize, in_flight: usize| curve.iter().find(|s| s.pace == Pace { request, in_flight }).map_or(0.0, |s| s.rate);
    let most = |of: &dyn Fn(usize) -> f64| REQUESTS.iter().map(|&request| of(request)).fold(0.0, f64::max);
    let more = |request: usize, in_flight: usize| {
        let own = curve.iter().filter(|s| s.pace.request == request && s.pace.in_flight >= in_flight);
        median(own.map(|s| s.rate).collect()).unwrap_or(0.0)
    };
    for in_flight in IN_FLIGHT {
        let here = most(&|request| rate(request, in_flight));
        if here > 0.0 && here >= ENOUGH * most(&|request| more(request, in_flight)) {
            let request = REQUESTS.into_iter().find(|&request| rate(request, in_flight) >= ENOUGH * here);
            return Pace { request: request.unwrap_or(PIECE_BYTES), in_flight };
        }
    }
    Pace::default()
}

fn median(mut rates: Vec<f64>) -> Option<f64> {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied()
}

impl Store {
    /// Reads the runs that stay, each in another way while that teaches something.
    pub(super) fn load_trunk(&mut self, plan: &MemoryPlan, pool: &Pool) -> Result<()> {
        let runs: Vec<(usize, BundleId)> =
            TrunkMap::bundles(&self.pack.manifest).enumerate().filter(|&(run, _)| plan.holds_run(run)).collect();
        let length = |id: BundleId| self.pack.index.get(id).map_or(0, |r| r.length);
        let long = runs.iter().filter(|&&(_, id)| length(id) >= LEAST_RUN).count();
        let measure = long >= ROUNDS * paces().count();
        let mut ways = paces().collect::<Vec<_>>().into_iter().cycle();
        let mut samples = Vec::new();
        self.set_pace(Pace::default());
        for (span, id) in runs {
            let record = self.pack.index.get(id).map_err(|error| Error::Format { file: self.pack.path.clone(), error })?;
            let length = record.length;
            let way = ways.next().filter(|_| measure && length >= LEAST_RUN);
            if let Some(pace) = way {
                // One at a time, or they would measure each other.
                self.finish_loading(pool)?;
                self.set_pace(pace);
            }
            let start = Instant::now();
            self.read_trunk(span, id)?;
            if let Some(pace) = way {
                self.finish_loading(pool)?;
                samples.push(Sample { pace, rate: length as f64 / start.elapsed().as_secs_f64().max(1e-9) });
            }
        }
        self.curve = curve(&samples);
        self.set_pace(self.best_pace());
        self.finish_loading(pool)?;
        self.trunk_bytes = self.io.queue.stats().bytes;
        Ok(())
    }

    fn read_trunk(&mut self, span: usize, id: BundleId) -> Result<()> {
        let record = self.pack.index.get(id).map_err(|error| Error::Format { file: self.pack.path.clone(), error })?;
        let read = self.io.read_run(&self.pack, &mut self.trunk, span, record, Urgency::Demand);
        read.map(|_| ()).ok_or_else(|| lost(&self.pack, id))
    }

    /// Takes in the runs of the trunk that are on their way.
    fn finish_loading(&mut self, pool: &Pool) -> Result<()> {
        self.take_in_all(pool, |store, arrival| {
            store.trunk.restore(arrival.lease);
            arrival.result
        })
    }

    /// Gives `take_in` everything that is on its way, as it arrives. The error is the first.
    pub(super) fn take_in_all(&mut self, pool: &Pool, take_in: impl Fn(&mut Store, Arrival) -> Result<()>) -> Result<()> {
        let mut first_error = None;
        while self.io.collect(&self.pack, pool, true)? {
            while let Some(arrival) = self.io.next(&self.pack) {
                first_error = first_error.or(take_in(self, arrival).err());
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// How this pack is read on this drive: with room for two experts at least (of longer ones, for two requests), since a guess is read whole and what is demanded is not to wait
    /// until it is there.
    pub(super) fn best_pace(&self) -> Pace {
        let best = choose(&self.curve);
        let least = if self.state.experts() == 0 { STREAMING } else { 2 * self.window.longest().min(PIECE_BYTES) };
        Pace { in_flight: best.in_flight.max(least), ..best }
    }

    pub(super) fn set_pace(&mut self, pace: Pace) {
        self.io.pace = pace;
        self.io.queue.set_pace(pace.in_flight);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(rate: impl Fn(Pace) -> f64) -> Vec<Sample> {
        paces().chain(paces()).map(|pace| Sample { pace, rate: rate(pace) }).collect()
    }

    #[test]
    fn the_least_that_gets_nearly_everything() {
        // A drive with a latency of 0.5 ms at 3 GB/s wants 1.5 MB in flight, however cut.
        let fast = drive(|p| 3e9f64.min(p.in_flight as f64 / 0.5e-3));
        assert_eq!(choose(&curve(&fast)), Pace { request: 256 << 10, in_flight: 2 * MIB });
        // One that takes 0.2 ms more for each request and has no parallelism wants long ones, one at a time.
        let serial = drive(|p| p.request as f64 / (p.request as f64 / 1e9 + 0.2e-3));
        assert_eq!(choose(&curve(&serial)), Pace { request: PIECE_BYTES, in_flight: 2 * MIB });
        // One with much parallelism and long latency.
        let far = drive(|p| 3e9f64.min(p.in_flight as f64 / 10e-3));
        assert_eq!(choose(&curve(&far)), Pace { request: 256 << 10, in_flight: 32 * MIB });
    }

    #[test]
    fn too_few_samples_are_none() {
        let once: Vec<Sample> = paces().map(|pace| Sample { pace, rate: 1e9 }).collect();
        assert!(curve(&once).is_empty() && curve(&[]).is_empty());
        assert_eq!(choose(&[]), Pace::default());
    }

    #[test]
    fn one_slow_moment_does_not_decide() {
        let mut samples = drive(|_| 1e9);
        samples.extend(drive(|_| 1e9));
        samples[0].rate = 1e7;
        assert_eq!(choose(&curve(&samples)), Pace { request: 256 << 10, in_flight: 2 * MIB });
        // As measured once on a virtual disk in a bad minute, in GB/s: uneven, but no better when more is in flight.
        let rates = [0.408, 0.564, 0.643, 0.609, 0.759, 0.626, 0.702, 0.619, 0.793, 0.757];
        let uneven: Vec<Sample> = paces().zip(rates).map(|(pace, rate)| Sample { pace, rate }).collect();
        assert_eq!(choose(&uneven), Pace { request: PIECE_BYTES, in_flight: 2 * MIB });
    }
}
