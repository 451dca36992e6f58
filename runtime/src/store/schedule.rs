//! How reading and computing share a layer's time: what the product does, and the simpler ways that it is measured against.

use super::{Pace, Store};
use crate::error::Result;
use crate::kernels::Pool;

/// Each does what the one before it does, and one thing more. Changes speed, never results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Schedule {
    /// Misses are read whole, one request with the drive at a time, and computed when all are there.
    Turns,
    /// All misses of a layer are with the drive at once.
    Queued,
    /// The shared expert and the hits are computed meanwhile, misses whole as they come.
    Arrival,
    /// Misses come and are computed slice by slice.
    Slices,
    /// Experts of the next layers are read on a guess: the product.
    #[default]
    Ahead,
}

/// A request for this many bytes brings any bundle whole.
const WHOLE: usize = 1 << 30;

/// The pace of reading for a schedule; `pace` is what suits the drive.
fn pace_for(schedule: Schedule, pace: Pace) -> Pace {
    match schedule {
        // A piece goes to an idle drive however long it is.
        Schedule::Turns => Pace { request: WHOLE, in_flight: 1 },
        Schedule::Queued | Schedule::Arrival => Pace { request: WHOLE, ..pace },
        Schedule::Slices | Schedule::Ahead => pace,
    }
}

impl Store {
    /// From here on reading and computing share time like this. For benchmarks.
    pub fn set_schedule(&mut self, schedule: Schedule) {
        self.schedule = schedule;
        self.set_pace(pace_for(schedule, self.best_pace()));
    }

    /// Sums of experts and layers are checked from here on, or not. For benchmarks: what comes of bytes that were not checked is worth nothing.
    pub fn check_sums(&mut self, on: bool) {
        self.io.check = on;
    }

    /// Waits for everything that was requested, if the schedule reads and computes in turns.
    ///
    /// # Errors
    /// Those of [`Store::advance`].
    pub fn take_turns(&mut self, pool: &Pool) -> Result<()> {
        while self.schedule <= Schedule::Queued && self.advance(pool, true)? {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_for_schedules_that_compute_them() {
        let pace = Pace { request: 1 << 18, in_flight: 1 << 21 };
        let request = |schedule| pace_for(schedule, pace).request;
        assert_eq!([Schedule::Slices, Schedule::Ahead].map(|s| pace_for(s, pace)), [pace; 2]);
        assert_eq!([Schedule::Turns, Schedule::Queued, Schedule::Arrival].map(request), [WHOLE; 3]);
    }
}
