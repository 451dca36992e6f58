//! What the disk gives, read the way that the engine will read: the same choice of request size and bytes in flight, experts in batches at random places, layers one behind the
//! other. Each place is read twice: what is faster the second time lies in a cache of the drive or, on a virtual machine, of its host, where models whose experts come back
//! will find them too.

use super::work::Work;
use crate::disk::{Target, Twice};
use crate::error::{Error, Result};
use crate::store::load::{self, LEAST_RUN, Pace, ROUNDS, Sample};
use crate::store::slices_per_read;
use std::time::Duration;

/// Bytes read to try a pace.
const TRIAL_BYTES: usize = 16 << 20;
/// Bytes of a stretch of layers.
const STRETCH_BYTES: usize = 64 << 20;
/// Time for each number of experts in a batch, and for layers; as much again for the second reading.
const TIME: Duration = Duration::from_millis(200);
/// Experts in a batch.
const BATCHES: [usize; 4] = [1, 3, 8, 24];
/// Neuron groups in a batch: what a token misses of a layer.
const GROUPS: usize = 128;
/// Most bytes of a batch that memory is taken for.
const MOST_BYTES: usize = 256 << 20;

/// What the disk gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Drive {
    /// How it is read.
    pub pace: Pace,
    /// Bytes of a read of an expert.
    pub read_bytes: usize,
    /// Experts in a batch, and bytes a second of batches one after the other.
    pub batches: Vec<(f64, Twice)>,
    /// Bytes a second of layers one behind the other.
    pub sequential: Twice,
    /// Bytes a second of neuron groups without their triggers, each by itself; that of layers if there are none.
    pub groups: Twice,
}

impl Drive {
    /// Measures it, for two or three seconds.
    ///
    /// # Errors
    /// Those of reading.
    pub fn measure(work: &Work, target: &Target) -> Result<Drive> {
        let failed = |error| Error::Io { file: target.path().to_owned(), what: "measuring the disk".into(), error };
        let pace = pace(work, target).map_err(failed)?;
        let pieces = (STRETCH_BYTES / pace.request).clamp(1, target.reads_of(pace.request));
        let mut meter = target.meter(pace.request, pieces).map_err(failed)?;
        let sequential = meter.batches(1, pieces, pace.in_flight, TIME).map_err(failed)?;
        let mut drive = Drive { pace, read_bytes: pace.request, batches: Vec::new(), sequential, groups: sequential };
        if let Some(main) = work.grouped.iter().max_by_key(|g| g.bytes[0]) {
            let read = usize::try_from(main.bytes[0] - main.bytes[1]).unwrap_or(usize::MAX).min(STRETCH_BYTES).next_multiple_of(4096);
            let runs = GROUPS.min(MOST_BYTES / read).max(1);
            let mut meter = target.meter(read, runs).map_err(failed)?;
            drive.groups = meter.batches(runs, 1, pace.in_flight, TIME).map_err(failed)?;
        }
        let Some(main) = work.main_experts() else { return Ok(drive) };
        let slices = usize::try_from(main.slices).unwrap_or(1).max(1);
        let pieces = slices.div_ceil(slices_per_read(main.bytes, slices, pace.request));
        let read = usize::try_from(main.bytes).unwrap_or(usize::MAX).min(STRETCH_BYTES).div_ceil(pieces).next_multiple_of(4096);
        drive.read_bytes = read;
        let most = (MOST_BYTES / (read * pieces)).max(1);
        let mut meter = target.meter(read, pieces * most.min(BATCHES[BATCHES.len() - 1])).map_err(failed)?;
        for runs in BATCHES.into_iter().filter(|&runs| runs <= most) {
            drive.batches.push((runs as f64, meter.batches(runs, pieces, pace.in_flight, TIME).map_err(failed)?));
        }
        Ok(drive)
    }

    /// One that gives so many bytes a second whatever is asked of it.
    pub fn assumed(speed: f64) -> Drive {
        let (pace, speed) = (Pace::default(), speed.max(1.0));
        let twice = Twice { first: speed, again: speed };
        Drive { pace, read_bytes: pace.request, batches: vec![(1.0, twice)], sequential: twice, groups: twice }
    }

    /// Bytes a second of experts in batches of so many.
    pub fn experts(&self, batch: f64) -> Twice {
        let (Some(&first), Some(&last)) = (self.batches.first(), self.batches.last()) else { return self.sequential };
        if batch <= first.0 {
            return first.1;
        }
        let between = self.batches.windows(2).find(|w| batch <= w[1].0);
        between.map_or(last.1, |w| {
            let share = (batch / w[0].0).ln() / (w[1].0 / w[0].0).ln();
            let mix = |of: fn(&Twice) -> f64| of(&w[0].1) + (of(&w[1].1) - of(&w[0].1)) * share;
            Twice { first: mix(|t| t.first), again: mix(|t| t.again) }
        })
    }

    /// The same disk, `by` times as fast.
    pub fn faster(&self, by: f64) -> Drive {
        let faster = |t: Twice| Twice { first: t.first * by, again: t.again * by };
        let batches = self.batches.iter().map(|&(runs, speed)| (runs, faster(speed))).collect();
        Drive { batches, sequential: faster(self.sequential), groups: faster(self.groups), ..self.clone() }
    }
}

/// What loading a trunk like this one would choose: see [`load`].
fn pace(work: &Work, target: &Target) -> std::io::Result<Pace> {
    let ways = || load::paces();
    // A layer more or less does not matter: all are about as long.
    let long = work.trunk_bytes / u64::from(work.layers.max(1)) >= LEAST_RUN && work.layers as usize >= ROUNDS * ways().count();
    if !long {
        return Ok(Pace::default());
    }
    let mut samples = Vec::new();
    for way in (0..ROUNDS).flat_map(|_| ways()) {
        let pieces = TRIAL_BYTES / way.request;
        let rate = target.meter(way.request, pieces)?.batches(1, pieces, way.in_flight, Duration::ZERO)?.first;
        samples.push(Sample { pace: way, rate });
    }
    Ok(load::choose(&load::curve(&samples)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_lie_between_the_measured_ones() {
        let twice = |speed: f64| Twice { first: speed, again: 2.0 * speed };
        let drive = Drive { batches: vec![(1.0, twice(1e9)), (4.0, twice(2e9)), (16.0, twice(2.2e9))], ..Drive::assumed(3e9) };
        let first = [0.5, 1.0, 2.0, 4.0, 100.0].map(|n| drive.experts(n).first.round());
        assert_eq!(first, [1e9, 1e9, 1.5e9, 2e9, 2.2e9]);
        assert_eq!(drive.experts(2.0).again.round(), 3e9);
        assert_eq!((Drive::assumed(2e9).experts(7.0).again, drive.faster(2.0).experts(1.0).first), (2e9, 2e9));
    }
}
