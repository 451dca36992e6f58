//! How fast a file can be read: throughput and latency against read size and depth, through the same queue and backends that read packs.

mod scratch_file;

pub(crate) use scratch_file::next;

use crate::error::{Error, Result};
use crate::io::{self as reads, Histogram, IO_ALIGNMENT, IoBackend, Queue, Urgency};
use crate::pack::Pack;
use crate::window::arena::Arena;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Which bytes come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Any page of the file.
    Random,
    /// One after the other, from the start again at the end.
    Sequential,
}

/// What was measured at one read size and depth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    /// Bytes of a read.
    pub read_bytes: usize,
    /// Reads in flight.
    pub depth: usize,
    /// Order of the reads.
    pub order: Order,
    /// Bytes a second.
    pub speed: f64,
    /// Median time of a read.
    pub p50: Duration,
    /// 99% of the reads took no longer.
    pub p99: Duration,
}

/// Bytes a second of places that were not read before, and of the same ones once more: a drive, or the host of a virtual one, may have a cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Twice {
    /// The first time.
    pub first: f64,
    /// The second time.
    pub again: f64,
}

/// A file whose reading is measured.
pub struct Target {
    path: PathBuf,
    file: Arc<File>,
    range: Range<u64>,
    backend: IoBackend,
}

impl Target {
    /// The payload of an open pack.
    pub fn of_pack(pack: &Pack, backend: IoBackend) -> Target {
        let end = pack.superblock.index.offset.max(IO_ALIGNMENT as u64);
        Target { path: pack.path.clone(), file: Arc::clone(&pack.file), range: IO_ALIGNMENT as u64..end, backend }
    }

    /// A new file of `bytes` random bytes in `dir`. It has no name any more when this returns, so that nothing is left behind however the program ends. `watch` is
    /// told how many bytes are written.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn temporary(dir: &Path, bytes: u64, watch: &mut dyn FnMut(u64)) -> Result<Target> {
        let failed = |error| Error::Io { file: dir.to_owned(), what: "writing a file to measure with".into(), error };
        let file = scratch_file::create(dir, bytes, watch).map_err(failed)?;
        let path = scratch_file::path(&file);
        Ok(Target { path, file: Arc::new(file), range: 0..bytes, backend: IoBackend::Auto })
    }

    /// The same file through a backend.
    pub fn through(&self, backend: IoBackend) -> Target {
        Target { path: self.path.clone(), file: Arc::clone(&self.file), range: self.range.clone(), backend }
    }

    /// Its name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// How many reads of this size the file has one behind the other.
    pub fn reads_of(&self, read_bytes: usize) -> usize {
        usize::try_from((self.range.end - self.range.start) / read_bytes.max(1) as u64).unwrap_or(usize::MAX).max(1)
    }

    /// Starts the backend, with memory for `depth` reads of `read_bytes` (a multiple of 4096).
    ///
    /// # Errors
    /// The backend's.
    pub fn meter(&self, read_bytes: usize, depth: usize) -> io::Result<Meter> {
        let pages = (self.range.end - self.range.start) / IO_ALIGNMENT as u64;
        let need = (read_bytes / IO_ALIGNMENT) as u64;
        if need == 0 || !read_bytes.is_multiple_of(IO_ALIGNMENT) || need > pages {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "reads of this size do not fit the file"));
        }
        let opened = reads::open(&self.path, &self.file, self.backend)?;
        let mut queue = opened.queue;
        let arena = Arena::new((0..depth.max(1)).map(|_| read_bytes))?;
        if let Some(region) = arena.region() {
            queue.register(&[region]);
        }
        let seed = self.range.start ^ (read_bytes * depth) as u64;
        Ok(Meter { queue, arena, range: self.range.clone(), read_bytes, next: 0, seed, warning: opened.warning })
    }
}

/// A started backend with its memory.
pub struct Meter {
    queue: Queue,
    arena: Arena,
    range: Range<u64>,
    read_bytes: usize,
    next: u64,
    seed: u64,
    warning: Option<String>,
}

impl Meter {
    /// Name of the backend.
    pub fn backend(&self) -> &'static str {
        self.queue.backend()
    }

    /// Why a worse backend was taken.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Reads for about `time`, `depth` reads in flight (as many as there is memory for at most).
    ///
    /// # Errors
    /// Those of reading.
    pub fn measure(&mut self, depth: usize, order: Order, time: Duration) -> io::Result<Cell> {
        let depth = depth.clamp(1, self.arena.len().max(1));
        let begin = Instant::now();
        let mut asked = vec![begin; depth];
        for slot in 0..depth {
            self.ask(slot, order)?;
        }
        let (mut reads, mut last, mut latency) = (0u64, begin, Histogram::default());
        while let Some(done) = self.queue.wait()? {
            let now = Instant::now();
            let slot = done.tag as usize;
            self.arena.restore(done.lease);
            done.result.map_err(|e| e.error)?;
            // What is still on its way at the end was read at a lower depth: it does not count.
            if now - begin > time && reads > 0 {
                continue;
            }
            if let Some(asked) = asked.get_mut(slot) {
                latency.add((now - *asked).as_micros() as u64);
                *asked = now;
            }
            (reads, last) = (reads + 1, now);
            self.ask(slot, order)?;
        }
        let seconds = (last - begin).as_secs_f64().max(1e-9);
        let percentile = |p| Duration::from_micros(latency.percentile(p).unwrap_or(0));
        let speed = (reads * self.read_bytes as u64) as f64 / seconds;
        Ok(Cell { read_bytes: self.read_bytes, depth, order, speed, p50: percentile(50.0), p99: percentile(99.0) })
    }

    /// Reads batches for about `time`, the next when all of the last is there: `runs` runs at places that nobody expects, each of `pieces` reads one behind the other (all
    /// of them together as many as there is memory for at most); then the same ones again. At most `in_flight` bytes are with the drive at once.
    ///
    /// # Errors
    /// Those of reading.
    pub fn batches(&mut self, runs: usize, pieces: usize, in_flight: usize, time: Duration) -> io::Result<Twice> {
        self.queue.set_pace(in_flight);
        let pieces = pieces.clamp(1, self.arena.len().max(1));
        let runs = runs.clamp(1, (self.arena.len() / pieces).max(1));
        // Other places each time, or the second plan of a machine would find what the first one read in somebody's cache.
        self.seed ^= SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |t| t.as_nanos() as u64);
        let (seed, begin) = (self.seed, Instant::now());
        let (mut bytes, mut count) = (0u64, 0);
        while count == 0 || begin.elapsed() < time {
            bytes += self.batch(runs, pieces)?;
            count += 1;
        }
        let speed = |begin: Instant| (bytes as f64 / begin.elapsed().as_secs_f64().max(1e-9)).max(1.0);
        let first = speed(begin);
        self.seed = seed;
        let begin = Instant::now();
        for _ in 0..count {
            self.batch(runs, pieces)?;
        }
        Ok(Twice { first, again: speed(begin) })
    }

    /// One batch; its bytes.
    fn batch(&mut self, runs: usize, pieces: usize) -> io::Result<u64> {
        for run in 0..runs {
            let start = self.place(pieces * self.read_bytes);
            for piece in 0..pieces {
                self.ask_at(run * pieces + piece, start + (piece * self.read_bytes) as u64)?;
            }
        }
        let mut bytes = 0;
        while let Some(done) = self.queue.wait()? {
            bytes += done.lease.len() as u64;
            self.arena.restore(done.lease);
            done.result.map_err(|e| e.error)?;
        }
        Ok(bytes)
    }

    fn ask(&mut self, slot: usize, order: Order) -> io::Result<()> {
        let offset = self.offset(order);
        self.ask_at(slot, offset)
    }

    fn ask_at(&mut self, slot: usize, offset: u64) -> io::Result<()> {
        let lease = self.arena.lease(slot).ok_or(io::ErrorKind::OutOfMemory)?;
        self.queue.read(slot as u64, offset, self.read_bytes, lease, Urgency::Demand);
        Ok(())
    }

    /// Any page at which `length` bytes begin, or the first if they do not fit.
    fn place(&mut self, length: usize) -> u64 {
        let room = (self.range.end - self.range.start).saturating_sub(length as u64);
        self.range.start + scratch_file::next(&mut self.seed) % (room / IO_ALIGNMENT as u64 + 1) * IO_ALIGNMENT as u64
    }

    fn offset(&mut self, order: Order) -> u64 {
        let length = self.read_bytes as u64;
        let room = self.range.end - self.range.start - length;
        match order {
            Order::Sequential => {
                let at = if self.next > room { 0 } else { self.next };
                self.next = at + length;
                self.range.start + at
            }
            Order::Random => self.place(self.read_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_is_measured_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut written = 0;
        let target = Target::temporary(dir.path(), 9 << 20, &mut |n| written += n).unwrap();
        assert_eq!(written, 9 << 20);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no name is left");
        for order in [Order::Random, Order::Sequential] {
            let mut meter = target.meter(1 << 20, 4).unwrap();
            let cells: Vec<Cell> = [1, 4, 1000].map(|depth| meter.measure(depth, order, Duration::from_millis(20)).unwrap()).to_vec();
            assert_eq!(cells.iter().map(|c| c.depth).collect::<Vec<_>>(), [1, 4, 4]);
            assert!(cells.iter().all(|c| c.speed > 0.0 && c.p50 <= c.p99 && c.order == order), "{cells:?}");
        }
        assert!(target.meter(16 << 20, 1).is_err() && target.meter(1000, 1).is_err());
        let mut meter = target.meter(256 << 10, 8).unwrap();
        for (runs, pieces) in [(2, 3), (1, 100), (100, 1)] {
            let speed = meter.batches(runs, pieces, 1 << 20, Duration::from_millis(5)).unwrap();
            assert!(speed.first > 0.0 && speed.again > 0.0, "{speed:?}");
        }
    }
}
