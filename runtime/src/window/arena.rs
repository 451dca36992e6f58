//! Page-aligned anonymous memory cut into spans: the trunk (a span per run) and the window (a span per slot).
//!
//! A page is either readable through the arena or leased to the I/O side, never both: that is what makes reads that land in place sound. Parts of a
//! span are leased one by one, so that kernels read the first slice of an expert while the rest is on its way.
//! Everything is mapped at start and stays until the arena and all its leases are gone.

use std::ffi::c_void;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, MlockFlags, ProtFlags, madvise, mlock_with, mmap_anonymous, munmap};

/// Start and length of every span are multiples of this, which covers every direct-I/O alignment the reader accepts. What is called a page below has
/// this size, also where the kernel's pages have 16 or 64 KiB: leases are kept in a bitmap of our own, and only the whole mapping is advised and locked.
pub const SPAN_ALIGNMENT: usize = 4096;
/// Huge pages of x86-64 and of arm64 with 4 KiB pages; the mapping starts on a multiple, which is one of every page size.
const HUGE_PAGE: usize = 2 << 20;

/// One anonymous mapping.
struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: a Mapping is an address range that it owns alone; it hands out no references itself. Aliasing is governed by Arena and Lease.
unsafe impl Send for Mapping {}
// SAFETY: as above: nothing is read or written through a shared Mapping.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `length > 0` bytes of zeros, starting on a huge page. Only address space is taken until pages are touched.
    fn new(length: usize) -> io::Result<Mapping> {
        let reserved = length.checked_add(HUGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new private anonymous mapping at an address of the kernel's choice touches no memory in use.
        let raw = unsafe { mmap_anonymous(std::ptr::null_mut(), reserved, protection, MapFlags::PRIVATE | MapFlags::NORESERVE) }?;
        let head = raw.addr().next_multiple_of(HUGE_PAGE) - raw.addr();
        // Trim to exactly `length`, so that no huge page can grow past what the budget counted.
        // SAFETY: both ranges lie inside the mapping just made, are multiples of the page size (`length` is a multiple of SPAN_ALIGNMENT
        // and rounded up by munmap), and nothing refers to them yet.
        unsafe {
            if head > 0 {
                munmap(raw, head)?;
            }
            let end = raw.byte_add(head + length);
            let tail = HUGE_PAGE - head;
            let page = rustix::param::page_size();
            let skip = end.addr().next_multiple_of(page) - end.addr();
            if tail > skip {
                munmap(end.byte_add(skip), tail - skip)?;
            }
        }
        // SAFETY: `head <= HUGE_PAGE`, so the address lies inside the mapping.
        let base = unsafe { raw.byte_add(head) }.cast::<u8>();
        let base = NonNull::new(base).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { base, length })
    }

    fn raw(&self) -> *mut c_void {
        self.base.as_ptr().cast()
    }

    /// Asks for huge pages; a kernel without them is fine.
    fn advise_huge(&self) {
        // SAFETY: the range is this mapping; the advice changes page size, not contents.
        let _ = unsafe { madvise(self.raw(), self.length, Advice::LinuxHugepage) };
    }

    /// Locks pages as they are touched, see [`Mapping::populate`]. False where limits forbid it.
    fn lock(&self) -> bool {
        // SAFETY: the range is this mapping.
        unsafe { mlock_with(self.raw(), self.length, MlockFlags::ONFAULT) }.is_ok()
    }
}

impl Mapping {
    /// Has the kernel back all pages with memory, on `threads` threads. An old kernel that cannot does it page by page later.
    fn populate(&self, threads: usize) {
        let part = self.length.div_ceil(threads.max(1)).next_multiple_of(HUGE_PAGE);
        std::thread::scope(|scope| {
            for start in (0..self.length).step_by(part) {
                scope.spawn(move || {
                    let length = part.min(self.length - start);
                    // SAFETY: the part lies inside the mapping; populating it changes no contents.
                    let _ = unsafe { madvise(self.raw().byte_add(start), length, Advice::LinuxPopulateWrite) };
                });
            }
        });
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the last owner is gone: the arena and every lease hold an Arc to this mapping.
        let _ = unsafe { munmap(self.raw(), self.length) };
    }
}

#[derive(Clone, Copy)]
struct Span {
    start: usize,
    length: usize,
}

/// Memory cut into spans. See the module's text for who may touch which bytes when.
pub struct Arena {
    /// `None` when there are no bytes at all.
    map: Option<Arc<Mapping>>,
    spans: Vec<Span>,
    /// One bit a page of [`SPAN_ALIGNMENT`] bytes: it is leased. 64 pages a word.
    leased: Vec<u64>,
    locked: bool,
}

impl Arena {
    /// Maps one span for each length, in order, each rounded up to [`SPAN_ALIGNMENT`]. Fails when address space or commit limits are exceeded.
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> io::Result<Arena> {
        let mut spans = Vec::new();
        let mut end = 0usize;
        for length in lengths {
            spans.push(Span { start: end, length });
            end = length.checked_next_multiple_of(SPAN_ALIGNMENT).and_then(|l| end.checked_add(l)).ok_or(io::ErrorKind::OutOfMemory)?;
        }
        if end == 0 {
            return Ok(Arena { map: None, spans, leased: Vec::new(), locked: true });
        }
        let map = Mapping::new(end)?;
        map.advise_huge();
        let locked = map.lock();
        let leased = vec![0; (end / SPAN_ALIGNMENT).div_ceil(64)];
        Ok(Arena { map: Some(Arc::new(map)), spans, leased, locked })
    }

    /// Has the kernel back all of the memory now, on `threads` threads; registering it for I/O would do that on one. Clearing the pages is nearly all of what opening takes; in a
    /// virtual machine its host decides how long (3 to 33 s for 8 GiB, docs/LEARNED.md).
    pub fn populate(&self, threads: usize) {
        if let Some(map) = &self.map {
            map.populate(threads);
        }
    }

    /// Number of spans.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// There are no spans.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Bytes of the longest span.
    pub fn longest(&self) -> usize {
        self.spans.iter().map(|s| s.length).max().unwrap_or(0)
    }

    /// The memory is locked, or there is none.
    pub fn locked(&self) -> bool {
        self.locked
    }

    /// Address and length of the whole memory, for registering it with the kernel.
    pub fn region(&self) -> Option<(*mut u8, usize)> {
        self.map.as_ref().map(|m| (m.base.as_ptr(), m.length))
    }

    /// Bytes of a span; `None` if there is no such span or a part of it is leased.
    pub fn bytes(&self, span: usize) -> Option<&[u8]> {
        self.part(span, 0..self.spans.get(span)?.length)
    }

    /// These bytes of a span; `None` if they are not inside it or share a page with a lease.
    pub fn part(&self, span: usize, range: Range<usize>) -> Option<&[u8]> {
        let at = self.place(span, &range)?;
        if words(&at).any(|(word, bits)| self.leased[word] & bits != 0) {
            return None;
        }
        let map = self.map.as_ref()?;
        // SAFETY: the bytes lie inside the mapping and are initialised (anonymous memory reads as zero). No page of them is leased, and leasing one
        // takes `&mut self`, so nothing writes to them while this borrow of `self` lives.
        Some(unsafe { std::slice::from_raw_parts(map.base.as_ptr().add(at.start), at.len()) })
    }

    /// Bytes of a span, to write; `None` if there is no such span or a part of it is leased.
    pub fn bytes_mut(&mut self, span: usize) -> Option<&mut [u8]> {
        let at = self.place(span, &(0..self.spans.get(span)?.length))?;
        if words(&at).any(|(word, bits)| self.leased[word] & bits != 0) {
            return None;
        }
        let map = self.map.as_ref()?;
        // SAFETY: as in `part`; nobody else refers to the bytes while this exclusive borrow of `self` lives, because none of them is leased.
        Some(unsafe { std::slice::from_raw_parts_mut(map.base.as_ptr().add(at.start), at.len()) })
    }

    /// Takes a whole span out for writing; see [`Arena::lease_part`].
    pub fn lease(&mut self, span: usize) -> Option<Lease> {
        self.lease_part(span, 0..self.spans.get(span)?.length)
    }

    /// Takes bytes of a span out for writing, whole pages of them: the range starts at a multiple of [`SPAN_ALIGNMENT`] and ends at one or with the
    /// span. `None` if it does not, is not inside the span, or a part of it is out already.
    pub fn lease_part(&mut self, span: usize, range: Range<usize>) -> Option<Lease> {
        let at = self.place(span, &range)?;
        let whole = range.start.is_multiple_of(SPAN_ALIGNMENT);
        let whole = whole && (range.end.is_multiple_of(SPAN_ALIGNMENT) || range.end == self.spans.get(span)?.length);
        let map = Arc::clone(self.map.as_ref()?);
        if !whole || words(&at).any(|(word, bits)| self.leased[word] & bits != 0) {
            return None;
        }
        words(&at).for_each(|(word, bits)| self.leased[word] |= bits);
        Some(Lease { map, span, start: at.start, length: at.len() })
    }

    /// Copies `length` bytes within a span, from one place to another that does not overlap it. False, and nothing is done, if a part of either is not inside the
    /// span or is leased.
    pub fn copy(&mut self, span: usize, from: usize, to: usize, length: usize) -> bool {
        let place = |start: usize| self.place(span, &(start..start.checked_add(length)?));
        let (Some(from), Some(to)) = (place(from), place(to)) else { return false };
        let apart = from.end <= to.start || to.end <= from.start;
        let free = words(&from).chain(words(&to)).all(|(word, bits)| self.leased[word] & bits == 0);
        let Some(map) = self.map.as_ref().filter(|_| apart && free) else { return false };
        // SAFETY: both places lie inside the mapping, do not overlap, and no page of them is leased; `&mut self` says that nobody reads them now.
        unsafe { std::ptr::copy_nonoverlapping(map.base.as_ptr().add(from.start), map.base.as_ptr().add(to.start), length) };
        true
    }

    /// Puts leased bytes back. A lease of another arena is dropped without effect.
    pub fn restore(&mut self, lease: Lease) {
        if self.map.as_ref().is_some_and(|m| Arc::ptr_eq(m, &lease.map)) {
            words(&(lease.start..lease.start + lease.length)).for_each(|(word, bits)| self.leased[word] &= !bits);
        }
    }

    /// Bytes of the mapping; `None` if the range is not inside the span.
    fn place(&self, span: usize, range: &Range<usize>) -> Option<Range<usize>> {
        let s = self.spans.get(span)?;
        (range.start <= range.end && range.end <= s.length).then(|| s.start + range.start..s.start + range.end)
    }
}

/// The pages that these bytes touch, as words of the bitmap and bits of each.
fn words(at: &Range<usize>) -> impl Iterator<Item = (usize, u64)> + use<> {
    let (first, end) = (at.start / SPAN_ALIGNMENT, at.end.div_ceil(SPAN_ALIGNMENT));
    let all = if at.is_empty() { 0..0 } else { first / 64..end.div_ceil(64) };
    all.map(move |word| {
        let (low, high) = (first.max(word * 64) - word * 64, end.min(word * 64 + 64) - word * 64);
        (word, (u64::MAX >> (64 - (high - low))) << low)
    })
}

/// Bytes that are out for writing. The only way to them until they are restored; dropping the lease instead leaves them unreadable for good.
pub struct Lease {
    map: Arc<Mapping>,
    span: usize,
    start: usize,
    length: usize,
}

impl Lease {
    /// Number of the span in its arena.
    pub fn span(&self) -> usize {
        self.span
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// There are no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// First byte. Writing through it is sound while the lease lives and nobody uses [`Lease::bytes`].
    pub fn as_ptr(&self) -> *mut u8 {
        // SAFETY: the bytes lie inside the mapping.
        unsafe { self.map.base.as_ptr().add(self.start) }
    }

    /// The bytes, for whoever holds the lease and has no read in flight into it.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: inside the mapping, initialised; the lease is the only access, and it is with the I/O queue, not here, while a read is in flight.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_aligned_zeroed_and_exclusive() {
        let mut arena = Arena::new([1, 4096, 5000, 3 << 20]).unwrap();
        for (i, length) in [1, 4096, 5000, 3 << 20].into_iter().enumerate() {
            let bytes = arena.bytes(i).unwrap();
            assert_eq!(bytes.len(), length);
            assert!(bytes.as_ptr().addr().is_multiple_of(SPAN_ALIGNMENT));
            assert!(bytes.iter().all(|&b| b == 0));
        }
        let lease = arena.lease(2).unwrap();
        assert!(arena.bytes(2).is_none() && arena.bytes_mut(2).is_none() && arena.lease(2).is_none());
        assert!(arena.bytes_mut(1).is_some() && arena.bytes_mut(4).is_none());
        assert!(arena.bytes(1).is_some() && arena.bytes(3).is_some());
        // SAFETY: the lease is ours and nothing else refers to the span.
        unsafe { lease.as_ptr().write_bytes(7, lease.len()) };
        assert!(lease.bytes().iter().all(|&b| b == 7));
        arena.restore(lease);
        assert!(arena.bytes(2).unwrap().iter().all(|&b| b == 7));
        assert!(arena.bytes(1).unwrap().iter().chain(arena.bytes(3).unwrap()).all(|&b| b == 0), "no neighbour was touched");
    }

    #[test]
    fn a_lease_outlives_its_arena_and_fits_no_other() {
        let mut a = Arena::new([4096]).unwrap();
        let mut b = Arena::new([4096]).unwrap();
        let (from_a, from_b) = (a.lease(0).unwrap(), b.lease(0).unwrap());
        b.restore(from_a);
        assert!(b.bytes(0).is_none(), "a foreign lease restores nothing");
        drop(b);
        // SAFETY: the lease keeps the mapping alive.
        unsafe { from_b.as_ptr().write_bytes(1, from_b.len()) };
        assert_eq!(from_b.bytes()[4095], 1);
    }

    #[test]
    fn parts_are_leased_page_by_page() {
        const P: usize = SPAN_ALIGNMENT;
        let mut arena = Arena::new([3 * P + 10, 200 * P]).unwrap();
        let tail = arena.lease_part(0, 2 * P..3 * P + 10).unwrap();
        assert!(arena.bytes(0).is_none() && arena.part(0, 0..2 * P + 1).is_none());
        assert_eq!(arena.part(0, 5..2 * P).unwrap().len(), 2 * P - 5);
        assert!(arena.lease_part(0, P..3 * P).is_none() && arena.lease(0).is_none());
        let head = arena.lease_part(0, 0..2 * P).unwrap();
        arena.restore(tail);
        assert!(arena.part(0, 2 * P..3 * P + 10).is_some() && arena.part(0, P..P + 1).is_none());
        arena.restore(head);
        assert!(arena.bytes(0).is_some());
        for bad in [1..P, 0..P + 1, 0..4 * P] {
            assert!(arena.lease_part(0, bad.clone()).is_none(), "{bad:?}");
        }
        // Many words of the bitmap at once, and their neighbours.
        let middle = arena.lease_part(1, 60 * P..190 * P).unwrap();
        assert!(arena.part(1, 0..60 * P).is_some() && arena.part(1, 190 * P..200 * P).is_some());
        assert!((60..190).all(|page| arena.part(1, page * P..page * P + 1).is_none()));
        arena.restore(middle);
        assert!(arena.bytes(1).is_some() && arena.part(1, 7..7).is_some());
    }

    #[test]
    fn bytes_move_within_a_span_unless_they_are_leased() {
        const P: usize = SPAN_ALIGNMENT;
        let mut arena = Arena::new([P, 4 * P]).unwrap();
        let lease = arena.lease_part(1, P..2 * P).unwrap();
        // SAFETY: the lease is ours and nothing else refers to its bytes.
        unsafe { lease.as_ptr().write_bytes(9, lease.len()) };
        assert!(!arena.copy(1, P, 3 * P, P) && !arena.copy(1, 2 * P, P, P));
        arena.restore(lease);
        assert!(arena.copy(1, P, 3 * P, P));
        assert!(arena.part(1, 3 * P..4 * P).unwrap().iter().all(|&b| b == 9));
        assert!(arena.part(1, 2 * P..3 * P).unwrap().iter().all(|&b| b == 0));
        assert!(
            !arena.copy(1, P, P + 8, P) && !arena.copy(1, 0, 3 * P + 1, P) && !arena.copy(2, 0, 0, 0) && !arena.copy(1, usize::MAX, 0, 2)
        );
    }

    #[test]
    fn empty_arenas_and_absurd_lengths() {
        let mut none = Arena::new([]).unwrap();
        assert!(none.is_empty() && none.lease(0).is_none() && none.bytes(0).is_none());
        assert!(Arena::new([usize::MAX - 10]).is_err());
        assert!(Arena::new([usize::MAX / 2, usize::MAX / 2, usize::MAX / 2]).is_err());
    }
}
