//! How fast a file can be read: throughput and latency against read size and depth, through the same queue and backends that read packs.

mod scratch_file;

use crate::error::{Error, Result};
use crate::io::{self as reads, Histogram, IO_ALIGNMENT, IoBackend, Queue, Urgency};
use crate::pack::Pack;
use crate::window::arena::Arena;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes in flight at most: far more than any drive needs.
const MOST_BYTES: usize = 64 << 20;

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

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
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

    /// Throughput against depth at one read size, shallow to deep, `time` for each: the short curve that plans are made from.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn curve(&self, read_bytes: usize, depths: &[usize], order: Order, time: Duration) -> Result<Vec<Cell>> {
        let failed = |error| Error::Io { file: self.path.clone(), what: "measuring the disk".into(), error };
        let depth = |d: usize| d.min(MOST_BYTES / read_bytes.max(1)).max(1);
        let deepest = depths.iter().map(|&d| depth(d)).max().unwrap_or(1);
        let mut meter = self.meter(read_bytes, deepest).map_err(failed)?;
        depths.iter().map(|&d| meter.measure(depth(d), order, time)).collect::<io::Result<_>>().map_err(failed)
    }
}

/// A depth at which more does not help: the least that reaches 95% of the best throughput of a curve.
pub fn enough(curve: &[Cell]) -> Option<&Cell> {
    let best = curve.iter().map(|c| c.speed).fold(0.0, f64::max);
    curve.iter().find(|c| c.speed >= 0.95 * best)
}

/// Speed at a depth between measured ones, interpolated over the logarithm of the depth; 0 without a curve.
pub fn speed_at(curve: &[Cell], depth: f64) -> f64 {
    let (Some(first), Some(last)) = (curve.first(), curve.last()) else { return 0.0 };
    if depth <= first.depth as f64 {
        return first.speed * depth.max(0.0) / first.depth as f64;
    }
    let between = curve.windows(2).find(|w| depth <= w[1].depth as f64);
    between.map_or(last.speed, |w| {
        let share = (depth / w[0].depth as f64).ln() / (w[1].depth as f64 / w[0].depth as f64).ln();
        w[0].speed + (w[1].speed - w[0].speed) * share
    })
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

    fn ask(&mut self, slot: usize, order: Order) -> io::Result<()> {
        let lease = self.arena.lease(slot).ok_or(io::ErrorKind::OutOfMemory)?;
        let offset = self.offset(order);
        self.queue.read(slot as u64, offset, self.read_bytes, lease, Urgency::Demand);
        Ok(())
    }

    fn offset(&mut self, order: Order) -> u64 {
        let (page, length) = (IO_ALIGNMENT as u64, self.read_bytes as u64);
        let room = self.range.end - self.range.start - length;
        match order {
            Order::Sequential => {
                let at = if self.next > room { 0 } else { self.next };
                self.next = at + length;
                self.range.start + at
            }
            Order::Random => self.range.start + scratch_file::next(&mut self.seed) % (room / page + 1) * page,
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
            let curve = target.curve(1 << 20, &[1, 4, 1000], order, Duration::from_millis(20)).unwrap();
            assert_eq!(curve.iter().map(|c| c.depth).collect::<Vec<_>>(), [1, 4, 64]);
            assert!(curve.iter().all(|c| c.speed > 0.0 && c.p50 <= c.p99 && c.order == order), "{curve:?}");
        }
        assert!(target.meter(16 << 20, 1).is_err() && target.meter(1000, 1).is_err());
    }

    #[test]
    fn curves_are_read_between_their_points() {
        let cell = |depth, speed| Cell { read_bytes: 4096, depth, order: Order::Random, speed, p50: Duration::ZERO, p99: Duration::ZERO };
        let curve = [cell(1, 100.0), cell(4, 300.0), cell(16, 310.0)];
        assert_eq!([0.5, 1.0, 2.0, 4.0, 50.0].map(|d| speed_at(&curve, d).round()), [50.0, 100.0, 200.0, 300.0, 310.0]);
        assert_eq!(enough(&curve).map(|c| c.depth), Some(4));
        assert!(enough(&[]).is_none() && speed_at(&[], 3.0) == 0.0);
    }
}
