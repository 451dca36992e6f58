//! Waiting awake. What is waited for takes a fraction of a millisecond (0.9 ms for an expert of 1.8 MB at 2 GB/s), and a processor that has gone to sleep is slow to come back, a
//! virtual one above all: with whoever waits and the threads that wait for it awake ([`crate::kernels::Pool`]), a token of the 35B-A3B shape took 1 to 2 ms of 120 less.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a thread looks again and again before it sleeps.
const AWAKE: Duration = Duration::from_millis(1);

/// Whether waiting awake is a good idea: a thread that waits awake may keep the one that it waits for from running, unless that one need not wait for a processor.
#[derive(Default)]
pub(super) struct Watch(AtomicBool);

impl Watch {
    /// The calling thread, which is waited for, runs as soon as it is woken.
    #[cfg(target_os = "linux")]
    pub fn allow(&self) {
        if super::short_slice::ask() {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Looks until there is something, for as long as is sensible; `None`: it is time to sleep.
    pub fn look<T>(&self, mut look: impl FnMut() -> io::Result<Option<T>>) -> io::Result<Option<T>> {
        let start = Instant::now();
        loop {
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            if !self.0.load(Ordering::Relaxed) || start.elapsed() >= AWAKE {
                return Ok(None);
            }
            // Whoever brings it needs the lock that looking takes.
            (0..32).for_each(|_| std::hint::spin_loop());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_once_or_for_a_while() {
        let count = |watch: &Watch, there: usize| {
            let mut looks = 0;
            let found = watch.look(|| {
                looks += 1;
                Ok((looks == there).then_some(()))
            });
            (found.unwrap().is_some(), looks)
        };
        let asleep = Watch::default();
        assert_eq!([count(&asleep, 1), count(&asleep, 2)], [(true, 1), (false, 1)]);
        let awake = Watch(AtomicBool::new(true));
        // Another program may have the processor for longer than a thread looks; not every time.
        assert!((0..100).any(|_| count(&awake, 3) == (true, 3)));
        let start = Instant::now();
        assert!(!count(&awake, usize::MAX).0 && start.elapsed() >= AWAKE);
        assert!(awake.look(|| Err::<Option<()>, _>(io::Error::other("broken"))).is_err());
    }
}
