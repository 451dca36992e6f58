//! Runs of any length over raw reads: cutting, ordering, resuming and retrying. Backends stay trivial because all of it is here.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::Duration;

use super::{Completion, DEPTH, DiskIo, Histogram, IO_ALIGNMENT, PIECE_BYTES, Piece};
use crate::window::arena::Lease;

/// Waits before the second and third attempt after an I/O error.
const RETRY_DELAYS: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(100)];
/// Most pieces of guesses with the backend, so that a demand finds free cells. It overtakes those that the drive has not got yet.
const AHEAD_DEPTH: usize = DEPTH / 2;
/// The same for streamed runs.
const STREAM_DEPTH: usize = 48;
/// A piece that is interrupted this often without any progress is taken for broken.
const MAX_INTERRUPTIONS: u32 = 1000;

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody waits for it.
    Demand,
    /// Will be wanted for sure, in this order, but later: started when no demanded byte waits to be started.
    Stream,
    /// A guess: started only when nothing else waits to be started, a few pieces at a time.
    Ahead,
}

/// What becomes of a run that is read ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Somebody waits for it now.
    Demand,
    /// It stays what it is.
    Keep,
    /// Nobody wants it.
    GiveUp,
}

/// A run that cannot be read.
#[derive(Debug)]
pub struct ReadError {
    /// First byte that is missing, from the start of the file.
    pub offset: u64,
    /// Why.
    pub error: io::Error,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at offset {}: {}", self.offset, self.error)
    }
}

/// A finished run: its memory comes back whatever the result.
pub struct Done {
    /// Tag given to [`Queue::read`].
    pub tag: u64,
    /// The memory.
    pub lease: Lease,
    /// All bytes are there, or not.
    pub result: Result<(), ReadError>,
}

/// One run being read.
struct Run {
    tag: u64,
    urgency: Urgency,
    lease: Lease,
    offset: u64,
    length: usize,
    /// Bytes handed to pieces so far.
    issued: usize,
    /// Pieces in flight or waiting for another attempt.
    pieces: u32,
    error: Option<ReadError>,
}

/// One piece of a run; `run` is `None` when the cell is free.
#[derive(Clone, Copy)]
struct Cell {
    run: Option<usize>,
    urgency: Urgency,
    start: usize,
    length: usize,
    interruptions: u32,
    failures: usize,
}

impl Default for Cell {
    fn default() -> Self {
        Cell { run: None, urgency: Urgency::Demand, start: 0, length: 0, interruptions: 0, failures: 0 }
    }
}

/// Counts for the statistics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Bytes that arrived.
    pub bytes: u64,
    /// Requests to the kernel.
    pub requests: u64,
    /// Requests repeated after an error.
    pub retries: u64,
    /// Microseconds that the drive had a piece.
    pub latency: Histogram,
    /// Bytes of a piece.
    pub sizes: Histogram,
}

/// Reads runs through a backend. All runs given are started at once, as far as the depth allows, and finish in any order.
pub struct Queue {
    io: Box<dyn DiskIo>,
    runs: Vec<Option<Run>>,
    free_runs: Vec<usize>,
    /// Runs with bytes not yet issued, oldest first.
    backlog: VecDeque<usize>,
    /// The same, of runs that are wanted later.
    stream: VecDeque<usize>,
    stream_in_flight: usize,
    /// The same, of guesses.
    ahead: VecDeque<usize>,
    /// Most pieces of guesses in flight.
    ahead_depth: usize,
    ahead_in_flight: usize,
    /// Runs that are complete.
    finished: VecDeque<usize>,
    cells: [Cell; DEPTH],
    /// Cells to submit next.
    ready: Vec<usize>,
    batch: Vec<Piece>,
    in_flight: usize,
    stats: QueueStats,
    delays: [Duration; 2],
    broken: bool,
}

impl Queue {
    /// A queue over `io` with room for `runs` runs at a time, or more; it grows.
    pub fn new(io: Box<dyn DiskIo>, runs: usize) -> Queue {
        let runs = runs.max(2 * DEPTH);
        Queue {
            io,
            runs: Vec::with_capacity(runs),
            free_runs: Vec::with_capacity(runs),
            backlog: VecDeque::with_capacity(runs),
            stream: VecDeque::with_capacity(runs),
            stream_in_flight: 0,
            ahead: VecDeque::with_capacity(runs),
            ahead_depth: AHEAD_DEPTH,
            ahead_in_flight: 0,
            finished: VecDeque::with_capacity(runs),
            cells: [Cell::default(); DEPTH],
            ready: Vec::with_capacity(DEPTH),
            batch: Vec::with_capacity(DEPTH),
            in_flight: 0,
            stats: QueueStats::default(),
            delays: RETRY_DELAYS,
            broken: false,
        }
    }

    /// The backend's name.
    pub fn backend(&self) -> &'static str {
        self.io.name()
    }

    /// See [`DiskIo::register`].
    pub fn register(&mut self, regions: &[(*mut u8, usize)]) -> bool {
        self.io.register(regions)
    }

    /// Counts since the start.
    pub fn stats(&self) -> &QueueStats {
        &self.stats
    }

    /// Nothing is queued, in flight or finished and not yet taken.
    pub fn is_idle(&self) -> bool {
        self.in_flight == 0
            && self.backlog.is_empty()
            && self.stream.is_empty()
            && self.ahead.is_empty()
            && self.finished.is_empty()
            && self.ready.is_empty()
    }

    /// Queues a run of `length` bytes at `offset`, both multiples of [`IO_ALIGNMENT`], into the start of `lease`. Nothing is started before
    /// [`Queue::start`], [`Queue::poll`] or [`Queue::wait`], so that a batch goes to the kernel as one.
    pub fn read(&mut self, tag: u64, offset: u64, length: usize, lease: Lease, urgency: Urgency) {
        let aligned = offset.is_multiple_of(IO_ALIGNMENT as u64) && length.is_multiple_of(IO_ALIGNMENT) && length > 0;
        let fits = length <= lease.len() && offset.checked_add(length as u64).is_some();
        let error = (!aligned || !fits).then(|| ReadError { offset, error: io::ErrorKind::InvalidInput.into() });
        let run = Run { tag, urgency, lease, offset, length, issued: 0, pieces: 0, error };
        let failed = run.error.is_some();
        let id = match self.free_runs.pop() {
            Some(id) => {
                self.runs[id] = Some(run);
                id
            }
            None => {
                self.runs.push(Some(run));
                self.runs.len() - 1
            }
        };
        match (failed, urgency) {
            (true, _) => self.finished.push_back(id),
            (false, Urgency::Demand) => self.backlog.push_back(id),
            (false, Urgency::Stream) => self.stream.push_back(id),
            (false, Urgency::Ahead) => self.ahead.push_back(id),
        }
    }

    /// At most `bytes` are with the drive at once from here on; see [`DiskIo::set_pace`].
    pub fn set_pace(&mut self, bytes: usize) {
        self.io.set_pace(bytes);
    }

    /// Decides about the runs that are read ahead and that the drive has not got yet. What is given up comes back through `dropped`; what is
    /// partly on its way goes on.
    pub fn settle(&mut self, verdict: impl Fn(u64) -> Verdict, mut dropped: impl FnMut(u64, Lease)) {
        for cell in 0..DEPTH {
            let c = self.cells[cell];
            let Some((id, run)) = c.run.and_then(|id| Some((id, self.runs[id].as_mut()?))) else { continue };
            let whole = c.start == 0 && c.length == run.length;
            let verdict = if c.urgency == Urgency::Ahead { verdict(run.tag) } else { Verdict::Keep };
            let move_it = verdict == Verdict::Demand || verdict == Verdict::GiveUp && whole;
            if !move_it || self.ready.contains(&cell) || !self.io.recall(cell) {
                continue;
            }
            self.in_flight -= 1;
            self.ahead_in_flight -= 1;
            if verdict == Verdict::Demand {
                run.urgency = Urgency::Demand;
                self.cells[cell].urgency = Urgency::Demand;
                self.ready.push(cell);
            } else {
                self.cells[cell] = Cell::default();
                // Its number may soon be another run's.
                self.ahead.retain(|&r| r != id);
                if let Some(done) = self.take(id) {
                    dropped(done.tag, done.lease);
                }
            }
        }
        for _ in 0..self.ahead.len() {
            let Some(id) = self.ahead.pop_front() else { break };
            let Some(run) = &mut self.runs[id] else { continue };
            match verdict(run.tag) {
                Verdict::Demand => {
                    run.urgency = Urgency::Demand;
                    self.backlog.push_back(id);
                }
                Verdict::GiveUp if run.issued == 0 => {
                    if let Some(done) = self.take(id) {
                        dropped(done.tag, done.lease);
                    }
                }
                Verdict::Keep | Verdict::GiveUp => self.ahead.push_back(id),
            }
        }
    }

    /// Starts as many pieces as the depth allows, without waiting. An error is the backend's and final.
    pub fn start(&mut self) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("the I/O backend failed before"));
        }
        self.cut();
        self.batch.clear();
        if self.ready.is_empty() {
            return Ok(());
        }
        for cell in self.ready.drain(..) {
            let c = &self.cells[cell];
            let Some(run) = c.run.and_then(|r| self.runs[r].as_ref()) else { continue };
            self.ahead_in_flight += usize::from(c.urgency == Urgency::Ahead);
            self.stream_in_flight += usize::from(c.urgency == Urgency::Stream);
            // `read` checked that offset and lease cover the whole run, so neither sum leaves it.
            let target = run.lease.as_ptr().wrapping_add(c.start);
            self.batch.push(Piece { tag: cell, offset: run.offset + c.start as u64, target, length: c.length, urgency: c.urgency });
        }
        self.in_flight += self.batch.len();
        // SAFETY: each piece lies inside a lease that `runs` owns until all its pieces are complete (`complete` counts them); the lease is the only
        // access to its memory, the pieces of a run do not overlap, and `drop` gives up the leases only when nothing is in flight.
        if let Err(e) = unsafe { self.io.submit(&self.batch) } {
            self.broken = true;
            return Err(e);
        }
        Ok(())
    }

    /// Waits for a run; `None` when there is none left. An error is the backend's and final: memory in flight stays leased.
    pub fn wait(&mut self) -> io::Result<Option<Done>> {
        self.next_done(|io| io.wait().map(Some))
    }

    /// As [`Queue::wait`], without waiting: `None` when no run is complete yet.
    pub fn poll(&mut self) -> io::Result<Option<Done>> {
        self.next_done(|io| io.poll())
    }

    fn next_done(&mut self, complete: fn(&mut dyn DiskIo) -> io::Result<Option<Completion>>) -> io::Result<Option<Done>> {
        loop {
            if let Some(done) = self.finished.pop_front().and_then(|id| self.take(id)) {
                return Ok(Some(done));
            }
            self.start()?;
            if self.in_flight == 0 {
                return Ok(None);
            }
            match complete(&mut *self.io).inspect_err(|_| self.broken = true)? {
                Some(completion) => self.land(completion),
                None => return Ok(None),
            }
        }
    }

    fn land(&mut self, completion: Completion) {
        self.in_flight -= 1;
        if let Some(cell) = self.cells.get(completion.tag) {
            self.ahead_in_flight -= usize::from(cell.urgency == Urgency::Ahead);
            self.stream_in_flight -= usize::from(cell.urgency == Urgency::Stream);
            self.stats.requests += 1;
            self.stats.sizes.add(cell.length as u64);
            self.stats.latency.add(completion.took.as_micros() as u64);
        }
        self.complete(completion.tag, completion.result);
    }

    /// Cuts pieces off the runs in the backlog while there are free cells, then off streamed runs and guesses while few of them are in flight.
    fn cut(&mut self) {
        let mut cell = 0;
        let (mut streamed, mut guesses) = (self.stream_in_flight, self.ahead_in_flight);
        loop {
            let (list, urgency) = if !self.backlog.is_empty() {
                (&mut self.backlog, Urgency::Demand)
            } else if !self.stream.is_empty() {
                (&mut self.stream, Urgency::Stream)
            } else {
                (&mut self.ahead, Urgency::Ahead)
            };
            let Some(&id) = list.front() else { return };
            let Some(run) = self.runs[id].as_mut().filter(|r| r.issued < r.length && r.error.is_none()) else {
                list.pop_front();
                continue;
            };
            while cell < DEPTH && self.cells[cell].run.is_some() {
                cell += 1;
            }
            let full = match urgency {
                Urgency::Demand => false,
                Urgency::Stream => streamed >= STREAM_DEPTH,
                Urgency::Ahead => guesses >= self.ahead_depth,
            };
            if cell == DEPTH || full {
                return;
            }
            streamed += usize::from(urgency == Urgency::Stream);
            guesses += usize::from(urgency == Urgency::Ahead);
            let length = PIECE_BYTES.min(run.length - run.issued);
            self.cells[cell] = Cell { run: Some(id), start: run.issued, length, urgency, ..Cell::default() };
            run.issued += length;
            run.pieces += 1;
            self.ready.push(cell);
        }
    }

    fn complete(&mut self, cell: usize, result: io::Result<usize>) {
        let Some(c) = self.cells.get_mut(cell) else { return };
        let Some(id) = c.run else { return };
        let Some(run) = self.runs[id].as_mut() else { return };
        let here = run.offset + c.start as u64;
        let error = match result {
            Ok(n) if n >= c.length => {
                self.stats.bytes += c.length as u64;
                None
            }
            Ok(n) if n >= IO_ALIGNMENT => {
                // A short read goes on where it stopped, at the last aligned byte: direct I/O takes no other.
                let whole = n - n % IO_ALIGNMENT;
                self.stats.bytes += whole as u64;
                *c = Cell { start: c.start + whole, length: c.length - whole, interruptions: 0, failures: 0, ..*c };
                self.ready.push(cell);
                return;
            }
            Ok(0) => Some(io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends here (was it truncated?)")),
            Ok(_) => match interrupted(c) {
                true => {
                    self.ready.push(cell);
                    return;
                }
                false => Some(io::Error::new(io::ErrorKind::UnexpectedEof, "reads bring less than one page")),
            },
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) && interrupted(c) => {
                self.ready.push(cell);
                return;
            }
            Err(e) => match self.delays.get(c.failures) {
                Some(delay) => {
                    c.failures += 1;
                    self.stats.retries += 1;
                    std::thread::sleep(*delay);
                    self.ready.push(cell);
                    return;
                }
                None => Some(e),
            },
        };
        *c = Cell::default();
        run.pieces -= 1;
        if let Some(error) = error
            && run.error.is_none()
        {
            run.error = Some(ReadError { offset: here, error });
            // Nothing more of it is cut, and its number may soon be another run's.
            self.backlog.retain(|&r| r != id);
            self.stream.retain(|&r| r != id);
            self.ahead.retain(|&r| r != id);
        }
        if run.pieces == 0 && (run.issued == run.length || run.error.is_some()) {
            self.finished.push_back(id);
        }
    }

    fn take(&mut self, id: usize) -> Option<Done> {
        let run = self.runs[id].take()?;
        self.free_runs.push(id);
        Some(Done { tag: run.tag, lease: run.lease, result: run.error.map_or(Ok(()), Err) })
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        for cell in (0..DEPTH).filter(|&c| self.cells[c].run.is_some() && !self.ready.contains(&c)) {
            self.in_flight -= usize::from(!self.broken && self.io.recall(cell));
        }
        while self.in_flight > 0 && !self.broken {
            match self.io.wait() {
                Ok(_) => self.in_flight -= 1,
                Err(_) => self.broken = true,
            }
        }
        if self.in_flight > 0 {
            // The backend cannot say what it still writes to: that memory must never be unmapped.
            self.runs.drain(..).flatten().for_each(std::mem::forget);
        }
    }
}

/// Counts an interruption; false when there were too many without progress.
fn interrupted(cell: &mut Cell) -> bool {
    cell.interruptions += 1;
    if cell.interruptions.is_multiple_of(16) {
        std::thread::yield_now();
    }
    cell.interruptions <= MAX_INTERRUPTIONS
}

#[cfg(test)]
mod tests;
