//! A pool of threads that call `pread`: for kernels and containers without io_uring, and for files that take no direct I/O.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::lineup::Lineup;
use super::watch::Watch;
use super::{Completion, DEPTH, DiskIo, Piece, READERS};

/// A worker calls one system call: the smallest stack that is safe everywhere.
const STACK_BYTES: usize = 64 << 10;

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    results: Condvar,
    watch: Watch,
}

struct State {
    lineup: Lineup,
    done: VecDeque<Completion>,
    stop: bool,
}

impl Shared {
    /// A worker panics nowhere while it holds the lock, so a poisoned lock still guards a sound state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a worker does after a piece was read.
pub(super) type AfterRead = fn(&File, offset: u64, length: usize);

/// See the module's text.
pub struct PreadPool {
    name: &'static str,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl PreadPool {
    /// Starts the workers on an open file, which may or may not be in direct mode.
    pub fn new(file: Arc<File>) -> io::Result<PreadPool> {
        PreadPool::with(file, "pread", |_, _, _| {})
    }

    pub(super) fn with(file: Arc<File>, name: &'static str, after: AfterRead) -> io::Result<PreadPool> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { lineup: Lineup::default(), done: VecDeque::with_capacity(DEPTH), stop: false }),
            work: Condvar::new(),
            results: Condvar::new(),
            watch: Watch::default(),
        });
        let mut pool = PreadPool { name, shared, workers: Vec::with_capacity(READERS) };
        for i in 0..READERS {
            let (file, shared) = (Arc::clone(&file), Arc::clone(&pool.shared));
            let builder = std::thread::Builder::new().name(format!("read-{i}")).stack_size(STACK_BYTES);
            match builder.spawn(move || work(&file, &shared, after)) {
                Ok(handle) => pool.workers.push(handle),
                // Fewer are enough; none is not.
                Err(_) if i > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(pool)
    }
}

fn work(file: &File, shared: &Shared, after: AfterRead) {
    #[cfg(target_os = "linux")]
    shared.watch.allow();
    let mut state = shared.lock();
    loop {
        if state.stop {
            return;
        }
        let Some(piece) = state.lineup.send() else {
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(state);
        let start = Instant::now();
        // SAFETY: by the contract of `DiskIo::submit` the memory is valid and ours until the completion below is taken or the pool is dropped, which
        // joins this thread. Its bytes are initialised: arenas are anonymous memory.
        let target = unsafe { std::slice::from_raw_parts_mut(piece.target, piece.length) };
        let result = file.read_at(target, piece.offset);
        after(file, piece.offset, piece.length);
        state = shared.lock();
        state.lineup.landed(piece.length);
        state.done.push_back(Completion { tag: piece.tag, result, took: start.elapsed() });
        shared.results.notify_one();
        if state.lineup.may_go() {
            // This thread takes the next piece; if the pace allows one more, another does.
            shared.work.notify_one();
        }
    }
}

impl DiskIo for PreadPool {
    fn name(&self) -> &'static str {
        self.name
    }

    fn register(&mut self, _regions: &[(*mut u8, usize)]) -> bool {
        false
    }

    fn set_pace(&mut self, bytes: usize) {
        self.shared.lock().lineup.set_pace(bytes);
    }

    unsafe fn submit(&mut self, pieces: &[Piece]) -> io::Result<()> {
        self.shared.lock().lineup.push(pieces);
        if pieces.len() == 1 {
            self.shared.work.notify_one();
        } else {
            self.shared.work.notify_all();
        }
        Ok(())
    }

    fn recall(&mut self, tag: usize) -> bool {
        self.shared.lock().lineup.recall(tag)
    }

    fn poll(&mut self) -> io::Result<Option<Completion>> {
        Ok(self.shared.lock().done.pop_front())
    }

    fn wait(&mut self) -> io::Result<Completion> {
        let shared = &self.shared;
        if let Some(done) = shared.watch.look(|| Ok(shared.lock().done.pop_front()))? {
            return Ok(done);
        }
        let mut state = shared.lock();
        loop {
            if let Some(done) = state.done.pop_front() {
                return Ok(done);
            }
            state = shared.results.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for PreadPool {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}
