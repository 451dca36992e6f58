//! Activation rows and the 8-bit forms that the weights' types ask for.

use super::blocks::{Form, QRow};
use super::pool::Pool;
use super::{ActivationMode, Kernels};
use forebay_format::QuantType;

/// Rows are padded with zeros to a multiple of this, so that the float kernels have no tail.
pub(super) const PAD: usize = 32;
/// Values between the starts of rows: padded, and not a multiple of 4 KiB, or the rows of a group would compete for the same few places
/// in the first-level cache.
fn stride(cols: usize) -> usize {
    let padded = cols.next_multiple_of(PAD);
    if padded.is_multiple_of(1024) { padded + SKEW } else { padded }
}
/// What [`stride`] adds at most.
const SKEW: usize = 256;
/// Bytes between the starts of rows of an 8-bit form, for the same reason: a tile of weights meets one block of many rows at a time.
fn form_stride(cols: usize) -> usize {
    cols + FORM_SKEW
}
/// What [`form_stride`] adds: one line.
const FORM_SKEW: usize = 64;
/// From this many rows on, loading is shared among the threads.
const SHARE: usize = 4;

/// `n` rows of `cols` values: f32, and 8-bit forms. All memory is allocated in [`Activations::new`].
#[derive(Debug)]
pub struct Activations {
    values: Vec<f32>,
    forms: [Option<Quantised>; 2],
    max_rows: usize,
    max_cols: usize,
    rows: usize,
    cols: usize,
}

/// One 8-bit form of all rows; `d` and `sums` back to back.
#[derive(Debug)]
struct Quantised {
    form: Form,
    q: Vec<i8>,
    d: Vec<f32>,
    sums: Vec<i16>,
    /// Holds the rows that are loaded.
    loaded: bool,
}

impl Quantised {
    fn new(form: Form, max_rows: usize, max_cols: usize) -> Self {
        let (d, sums) = (max_rows * max_cols.div_ceil(form.block()), max_rows * max_cols.div_ceil(form.group()));
        Quantised { form, q: vec![0; max_rows * form_stride(max_cols)], d: vec![0.0; d], sums: vec![0; sums], loaded: false }
    }
}

impl Activations {
    /// Room for `max_rows` rows of `max_cols` values; also for fewer rows of fewer values.
    pub fn new(max_rows: usize, max_cols: usize, mode: ActivationMode) -> Self {
        let forms = match mode {
            ActivationMode::F32 => [None, None],
            ActivationMode::Int8 => Form::ALL.map(|form| Some(Quantised::new(form, max_rows, max_cols))),
        };
        let values = vec![0.0; max_rows * (max_cols.next_multiple_of(PAD) + SKEW)];
        Activations { values, forms, max_rows, max_cols, rows: 0, cols: 0 }
    }

    /// Bytes that [`Activations::new`] allocates.
    pub fn bytes(max_rows: usize, max_cols: usize, mode: ActivationMode) -> u64 {
        let (rows, cols) = (max_rows as u64, max_cols as u64);
        let floats = rows * (cols.next_multiple_of(PAD as u64) + SKEW as u64) * 4;
        let form = |f: Form| rows * (cols + FORM_SKEW as u64 + 4 * cols.div_ceil(f.block() as u64) + 2 * cols.div_ceil(f.group() as u64));
        match mode {
            ActivationMode::F32 => floats,
            ActivationMode::Int8 => floats + Form::ALL.map(form).iter().sum::<u64>(),
        }
    }

    /// Copies `n` rows of `cols` values from `rows` and quantises them once for each form that weights of `types` need.
    ///
    /// # Panics
    /// If there is no room, or `cols` is not a whole number of blocks of one of `types`.
    pub fn load(&mut self, pool: &Pool, k: &Kernels, rows: &[f32], n: usize, cols: usize, types: &[QuantType]) {
        self.reserve(k, n, cols, types);
        self.fill(pool, k, 0, rows);
    }

    /// Makes room for `n` rows of `cols` values in the forms that weights of `types` need. What they hold is undefined until [`Activations::fill`].
    ///
    /// # Panics
    /// As [`Activations::load`].
    pub fn reserve(&mut self, k: &Kernels, n: usize, cols: usize, types: &[QuantType]) {
        assert!(n <= self.max_rows && cols <= self.max_cols, "{n} x {cols} values in room for {} x {}", self.max_rows, self.max_cols);
        (self.rows, self.cols) = (n, cols);
        for Quantised { form, loaded, .. } in self.forms.iter_mut().flatten() {
            *loaded = k.mode() == ActivationMode::Int8 && types.iter().any(|&t| Form::of(t) == Some(*form));
            assert!(!*loaded || cols.is_multiple_of(form.block()), "{cols} values are no whole blocks of {}", form.block());
        }
    }

    /// Copies `rows` to the rows from `first` on, and quantises them.
    ///
    /// # Panics
    /// If they are not whole rows, or there is no room for them.
    pub fn fill(&mut self, pool: &Pool, k: &Kernels, first: usize, rows: &[f32]) {
        let cols = self.cols;
        let n = rows.len() / cols.max(1);
        assert!(rows.len() == n * cols && first + n <= self.rows, "{} values in rows of {cols} from row {first} on", rows.len());
        for (to, from) in self.values.chunks_exact_mut(stride(cols).max(1)).skip(first).zip(rows.chunks_exact(cols.max(1))) {
            to[..cols].copy_from_slice(from);
            to[cols..].fill(0.0);
        }
        for Quantised { form, q, d, sums, .. } in self.forms.iter_mut().flatten().filter(|part| part.loaded) {
            let (blocks, groups) = (cols / form.block(), cols / form.group());
            quantise_rows(
                pool,
                k,
                *form,
                rows,
                cols,
                (&mut q[first * form_stride(cols)..], &mut d[first * blocks..], &mut sums[first * groups..]),
            );
        }
    }

    /// The f32 values of row `i`.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.padded_row(i)[..self.cols]
    }

    /// Rows loaded.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Row `i` with the zeros behind it.
    pub(super) fn padded_row(&self, i: usize) -> &[f32] {
        assert!(i < self.rows, "activation row {i} of {}", self.rows);
        let start = i * stride(self.cols);
        &self.values[start..start + self.cols.next_multiple_of(PAD)]
    }

    /// What is really allocated; [`Activations::bytes`] is tested against it.
    #[cfg(test)]
    pub(super) fn allocated(&self) -> u64 {
        let forms = self.forms.iter().flatten().map(|p| p.q.len() + 4 * p.d.len() + 2 * p.sums.len());
        (4 * self.values.len() + forms.sum::<usize>()) as u64
    }

    /// This form was loaded.
    pub(super) fn has(&self, form: Form) -> bool {
        self.forms.iter().flatten().any(|part| part.form == form && part.loaded)
    }

    /// Row `i` in 8 bits.
    #[inline]
    pub(super) fn quantised_row(&self, form: Form, i: usize) -> QRow<'_> {
        assert!(i < self.rows, "activation row {i} of {}", self.rows);
        let Some(part) = self.forms.iter().flatten().find(|part| part.form == form && part.loaded) else {
            panic!("activations were not loaded for {form:?}")
        };
        let (blocks, groups) = (self.cols / form.block(), self.cols / form.group());
        QRow {
            q: &part.q[i * form_stride(self.cols)..][..self.cols],
            d: &part.d[i * blocks..(i + 1) * blocks],
            sums: &part.sums[i * groups..(i + 1) * groups],
        }
    }
}

/// Quantises the rows of `rows`, shared among the threads when there are enough of them.
fn quantise_rows(pool: &Pool, k: &Kernels, form: Form, rows: &[f32], cols: usize, to: (&mut [i8], &mut [f32], &mut [i16])) {
    if cols == 0 {
        return;
    }
    let n = rows.len() / cols;
    let (blocks, groups) = (cols / form.block(), cols / form.group());
    let stride = form_stride(cols);
    let (q, d, sums) = (&mut to.0[..n * stride], &mut to.1[..n * blocks], &mut to.2[..n * groups]);
    let quantise = |i: usize, q: &mut [i8], d: &mut [f32], sums: &mut [i16]| {
        // SAFETY: the set runs on this machine; the lengths follow from `form` and the number of values.
        unsafe { (k.ops.quantise)(form, &rows[i * cols..(i + 1) * cols], &mut q[..cols], d, sums) }
    };
    if n < SHARE {
        let pieces = q.chunks_exact_mut(stride).zip(d.chunks_exact_mut(blocks)).zip(sums.chunks_exact_mut(groups));
        return pieces.enumerate().for_each(|(i, ((q, d), sums))| quantise(i, q, d, sums));
    }
    pool.split3((q, stride), (d, blocks), (sums, groups), &quantise);
}
