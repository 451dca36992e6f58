//! Work on numbered items by several threads, results in order.

use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

/// Number of workers: more than cores, because a worker waits for the disk while another computes, but few enough that their buffers
/// (a piece, its overhang and a batch of source rows each) stay far below the memory bound.
pub fn default_threads() -> usize {
    (rayon::current_num_threads() + 2).clamp(1, 24)
}

/// Computes `work(state, i)` for every item on `threads` threads, each with a state of its own, and hands the results to `consume` in order.
/// Stops at the first error, of a worker or of `consume`, and when `cancel` is set ([`Error::Interrupted`]).
pub fn ordered<S: Default, T: Send>(
    items: Range<usize>,
    threads: usize,
    cancel: &AtomicBool,
    work: impl Fn(&mut S, usize) -> Result<T> + Sync,
    mut consume: impl FnMut(usize, T) -> Result<()>,
) -> Result<()> {
    let next = AtomicUsize::new(items.start);
    let stop = AtomicBool::new(false);
    let (sender, receiver) = sync_channel::<(usize, Result<T>)>(4 * threads);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(items.len()).max(1) {
            let (sender, next, stop, work, end) = (sender.clone(), &next, &stop, &work, items.end);
            scope.spawn(move || {
                let mut state = S::default();
                while !stop.load(Ordering::Relaxed) && !cancel.load(Ordering::Relaxed) {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= end || sender.send((i, work(&mut state, i))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut waiting = BTreeMap::new();
        let mut due = items.start;
        let mut outcome = Ok(());
        for (i, result) in &receiver {
            waiting.insert(i, result);
            while let Some(result) = waiting.remove(&due) {
                outcome = outcome.and_then(|()| consume(due, result?));
                due += 1;
            }
            if outcome.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
        }
        match outcome {
            Ok(()) if due < items.end => Err(Error::Interrupted),
            other => other,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_the_first_error_wins() {
        for threads in [1, 2, 7] {
            let mut seen = Vec::new();
            let cancel = AtomicBool::new(false);
            ordered(
                3..100,
                threads,
                &cancel,
                |_: &mut (), i| Ok(i * 2),
                |i, r| {
                    seen.push((i, r));
                    Ok(())
                },
            )
            .unwrap();
            assert_eq!(seen, (3..100).map(|i| (i, i * 2)).collect::<Vec<_>>());
            let fail = |_: &mut (), i| if i % 10 == 9 { Err(Error::Usage(format!("{i}"))) } else { Ok(i) };
            let error = ordered(0..100, threads, &cancel, fail, |_, _| Ok(())).unwrap_err();
            assert_eq!(error.to_string(), "9");
            cancel.store(true, Ordering::Relaxed);
            assert!(matches!(ordered(0..100, threads, &cancel, |_: &mut (), i| Ok(i), |_, _| Ok(())), Err(Error::Interrupted)));
        }
    }
}
