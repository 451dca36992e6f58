//! Bundles on their way into memory: a delivery for each slice, checked as it arrives and read once more if a sum does not match. Nothing leaves
//! here as good whose sums do not match.

use std::ops::Range;

use forebay_format::{BundleId, FormatError, Record};

use crate::error::{Error, Result};
use crate::io::{DEPTH, Done, Queue, ReadError, Urgency, Verdict};
use crate::kernels::Pool;
use crate::pack::Pack;
use crate::window::arena::Lease;

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
}

/// A delivery that has arrived and was checked, or failed.
pub(crate) struct Arrival {
    /// Its bundle; `spoiled` counts this delivery.
    pub fetch: Fetch,
    /// Number of the fetch.
    pub number: u32,
    /// Slice of the bundle; 0 for a bundle in one piece.
    pub slice: usize,
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
    part: Range<u64>,
    sums: std::result::Result<(), FormatError>,
}

/// A queue that checks what it reads.
pub(crate) struct Reader {
    pub queue: Queue,
    /// Deliveries read again because a sum did not match.
    pub rereads: u64,
    /// The memory is registered with the kernel.
    pub registered: bool,
    /// Check sums: always, but for a benchmark that measures what checking costs or what reading alone takes.
    pub check: bool,
    fetches: Vec<Fetch>,
    free: Vec<u32>,
    landed: Vec<Landed>,
    /// Deliveries given up: tag and memory.
    dropped: Vec<(u64, Lease)>,
}

impl Reader {
    /// For at most `fetches` bundles at a time without allocating.
    pub fn new(queue: Queue, fetches: usize) -> Reader {
        Reader {
            queue,
            rereads: 0,
            registered: false,
            check: true,
            fetches: Vec::with_capacity(fetches),
            free: Vec::with_capacity(fetches),
            landed: Vec::with_capacity(DEPTH),
            dropped: Vec::with_capacity(MAX_DELIVERIES),
        }
    }

    /// Opens a fetch of `deliveries` deliveries; each is queued with [`Reader::deliver`].
    pub fn fetch(&mut self, id: BundleId, span: usize, deliveries: usize) -> u32 {
        let fetch = Fetch { id, span, left: deliveries as u32, spoiled: false };
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
            // One delivery of a bundle is either one of its slices or all of it.
            let slice = pack.index.layout(record).slice_ranges().nth(slice);
            let whole = done.lease.len() as u64 >= record.length;
            let part = slice.filter(|_| !whole).unwrap_or(0..record.length);
            self.landed.push(Landed { done, id: fetch.id, part, sums: Ok(()) });
        }
        if self.check {
            pool.split(&mut self.landed, 1, &|_, landed, _| landed.iter_mut().for_each(|l| l.check(pack)));
        }
        Ok(!self.landed.is_empty())
    }

    /// The next of the deliveries collected. One whose sums do not match is read once more first.
    pub fn next(&mut self, pack: &Pack) -> Option<Arrival> {
        loop {
            let Landed { done, id, part, sums } = self.landed.pop()?;
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
            return Some(Arrival { fetch: *fetch, number, slice, lease: done.lease, result, last: fetch.left == 0 });
        }
    }
}

impl Landed {
    fn check(&mut self, pack: &Pack) {
        if self.done.result.is_err() {
            return;
        }
        let block = &pack.superblock;
        let bytes = usize::try_from(self.part.end - self.part.start).ok().and_then(|n| self.done.lease.bytes().get(..n));
        let record = pack.index.get(self.id);
        self.sums = record.and_then(|record| {
            pack.index.check_part(record, &block.pack_id, block.chunk_bytes, self.part.clone(), bytes.unwrap_or_default())
        });
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
