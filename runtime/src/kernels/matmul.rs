//! Many rows of weights times many rows of activations, shared among the threads by blocks of weight rows.
//!
//! Within a block, weights are read from memory once: activation rows pass over them in small groups while both are in cache.

use super::blocks::{Form, QRow};
use super::ops::{DIRECT_ROWS, Direct, Dot, Dots, Integer, MANY, Ops, TILE_ROWS, Tile, Tiles, TypeOps};
use super::strip::{GROUP, LANES, Narrow, STRIP, Strip};
use super::{ActivationMode, Activations, Kernels, Matrix, Pool};
use forebay_format::Tiling;
use forebay_format::tiling::{DWORD, deinterleave};
use std::cell::RefCell;
use std::marker::PhantomData;

/// Weight bytes that a thread claims at a time: large against the cost of a claim, small against a layer.
const CHUNK_BYTES: usize = 128 << 10;
/// Weight rows whose strips are decoded together on the float path: the activations come from the third-level cache or from memory once for them all.
const ROWS: usize = 64;
/// The same where there are few activation rows.
const FEW_ROWS: usize = 8;
/// Few activation rows.
const FEW: usize = 4;
/// Places in a list of jobs from which a chunk's job is looked for. From the first one on, a prompt with hundreds of experts spent 8% of a small model's time on it.
const MARKS: usize = 64;
/// One product of [`Kernels::matmul_jobs`].
#[derive(Debug)]
pub struct Job<'a> {
    /// Weights, `[rows, cols]`.
    pub weights: Matrix<'a>,
    /// Activations, `[n, cols]`, loaded for the weights' type.
    pub activations: &'a Activations,
    /// Which activation rows to take, in this order; all without it.
    pub picked: Option<&'a [u32]>,
    /// `[picked.len() or n, weights.rows]`.
    pub out: &'a mut [f32],
}

impl Job<'_> {
    /// Output rows.
    fn rows(&self) -> usize {
        self.picked.map_or(self.activations.rows(), <[u32]>::len)
    }
}

/// A job as the threads see it.
struct Shared<'a> {
    w: Matrix<'a>,
    a: &'a Activations,
    picked: Option<&'a [u32]>,
    out: Out<'a>,
    /// Output rows.
    n: usize,
    /// Weight row that `w` begins with: 0 but where rows were taken apart.
    first: usize,
}

thread_local! {
    /// Rows that were interleaved and have no kernels for that: about [`CHUNK_BYTES`] of them, kept from claim to claim.
    static APART: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Where results go. Threads write disjoint columns.
struct Out<'a> {
    first: *mut f32,
    len: usize,
    lent: PhantomData<&'a mut [f32]>,
}

impl Out<'_> {
    /// # Safety
    /// No other thread writes or reads value `at`.
    #[inline]
    unsafe fn put(&self, at: usize, value: f32) {
        debug_assert!(at < self.len);
        // SAFETY: `at` is row * rows + column, below the length checked in `Jobs::get`.
        unsafe { self.first.add(at).write(value) }
    }
}

/// The jobs of one fork-join. A thread copies what it needs of a job and writes through the job's `out` only at columns of its own.
struct Jobs<'j, 'a> {
    first: *mut Job<'a>,
    len: usize,
    lent: PhantomData<&'j mut [Job<'a>]>,
}

// SAFETY: all parts of a job but `out` are shared references or plain data; `out` is written at disjoint places (see `Out`).
unsafe impl Sync for Jobs<'_, '_> {}

impl Jobs<'_, '_> {
    fn get(&self, i: usize) -> Shared<'_> {
        assert!(i < self.len);
        // SAFETY: `i` is in bounds. Fields are read, never written; `out` is turned into a pointer without a reference to its values.
        let (w, a, picked, first, len) = unsafe {
            let job = self.first.add(i);
            let out: *mut [f32] = &raw mut *(*job).out;
            ((*job).weights, (*job).activations, (*job).picked, out.cast::<f32>(), out.len())
        };
        let n = picked.map_or(a.rows(), <[u32]>::len);
        Shared { w, a, picked, out: Out { first, len, lent: PhantomData }, n, first: 0 }
    }
}

/// Weight rows in a claim, with `n` activation rows. Many of those pass over each claim: with 16 rows of 16 KiB they would come from the third-level cache for every 16 weight rows.
fn chunk_rows(w: &Matrix<'_>, row_bytes: usize, n: usize, threads: usize) -> usize {
    let least = if n > FEW { ROWS } else { TILE_ROWS };
    let by_bytes = (CHUNK_BYTES / row_bytes.max(1)).max(least);
    let by_threads = w.rows / (4 * threads);
    by_bytes.min(by_threads).next_multiple_of(TILE_ROWS).max(TILE_ROWS)
}

impl Kernels {
    /// `out[i][r] = sum over c of w[r][c] * a[i][c]` for all activation rows; `out` is `[a.rows(), w.rows]`.
    ///
    /// # Panics
    /// If sizes do not agree, or the activations were not loaded for the weights' type.
    pub fn matmul(&self, pool: &Pool, w: &Matrix<'_>, a: &Activations, out: &mut [f32]) {
        self.matmul_jobs(pool, &mut [Job { weights: *w, activations: a, picked: None, out }]);
    }

    /// All jobs in one fork-join: as [`Kernels::matmul`] each, on the activation rows that the job picks.
    ///
    /// # Panics
    /// As [`Kernels::matmul`].
    pub fn matmul_jobs(&self, pool: &Pool, jobs: &mut [Job<'_>]) {
        let threads = pool.threads();
        let chunks_of = |w: &Matrix<'_>, row_bytes: usize, n: usize| w.rows.div_ceil(chunk_rows(w, row_bytes, n, threads));
        let (mut marks, stride) = ([0; MARKS], jobs.len().div_ceil(MARKS).max(1));
        let mut total = 0;
        for (i, job) in jobs.iter().enumerate() {
            if i.is_multiple_of(stride) {
                marks[i / stride] = total;
            }
            total += chunks_of(&job.weights, self.check(job), job.rows());
        }
        let marks = &marks[..jobs.len().div_ceil(stride)];
        let jobs = Jobs { first: jobs.as_mut_ptr(), len: jobs.len(), lent: PhantomData };
        pool.run(total, &|chunk, _| {
            let mark = marks.partition_point(|&before| before <= chunk) - 1;
            let mut before = marks[mark];
            for i in mark * stride..jobs.len {
                let job = jobs.get(i);
                let row_bytes = job.w.checked_row_bytes();
                let chunks = chunks_of(&job.w, row_bytes, job.n);
                if chunk < before + chunks {
                    let step = chunk_rows(&job.w, row_bytes, job.n, threads);
                    let first = (chunk - before) * step;
                    return self.claim(&job, row_bytes, first..(first + step).min(job.w.rows));
                }
                before += chunks;
            }
        });
    }

    /// Checks that the sizes of a job agree; bytes of a weight row.
    fn check(&self, job: &Job<'_>) -> usize {
        let (w, a, n) = (&job.weights, job.activations, job.rows());
        assert_eq!(w.cols, a.cols(), "columns of weights and activations");
        assert_eq!(job.out.len(), n * w.rows, "{n} x {} results", w.rows);
        assert!(job.picked.is_none_or(|p| p.iter().all(|&i| (i as usize) < a.rows())), "picked rows");
        assert!(self.form(w).map_or(a.has_floats(), |form| a.has(form)), "activations were not loaded for {}", w.qtype.name());
        w.checked_row_bytes()
    }

    /// The 8-bit form that `w` meets in this mode.
    fn form(&self, w: &Matrix<'_>) -> Option<Form> {
        if self.mode == ActivationMode::Int8 { Form::of(w.qtype) } else { None }
    }

    /// Results of these weight rows, whole tiles if they are interleaved, for all activation rows of the job.
    fn claim(&self, job: &Shared<'_>, row_bytes: usize, rows: std::ops::Range<usize>) {
        if job.w.tiling == Tiling::RowMajor {
            return self.rows(job, row_bytes, rows);
        }
        if let Some((form, of)) = self.form(&job.w).zip((self.ops.interleaved)(job.w.qtype)) {
            return tiles(job, form, of, row_bytes, rows);
        }
        APART.with_borrow_mut(|apart| {
            let most = (CHUNK_BYTES / row_bytes.max(1) / TILE_ROWS * TILE_ROWS).clamp(TILE_ROWS, ROWS);
            let mut first = rows.start;
            while first < rows.end {
                let n = most.min(rows.end - first).min(job.w.piece_rows - first % job.w.piece_rows);
                apart.resize(n * row_bytes, 0);
                deinterleave(row_bytes, job.w.tiles(first, n, row_bytes), apart);
                let w = Matrix { bytes: apart, piece_rows: n, tiling: Tiling::RowMajor, ..job.w };
                let out = Out { lent: PhantomData, ..job.out };
                self.rows(&Shared { w, out, first, ..*job }, row_bytes, first..first + n);
                first += n;
            }
        });
    }

    /// Results of these weight rows, row-major, for all activation rows of the job.
    fn rows(&self, job: &Shared<'_>, row_bytes: usize, rows: std::ops::Range<usize>) {
        let ops = (self.ops.of)(job.w.qtype);
        match (self.form(&job.w), &ops.integer) {
            (Some(form), Integer::Rows(dots)) => integer_rows(job, form, dots, row_bytes, rows),
            (Some(form), Integer::Tiles(of)) => tiles(job, form, *of, row_bytes, rows),
            _ => float_rows(job, self.ops, ops, row_bytes, rows),
        }
    }
}

impl Shared<'_> {
    /// Activation row of output row `i`.
    fn activation(&self, i: usize) -> usize {
        self.picked.map_or(i, |p| p[i] as usize)
    }

    /// Bytes of weight row `r`, row-major.
    #[inline]
    fn row(&self, r: usize, row_bytes: usize) -> &[u8] {
        self.w.row(r - self.first, row_bytes)
    }
}

/// The integer path: groups of activation rows pass over the block of weight rows.
fn integer_rows(job: &Shared<'_>, form: Form, dots: &Dots, row_bytes: usize, rows: std::ops::Range<usize>) {
    let mut i = 0;
    while i < job.n {
        let at = (job, form, row_bytes, &rows, i);
        i += match job.n - i {
            1 => integer_group(at, dots.one),
            2..4 => integer_group(at, dots.two),
            4..8 => integer_group(at, dots.four),
            _ => integer_group(at, dots.eight),
        };
    }
}

/// `N` activation rows from `i` on; returns `N`.
fn integer_group<const N: usize>(
    (job, form, row_bytes, rows, i): (&Shared<'_>, Form, usize, &std::ops::Range<usize>, usize),
    dot: Dot<N>,
) -> usize {
    let group: [QRow<'_>; N] = std::array::from_fn(|j| job.a.quantised_row(form, job.activation(i + j)));
    for r in rows.clone() {
        let mut results = [0.0; N];
        // SAFETY: the set runs on this machine; weight row and activation rows have `cols` values.
        unsafe { dot(job.row(r, row_bytes), &group, &mut results) };
        for (j, value) in results.into_iter().enumerate() {
            // SAFETY: this thread alone has the columns `rows`.
            unsafe { job.out.put((i + j) * job.w.rows + r, value) };
        }
    }
    N
}

/// The integer path in tiles of weight rows.
fn tiles(job: &Shared<'_>, form: Form, Tiles { one, many, most }: Tiles, row_bytes: usize, rows: std::ops::Range<usize>) {
    for first in (0..job.n).step_by(most) {
        let acts = first..(first + most).min(job.n);
        match acts.len() {
            1 => tile_group::<1>(job, form, one, row_bytes, rows.clone(), acts),
            2..=8 => tile_group::<8>(job, form, many, row_bytes, rows.clone(), acts),
            9..=32 => tile_group::<32>(job, form, many, row_bytes, rows.clone(), acts),
            _ => tile_group::<MANY>(job, form, many, row_bytes, rows.clone(), acts),
        }
    }
}

/// These activation rows, at most `N`.
fn tile_group<const N: usize>(
    job: &Shared<'_>,
    form: Form,
    tile: Tile,
    row_bytes: usize,
    rows: std::ops::Range<usize>,
    acts: std::ops::Range<usize>,
) {
    let (first, n) = (acts.start, acts.len());
    let group: [QRow<'_>; N] = std::array::from_fn(|j| job.a.quantised_row(form, job.activation(first + j.min(n - 1))));
    let blocks = job.w.cols / job.w.qtype.block_len();
    let mut results = [[0.0; TILE_ROWS]; N];
    for r in rows.clone().step_by(TILE_ROWS) {
        let bytes = match job.w.tiling {
            // A tile at the end repeats the last row; what comes out twice is dropped.
            Tiling::RowMajor => std::array::from_fn(|i| job.row((r + i).min(rows.end - 1), row_bytes).as_ptr()),
            Tiling::Dwords16 => {
                let tile = job.w.tiles(r, TILE_ROWS, row_bytes);
                std::array::from_fn(|i| tile[DWORD * i..].as_ptr())
            }
        };
        // SAFETY: the set runs on this machine; weight rows and activation rows have `cols` values, a whole number of blocks.
        unsafe { tile(&bytes, blocks, &group[..n], &mut results[..n]) };
        for (j, results) in results[..n].iter().enumerate() {
            for (i, &value) in results[..TILE_ROWS.min(rows.end - r)].iter().enumerate() {
                // SAFETY: this thread alone has the columns `rows`.
                unsafe { job.out.put((first + j) * job.w.rows + r + i, value) };
            }
        }
    }
}

/// The float path.
fn float_rows(job: &Shared<'_>, ops: &Ops, of: &TypeOps, row_bytes: usize, rows: std::ops::Range<usize>) {
    if job.n == 1
        && let Some(direct) = of.direct.filter(|_| job.w.cols.is_multiple_of(LANES))
    {
        return direct_rows(job, direct, row_bytes, rows);
    }
    match job.n {
        ..=FEW => float_blocks::<FEW_ROWS>(job, ops, of, row_bytes, rows),
        _ => float_blocks::<ROWS>(job, ops, of, row_bytes, rows),
    }
}

/// What a block of `R` weight rows is worked on in.
struct Workspace<const R: usize> {
    strips: [Strip; R],
    sums: [[Narrow; GROUP]; R],
}

/// The float path, `R` weight rows at a time.
fn float_blocks<const R: usize>(job: &Shared<'_>, ops: &Ops, of: &TypeOps, row_bytes: usize, rows: std::ops::Range<usize>) {
    // Once for all groups: beginning both anew for each took a tenth of a prompt.
    let mut work = Workspace { strips: [Strip([0.0; STRIP]); R], sums: [[Narrow::ZERO; GROUP]; R] };
    for first in rows.clone().step_by(R) {
        let block = first..(first + R).min(rows.end);
        for i in (0..job.n).step_by(GROUP) {
            float_tile(job, (ops, of), row_bytes, block.clone(), i..(i + GROUP).min(job.n), &mut work);
        }
    }
}

/// The float path for one activation row, without strips.
fn direct_rows(job: &Shared<'_>, direct: Direct, row_bytes: usize, rows: std::ops::Range<usize>) {
    let a = job.a.padded_row(job.activation(0));
    for first in rows.clone().step_by(DIRECT_ROWS) {
        let mut sums = [Narrow::ZERO; DIRECT_ROWS];
        // At the end the last row is repeated; what comes out twice is dropped.
        let bytes = std::array::from_fn(|i| job.row((first + i).min(rows.end - 1), row_bytes).as_ptr());
        // SAFETY: the set runs on this machine; weight rows have as many values as the activation row, a multiple of 32.
        unsafe { direct(&bytes, a, &mut sums) };
        for (r, sums) in (first..rows.end).zip(&sums) {
            // SAFETY: this thread alone has the columns `rows`.
            unsafe { job.out.put(r, sums.total()) };
        }
    }
}

/// The float path for at most `R` weight rows and [`GROUP`] activation rows.
fn float_tile<const R: usize>(
    job: &Shared<'_>,
    (ops, of): (&Ops, &TypeOps),
    row_bytes: usize,
    rows: std::ops::Range<usize>,
    group: std::ops::Range<usize>,
    work: &mut Workspace<R>,
) {
    let (block_len, block_bytes) = (job.w.qtype.block_len(), job.w.qtype.block_bytes());
    let mut pieces: [&[f32]; GROUP] = [&[]; GROUP];
    let n = group.len();
    let (strips, sums) = (&mut work.strips[..rows.len()], &mut work.sums[..rows.len()]);
    sums.iter_mut().for_each(|sums| sums[..n].fill(Narrow::ZERO));
    for at in (0..job.w.cols).step_by(STRIP) {
        let len = STRIP.min(job.w.cols - at);
        let padded = len.next_multiple_of(super::activations::PAD);
        let bytes = at / block_len * block_bytes..(at + len) / block_len * block_bytes;
        for (r, strip) in rows.clone().zip(&mut *strips) {
            strip.0[len..padded].fill(0.0);
            // SAFETY: the set runs on this machine; both slices have `len` values.
            unsafe { (of.decode)(&job.row(r, row_bytes)[bytes.clone()], &mut strip.0[..len]) };
        }
        for (i, piece) in group.clone().zip(&mut pieces) {
            *piece = &job.a.padded_row(job.activation(i))[at..at + padded];
        }
        // SAFETY: the set runs on this machine; strips and pieces have `padded` values, and there are sums for all of them.
        unsafe { (ops.tile)(strips, &pieces[..n], padded, sums) };
    }
    for (j, i) in group.enumerate() {
        for (r, sums) in rows.clone().zip(&*sums) {
            // SAFETY: this thread alone has the columns `rows`.
            unsafe { job.out.put(i * job.w.rows + r, sums[j].total()) };
        }
    }
}

#[cfg(test)]
mod tests;
