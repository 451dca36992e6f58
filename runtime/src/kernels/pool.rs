//! The thread pool: persistent workers, chunks claimed from one atomic, a short bounded spin, then park.
//!
//! A run publishes a task and the number of its chunks. Whoever decrements `pending` owns a chunk, so a worker that wakes late finds either
//! nothing or a chunk of the run that is on now; the task is read only while a chunk of it is owned, and a run returns only when all its
//! chunks are done. That is what makes the borrowed closure safe to share.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long an idle thread spins before it sleeps. The gaps between the matrices of one layer are shorter than 50 microseconds, but what a layer waits for from the drive takes up to a
/// millisecond, and a processor that sleeps is slow to come back: with 50 microseconds here a token of the 35B-A3B shape that misses 55 experts took 1 to 2 ms of 120 more.
const SPIN: Duration = Duration::from_millis(1);

/// A task: chunk and worker to effect.
pub type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// The run that is on: the closure and how many chunks it has.
struct Current {
    task: *const Task<'static>,
    chunks: usize,
}

struct Shared {
    /// Chunks that nobody owns yet; not zero exactly while there is something to claim.
    pending: AtomicUsize,
    /// Chunks of this run that are finished.
    done: AtomicUsize,
    current: UnsafeCell<Current>,
    /// A run is on.
    busy: AtomicBool,
    stop: AtomicBool,
    /// One a worker (without the caller): it sleeps or is about to.
    asleep: Vec<AtomicBool>,
    /// The caller sleeps on `finished` or is about to.
    caller_waits: AtomicBool,
    lock: Mutex<()>,
    finished: Condvar,
    /// The first panic of this run.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `current` is written only by the caller between runs, when `pending` is zero and every chunk of the last run is done (acquired through
// `done`), and read only by a thread that owns a chunk of this run (acquired through `pending`). The closure it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is never dereferenced after the run that set it.
unsafe impl Send for Shared {}

/// Persistent workers; the calling thread is worker 0.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

impl Pool {
    /// `threads` threads including the caller's own (at least one). If the system refuses a thread, the pool works with those it got.
    pub fn new(threads: usize) -> Self {
        super::prepare_thread();
        let extra = threads.saturating_sub(1);
        let shared = Arc::new(Shared {
            pending: AtomicUsize::new(0),
            done: AtomicUsize::new(0),
            current: UnsafeCell::new(Current { task: std::ptr::from_ref::<Task<'static>>(&|_, _| ()), chunks: 0 }),
            busy: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            asleep: (0..extra).map(|_| AtomicBool::new(false)).collect(),
            caller_waits: AtomicBool::new(false),
            lock: Mutex::new(()),
            finished: Condvar::new(),
            panic: Mutex::new(None),
        });
        let workers = (0..extra).map_while(|i| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name(format!("forebay-{}", i + 1)).spawn(move || shared.work(i)).ok()
        });
        let workers = workers.collect();
        Pool { shared, workers }
    }

    /// Threads that take part in a run, the caller's included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(chunk, worker)` once for each chunk in `0..chunks`, on all threads, and returns when all calls have returned.
    /// `worker` is below [`Pool::threads`], and no two calls with the same worker overlap.
    ///
    /// # Panics
    /// With the payload of the first task that panics (after all chunks are done), and if called from within a task.
    pub fn run(&self, chunks: usize, task: &Task<'_>) {
        if chunks == 0 {
            return;
        }
        let s = &*self.shared;
        assert!(!s.busy.swap(true, Ordering::Acquire), "Pool::run is on already: runs do not nest");
        if chunks == 1 || self.workers.is_empty() {
            let result = catch_unwind(AssertUnwindSafe(|| (0..chunks).for_each(|c| task(c, 0))));
            s.busy.store(false, Ordering::Release);
            return result.unwrap_or_else(|p| resume_unwind(p));
        }
        // SAFETY: only the lifetime is erased; the pointer is used only by threads that own a chunk, and `finish` below waits for all chunks.
        let task = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(std::ptr::from_ref(task)) };
        // SAFETY: `busy` makes this the only writer, and no chunk is owned: see the note at `impl Sync`.
        unsafe { *s.current.get() = Current { task, chunks } };
        s.done.store(0, Ordering::Relaxed);
        s.pending.store(chunks, Ordering::SeqCst);
        for (asleep, worker) in s.asleep.iter().zip(&self.workers).take(chunks - 1) {
            // SeqCst here and in `sleep`: either the worker sees `pending`, or we see that it sleeps.
            if asleep.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        while s.step(0) {}
        s.finish(chunks);
        let panic = s.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        s.busy.store(false, Ordering::Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches every panic of a task, so joining cannot fail in a way that matters here.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Claims a chunk and does it; false if there is none.
    fn step(&self, worker: usize) -> bool {
        let claim = |n: usize| n.checked_sub(1);
        let Ok(left) = self.pending.fetch_update(Ordering::AcqRel, Ordering::Relaxed, claim) else { return false };
        // SAFETY: a chunk is owned, so the run is on and nobody writes `current`; see the note at `impl Sync`.
        let (task, chunks) = unsafe {
            let current = &*self.current.get();
            (&*current.task, current.chunks)
        };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| task(chunks - left, worker))) {
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
        }
        // Nothing of the run may be touched after this: the caller may have left.
        if self.done.fetch_add(1, Ordering::SeqCst) + 1 == chunks && self.caller_waits.load(Ordering::SeqCst) {
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.finished.notify_one();
        }
        true
    }

    /// Waits until all chunks are done.
    fn finish(&self, chunks: usize) {
        let all = || self.done.load(Ordering::SeqCst) == chunks;
        if spin_until(all) {
            return;
        }
        self.caller_waits.store(true, Ordering::SeqCst);
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while !all() {
            guard = self.finished.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.caller_waits.store(false, Ordering::SeqCst);
    }

    /// Life of worker `index + 1`.
    fn work(&self, index: usize) {
        super::prepare_thread();
        loop {
            while self.step(index + 1) {}
            let wake = || self.pending.load(Ordering::SeqCst) != 0 || self.stop.load(Ordering::SeqCst);
            if !spin_until(wake) {
                let Some(asleep) = self.asleep.get(index) else { return };
                asleep.store(true, Ordering::SeqCst);
                while !wake() {
                    thread::park();
                }
                asleep.store(false, Ordering::SeqCst);
            }
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}

/// Spins until `condition` holds, at most [`SPIN`]; true if it held.
fn spin_until(condition: impl Fn() -> bool) -> bool {
    let mut start = None;
    loop {
        for _ in 0..64 {
            if condition() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.get_or_insert_with(Instant::now).elapsed() >= SPIN {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    fn counts(pool: &Pool, chunks: usize) -> Vec<usize> {
        let seen: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
        pool.run(chunks, &|c, w| {
            assert!(w < pool.threads());
            seen[c].fetch_add(1, Ordering::Relaxed);
        });
        seen.into_iter().map(AtomicUsize::into_inner).collect()
    }

    #[test]
    fn each_chunk_is_done_once() {
        for threads in [0, 1, 2, 3, 7] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads.max(1));
            for chunks in [0, 1, 2, 3, 8, 100, 1000] {
                assert_eq!(counts(&pool, chunks), vec![1; chunks], "{threads} threads, {chunks} chunks");
            }
        }
    }

    #[test]
    fn many_tiny_runs() {
        let pool = Pool::new(2);
        let sum = AtomicU64::new(0);
        for _ in 0..20_000 {
            pool.run(3, &|c, _| {
                sum.fetch_add(c as u64 + 1, Ordering::Relaxed);
            });
        }
        assert_eq!(sum.into_inner(), 20_000 * 6);
    }

    #[test]
    fn oversubscribed_and_after_sleep() {
        let pool = Pool::new(4 * thread::available_parallelism().map_or(2, usize::from));
        for round in 0..300 {
            assert_eq!(counts(&pool, 17), vec![1; 17]);
            if round % 50 == 0 {
                thread::sleep(Duration::from_millis(2)); // all workers are parked by now
            }
        }
    }

    #[test]
    fn no_two_calls_of_one_worker_overlap() {
        let pool = Pool::new(4);
        let inside: Vec<AtomicBool> = (0..pool.threads()).map(|_| AtomicBool::new(false)).collect();
        for _ in 0..200 {
            pool.run(20, &|_, w| {
                assert!(!inside[w].swap(true, Ordering::SeqCst));
                std::hint::spin_loop();
                inside[w].store(false, Ordering::SeqCst);
            });
        }
    }

    #[test]
    fn a_panic_comes_out_and_the_pool_lives_on() {
        for threads in [1, 2, 5] {
            let pool = Pool::new(threads);
            let done = AtomicUsize::new(0);
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(50, &|c, _| {
                    if c == 7 {
                        std::panic::panic_any("chunk 7");
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }));
            assert_eq!(result.unwrap_err().downcast_ref::<&str>(), Some(&"chunk 7"));
            assert!(done.into_inner() >= 7);
            assert_eq!(counts(&pool, 40), vec![1; 40]);
        }
    }

    #[test]
    fn runs_do_not_nest() {
        let pool = Pool::new(2);
        assert!(catch_unwind(AssertUnwindSafe(|| pool.run(2, &|_, _| pool.run(1, &|_, _| ())))).is_err());
        assert_eq!(counts(&pool, 5), vec![1; 5]);
    }

    #[test]
    fn uneven_work_is_waited_for() {
        let pool = Pool::new(3);
        let done = AtomicUsize::new(0);
        pool.run(3, &|c, _| {
            thread::sleep(Duration::from_millis(5 * c as u64));
            done.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(done.load(Ordering::SeqCst), 3);
    }
}
