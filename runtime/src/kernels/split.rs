//! Safe ways to hand disjoint pieces of slices to the threads of a [`Pool`].

use super::pool::Pool;
use std::marker::PhantomData;

/// A slice cut into pieces of equal length (the last may be shorter), each lent to one call.
struct Pieces<'a, T> {
    first: *mut T,
    len: usize,
    piece: usize,
    lent: PhantomData<&'a mut [T]>,
}

// SAFETY: a piece is lent to one thread at a time (see `piece`), which `T: Send` allows.
unsafe impl<T: Send> Sync for Pieces<'_, T> {}

impl<'a, T> Pieces<'a, T> {
    fn new(data: &'a mut [T], piece: usize) -> Self {
        assert!(piece > 0 || data.is_empty(), "pieces of no values");
        Pieces { first: data.as_mut_ptr(), len: data.len(), piece, lent: PhantomData }
    }

    fn count(&self) -> usize {
        if self.len == 0 { 0 } else { self.len.div_ceil(self.piece) }
    }

    /// Piece `i`.
    ///
    /// # Safety
    /// No piece is lent twice at a time.
    #[allow(clippy::mut_from_ref)]
    unsafe fn piece(&self, i: usize) -> &mut [T] {
        let start = i * self.piece;
        assert!(start < self.len);
        // SAFETY: inside the slice; the caller keeps pieces apart.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(start), self.piece.min(self.len - start)) }
    }
}

// The closures' types are their documentation; aliases would hide who gets what.
#[allow(clippy::type_complexity)]
impl Pool {
    /// Calls `task(i, piece, worker)` for each piece of `len` values of `data` (the last may be shorter), on all threads.
    pub fn split<T: Send>(&self, data: &mut [T], len: usize, task: &(dyn Fn(usize, &mut [T], usize) + Sync)) {
        let pieces = Pieces::new(data, len);
        self.run(pieces.count(), &|i, worker| {
            // SAFETY: `run` hands out each chunk once.
            task(i, unsafe { pieces.piece(i) }, worker);
        });
    }

    /// As [`Pool::split`], with scratch of the worker's own.
    ///
    /// # Panics
    /// If there is less scratch than threads.
    pub fn split_with<T: Send, S: Send>(
        &self,
        data: &mut [T],
        len: usize,
        scratch: &mut [S],
        task: &(dyn Fn(usize, &mut [T], &mut S) + Sync),
    ) {
        assert!(scratch.len() >= self.threads(), "scratch for {} of {} threads", scratch.len(), self.threads());
        let (pieces, scratch) = (Pieces::new(data, len), Pieces::new(scratch, 1));
        self.run(pieces.count(), &|i, worker| {
            // SAFETY: `run` hands out each chunk once, and calls of one worker do not overlap.
            let (piece, own) = unsafe { (pieces.piece(i), scratch.piece(worker)) };
            task(i, piece, &mut own[0]);
        });
    }

    /// Pieces of two slices side by side: each slice comes with its piece length, and both have the same number of pieces.
    ///
    /// # Panics
    /// If they have not.
    pub fn split2<A: Send, B: Send>(
        &self,
        a: (&mut [A], usize),
        b: (&mut [B], usize),
        task: &(dyn Fn(usize, &mut [A], &mut [B], usize) + Sync),
    ) {
        let (a, b) = (Pieces::new(a.0, a.1), Pieces::new(b.0, b.1));
        assert_eq!(a.count(), b.count(), "slices with different numbers of pieces");
        self.run(a.count(), &|i, worker| {
            // SAFETY: `run` hands out each chunk once.
            let (a, b) = unsafe { (a.piece(i), b.piece(i)) };
            task(i, a, b, worker);
        });
    }

    /// As [`Pool::split2`] with three slices.
    pub fn split3<A: Send, B: Send, C: Send>(
        &self,
        a: (&mut [A], usize),
        b: (&mut [B], usize),
        c: (&mut [C], usize),
        task: &(dyn Fn(usize, &mut [A], &mut [B], &mut [C]) + Sync),
    ) {
        let (a, b, c) = (Pieces::new(a.0, a.1), Pieces::new(b.0, b.1), Pieces::new(c.0, c.1));
        assert!(a.count() == b.count() && b.count() == c.count(), "slices with different numbers of pieces");
        self.run(a.count(), &|i, _| {
            // SAFETY: `run` hands out each chunk once.
            let (a, b, c) = unsafe { (a.piece(i), b.piece(i), c.piece(i)) };
            task(i, a, b, c);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_the_slice_once() {
        let pool = Pool::new(3);
        for (len, piece) in [(0, 1), (1, 1), (10, 3), (12, 4), (5, 100)] {
            let mut data = vec![0u32; len];
            pool.split(&mut data, piece, &|i, part, _| part.iter_mut().for_each(|v| *v += i as u32 + 1));
            let expected: Vec<u32> = (0..len).map(|i| (i / piece) as u32 + 1).collect();
            assert_eq!(data, expected);
        }
    }

    #[test]
    fn slices_go_side_by_side() {
        let pool = Pool::new(2);
        let (mut a, mut b, mut c) = (vec![0usize; 8], vec![0usize; 12], vec![0usize; 4]);
        pool.split2((&mut a, 2), (&mut b, 3), &|i, a, b, _| {
            a.fill(i);
            b.fill(i);
        });
        assert_eq!((a[7], b[11], b[2], b[3]), (3, 3, 0, 1));
        pool.split3((&mut a, 2), (&mut b, 3), (&mut c, 1), &|i, a, b, c| {
            a[0] += 10;
            b[1] += 10;
            c[0] = i;
        });
        assert_eq!((a[2], b[4], c), (11, 11, vec![0, 1, 2, 3]));
    }

    #[test]
    fn scratch_is_the_workers_own() {
        let pool = Pool::new(3);
        let mut scratch = vec![0usize; 3];
        let mut data = vec![0u8; 100];
        pool.split_with(&mut data, 7, &mut scratch, &|_, part, own| *own += part.len());
        assert_eq!(scratch.iter().sum::<usize>(), 100);
    }
}
