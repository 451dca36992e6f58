//! Bundles on their way into memory: a delivery for each slice or for a few of them, checked as it arrives and read once more if a sum does not match. Nothing leaves
//! here as good whose sums do not match.

use std::ops::Range;

use forebay_format::{BundleId, FormatError, Record};

use super::Pace;
use crate::error::{Error, Result};
use crate::io::{DEPTH, Done, Queue, ReadError, Urgency, Verdict};
use crate::kernels::{Pool, xxh3};
use crate::pack::Pack;
use crate::window::arena::{Arena, Lease};

/// Set in the tag of a delivery that is being read for the second time.
const SECOND: u64 = 1 << 63;
/// Low bits of a tag: the delivery. Above them: the fetch.
const DELIVERY_BITS: u32 = 16;
/// Bundles cut finer than this come as one delivery, so that what has arrived fits one word. (The converter cuts into 16 at most.)
pub(crate) const MAX_DELIVERIES: usize = u64::BITS as usize;

/// A bundle on its way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fetch {
    /// Which.
    pub id: BundleId,
    /// Span of the arena that it goes to.
    pub span: usize,
    /// Deliveries that have not arrived.
    left: u32,
    /// A delivery failed or was given up.
    pub spoiled: bool,
    /// How it is cut; `None`: by slices.
    parts: Option<Parts>,
    /// Slices to a delivery; the last may have fewer.
    pub slices: usize,
    /// Bundles, from `id` on by ordinal, back to back in the file: one, but for neighbours among neuron groups, which come in one delivery.
    pub bundles: u32,
}

/// Bytes of a bundle in one slice, cut at chunks of its sums, so that each part is checked by itself.
#[derive(Clone, Copy, Debug)]
struct Parts {
    start: u64,
    end: u64,
    /// Bytes of a part; the last may be shorter.
    each: u64,
}

impl Parts {
    fn part(&self, number: usize) -> Range<u64> {
        let at = |n: usize| self.start.saturating_add(self.each.saturating_mul(n as u64)).min(self.end);
        at(number)..at(number + 1)
    }

    fn count(&self) -> usize {
        usize::try_from((self.end - self.start).div_ceil(self.each)).unwrap_or(usize::MAX)
    }
}

/// A delivery that has arrived and was checked, or failed.
pub(crate) struct Arrival {
    /// Its bundle; `spoiled` counts this delivery.
    pub fetch: Fetch,
    /// Number of the fetch.
    pub number: u32,
    /// Which delivery.
    pub delivery: usize,
    /// Its memory.
    pub lease: Lease,
    /// Its bytes are good, or why not.
    pub result: Result<()>,
    /// Nothing more of the bundle is on its way.
    pub last: bool,
}

/// Read, not yet checked.
struct Landed {
    done: Done,
    id: BundleId,
    bundles: u32,
    part: Range<u64>,
    sums: std::result::Result<(), FormatError>,
}

/// Chunks of a delivery that one thread checks.
struct Check {
    /// Place of the delivery.
    landed: usize,
    /// Where the chunks begin, in the bundle.
    starts: Range<u64>,
    sums: std::result::Result<(), FormatError>,
}

/// Bytes of a delivery that one thread checks at a time. Where experts come one by one, each as one delivery, a thread that checks all of it has the others wait: 0.2 ms for 1.7 MB.
/// A slice is often a little longer than 256 KiB, which would leave a short rest.
pub(super) const CHECK_BYTES: usize = 128 << 10;

/// A queue that checks what it reads.
pub(crate) struct Reader {
    pub queue: Queue,
    /// Sizes of requests; what is in flight is the queue's.
    pub pace: Pace,
    /// Deliveries read again because a sum did not match.
    pub rereads: u64,
    /// The memory is registered with the kernel.
    pub registered: bool,
    /// Check sums: always, but for a benchmark that measures what reading alone takes.
    pub check: bool,
    fetches: Vec<Fetch>,
    free: Vec<u32>,
    landed: Vec<Landed>,
    checks: Vec<Check>,
    /// Deliveries given up: tag and memory.
    dropped: Vec<(u64, Lease)>,
}

impl Reader {
    /// For at most `fetches` bundles at a time without allocating.
    pub fn new(queue: Queue, fetches: usize) -> Reader {
        Reader {
            queue,
            pace: Pace::default(),
            rereads: 0,
            registered: false,
            check: true,
            fetches: Vec::with_capacity(fetches.max(DEPTH)),
            free: Vec::with_capacity(fetches.max(DEPTH)),
            landed: Vec::with_capacity(DEPTH),
            checks: Vec::with_capacity(DEPTH),
            dropped: Vec::with_capacity(DEPTH),
        }
    }

    /// Opens a fetch of `deliveries` deliveries of `slices` slices each; each is queued with [`Reader::deliver`].
    pub fn fetch(&mut self, id: BundleId, span: usize, deliveries: usize, slices: usize) -> u32 {
        self.open(Fetch { id, span, left: deliveries as u32, spoiled: false, parts: None, slices, bundles: 1 })
    }

    fn open(&mut self, fetch: Fetch) -> u32 {
        match self.free.pop() {
            Some(number) => {
                self.fetches[number as usize] = fetch;
                number
            }
            None => {
                self.fetches.push(fetch);
                self.fetches.len() as u32 - 1
            }
        }
    }

    /// Reads a whole bundle into a span, in pieces of about the pace's request that are checked as they arrive. The fetch; `None` if the memory is not there.
    pub fn read_run(&mut self, pack: &Pack, arena: &mut Arena, span: usize, record: &Record, urgency: Urgency) -> Option<u32> {
        let layout = pack.index.layout(record);
        if layout.slices.len() == 1 {
            let chunk = (pack.superblock.chunk_bytes as u64).max(1);
            let finest = record.length.div_ceil(1 << DELIVERY_BITS);
            let each = (self.pace.request as u64).max(finest).next_multiple_of(chunk);
            return self.read_parts(arena, span, record, Parts { start: 0, end: record.length, each }, urgency);
        }
        let slices = Some(layout.slices.len()).filter(|&n| n <= 1 << DELIVERY_BITS).unwrap_or(1);
        let number = self.fetch(record.id, span, slices, 1);
        let whole = (slices == 1).then_some(0..record.length);
        for (slice, part) in whole.into_iter().chain(layout.slice_ranges()).take(slices).enumerate() {
            let lease = arena.lease_part(span, usize::try_from(part.start).ok()?..usize::try_from(part.end).ok()?)?;
            self.deliver(number, record, slice, part, lease, urgency);
        }
        Some(number)
    }

    /// Reads the chunks that hold the bytes `wanted` of a bundle in one slice into the start of a span. The fetch, and the first byte that is read.
    pub fn read_chunks(&mut self, pack: &Pack, arena: &mut Arena, span: usize, record: &Record, wanted: Range<u64>) -> Option<(u32, u64)> {
        let chunk = (pack.superblock.chunk_bytes as u64).max(1);
        let start = wanted.start / chunk * chunk;
        let end = wanted.end.checked_next_multiple_of(chunk)?.min(record.length);
        let each = end.checked_sub(start).filter(|&n| n > 0)?;
        Some((self.read_parts(arena, span, record, Parts { start, end, each }, Urgency::Demand)?, start))
    }

    /// Reads `part` of a bundle, or with `bundles` above one that many whole bundles of one length that lie back to back (`part` then is all of them), to byte `at`
    /// of a span, in one delivery. The fetch; `None` if the memory is not there.
    pub fn read_groups(
        &mut self,
        arena: &mut Arena,
        (span, at): (usize, usize),
        record: &Record,
        bundles: u32,
        part: Range<u64>,
    ) -> Option<u32> {
        let length = usize::try_from(part.end.checked_sub(part.start)?).ok()?;
        let lease = arena.lease_part(span, at..at.checked_add(length)?)?;
        let parts = Parts { start: part.start, end: part.end, each: length as u64 };
        let number = self.open(Fetch { id: record.id, span, left: 1, spoiled: false, parts: Some(parts), slices: 1, bundles });
        self.deliver(number, record, 0, part, lease, Urgency::Demand);
        Some(number)
    }

    fn read_parts(&mut self, arena: &mut Arena, span: usize, record: &Record, parts: Parts, urgency: Urgency) -> Option<u32> {
        let count = parts.count();
        let number =
            self.open(Fetch { id: record.id, span, left: count as u32, spoiled: false, parts: Some(parts), slices: 1, bundles: 1 });
        for i in 0..count {
            let part = parts.part(i);
            let here = |at: u64| usize::try_from(at - parts.start).ok();
            let lease = arena.lease_part(span, here(part.start)?..here(part.end)?)?;
            self.deliver(number, record, i, part, lease, urgency);
        }
        Some(number)
    }

    /// Queues one delivery of a fetch: the bytes at `part` of the bundle.
    pub fn deliver(&mut self, number: u32, record: &Record, slice: usize, part: Range<u64>, lease: Lease, urgency: Urgency) {
        let tag = (number as u64) << DELIVERY_BITS | slice as u64;
        // Offsets were checked against the file when the index was decoded; a length that does not fit an address does not fit the lease
        // either, which the queue refuses.
        let length = usize::try_from(part.end - part.start).unwrap_or(usize::MAX);
        self.queue.read(tag, record.offset.saturating_add(part.start), length, lease, urgency);
    }

    /// The fetch that a tag of the queue belongs to.
    fn of(tag: u64) -> (u32, usize) {
        let tag = tag & !SECOND;
        ((tag >> DELIVERY_BITS) as u32, (tag & ((1 << DELIVERY_BITS) - 1)) as usize)
    }

    /// Decides by span about what is read ahead and was not asked for yet; for what is given up see [`Reader::next_dropped`].
    pub fn settle(&mut self, verdict: impl Fn(usize) -> Verdict) {
        let Reader { queue, fetches, dropped, .. } = self;
        let by_tag = |tag: u64| fetches.get(Self::of(tag).0 as usize).map_or(Verdict::Keep, |f| verdict(f.span));
        queue.settle(by_tag, |tag, lease| dropped.push((tag, lease)));
    }

    /// Memory of a delivery that was given up, with its fetch, and whether nothing more of that is on its way.
    pub fn next_dropped(&mut self) -> Option<(Fetch, bool, Lease)> {
        let (tag, lease) = self.dropped.pop()?;
        let (number, _) = Self::of(tag);
        let fetch = self.fetches.get_mut(number as usize)?;
        fetch.left -= 1;
        fetch.spoiled = true;
        if fetch.left == 0 {
            self.free.push(number);
        }
        Some((*fetch, fetch.left == 0, lease))
    }

    /// Takes in what has been read, at most [`DEPTH`] deliveries, and checks it on all threads; with `wait` it waits for the first.
    /// [`Reader::next`] hands it out. False if there is nothing.
    pub fn collect(&mut self, pack: &Pack, pool: &Pool, wait: bool) -> Result<bool> {
        let failed = |error, backend| Error::Io { file: pack.path.clone(), what: format!("{backend} reads failed"), error };
        while self.landed.len() < DEPTH {
            let done = match self.landed.is_empty() && wait {
                true => self.queue.wait(),
                false => self.queue.poll(),
            };
            let Some(done) = done.map_err(|e| failed(e, self.queue.backend()))? else { break };
            let (number, slice) = Self::of(done.tag);
            let Some(fetch) = self.fetches.get(number as usize) else { continue };
            let record = pack.index.get(fetch.id).map_err(|e| format_error(pack, e))?;
            // Without parts a delivery of a bundle is either one of its slices or all of it.
            let whole = done.lease.len() as u64 >= record.length;
            let part = match fetch.parts {
                Some(parts) => parts.part(slice),
                None => {
                    let mut own = pack.index.layout(record).slice_ranges().skip(slice * fetch.slices).take(fetch.slices);
                    let first = own.next().filter(|_| !whole);
                    first.map_or(0..record.length, |first| first.start..own.last().map_or(first.end, |last| last.end))
                }
            };
            self.landed.push(Landed { done, id: fetch.id, bundles: fetch.bundles, part, sums: Ok(()) });
        }
        if self.check {
            self.check_landed(pack, pool);
        }
        Ok(!self.landed.is_empty())
    }

    /// Checks the sums of what has landed, a few chunks to a thread at a time.
    fn check_landed(&mut self, pack: &Pack, pool: &Pool) {
        let Reader { landed, checks, .. } = self;
        for (place, delivery) in landed.iter().enumerate().filter(|(_, l)| l.done.result.is_ok()) {
            let part = delivery.part.clone();
            // Neighbours among neuron groups are short, and each has its own sums.
            let each = if delivery.bundles > 1 { usize::MAX } else { CHECK_BYTES };
            let starts = part.clone().step_by(each).map(|start| start..start.saturating_add(each as u64).min(part.end));
            checks.extend(starts.map(|starts| Check { landed: place, starts, sums: Ok(()) }));
        }
        let deliveries = &*landed;
        pool.split(checks, 1, &|_, checks, _| {
            for check in checks {
                check.sums = deliveries[check.landed].check(pack, check.starts.clone());
            }
        });
        for Check { landed: place, sums, .. } in checks.drain(..) {
            let delivery = &mut landed[place];
            if delivery.sums.is_ok() {
                delivery.sums = sums;
            }
        }
    }

    /// The next of the deliveries collected. One whose sums do not match is read once more first.
    pub fn next(&mut self, pack: &Pack) -> Option<Arrival> {
        loop {
            let Landed { done, id, part, sums, .. } = self.landed.pop()?;
            let (number, slice) = Self::of(done.tag);
            if sums.is_err() && done.tag & SECOND == 0 {
                self.rereads += 1;
                let offset = pack.index.get(id).map_or(0, |r| r.offset).saturating_add(part.start);
                let length = usize::try_from(part.end - part.start).unwrap_or(usize::MAX);
                self.queue.read(done.tag | SECOND, offset, length, done.lease, Urgency::Demand);
                continue;
            }
            let result = read_error(pack, id, done.result).and(sums.map_err(|e| format_error(pack, e)));
            let Some(fetch) = self.fetches.get_mut(number as usize) else { continue };
            fetch.left -= 1;
            fetch.spoiled |= result.is_err();
            if fetch.left == 0 {
                self.free.push(number);
            }
            return Some(Arrival { fetch: *fetch, number, delivery: slice, lease: done.lease, result, last: fetch.left == 0 });
        }
    }
}

impl Landed {
    /// Compares the sums of the chunks that begin in `starts`, for neighbours in one delivery those of all.
    fn check(&self, pack: &Pack, starts: Range<u64>) -> std::result::Result<(), FormatError> {
        let block = &pack.superblock;
        let bytes = usize::try_from(self.part.end - self.part.start).ok().and_then(|n| self.done.lease.bytes().get(..n));
        let bytes = bytes.unwrap_or_default();
        let check = |id, starts, bytes: &[u8]| {
            let record = pack.index.get(id)?;
            pack.index.check_part(record, &block.pack_id, block.chunk_bytes, starts, bytes, xxh3)
        };
        if self.bundles == 1 {
            // The last chunk may end behind `starts`.
            let from = usize::try_from(starts.start - self.part.start).ok();
            return check(self.id, starts, from.and_then(|from| bytes.get(from..)).unwrap_or_default());
        }
        let length = bytes.len() / self.bundles as usize;
        let ids = (0..self.bundles).map(|i| BundleId { ordinal: self.id.ordinal + i, ..self.id });
        ids.zip(bytes.chunks(length.max(1))).try_for_each(|(id, bytes)| check(id, 0..length as u64, bytes))
    }
}

fn read_error(pack: &Pack, id: BundleId, result: std::result::Result<(), ReadError>) -> Result<()> {
    result.map_err(|ReadError { offset, error }| Error::Io {
        file: pack.path.clone(),
        what: format!("cannot read {id} at offset {offset}"),
        error,
    })
}

fn format_error(pack: &Pack, error: FormatError) -> Error {
    Error::Format { file: pack.path.clone(), error }
}
