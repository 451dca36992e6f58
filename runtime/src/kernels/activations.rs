//! Activation rows and the 8-bit forms that the weights' types ask for.

use super::blocks::{Form, QRow};
use super::pool::Pool;
use super::strip::STRIP;
use super::{ActivationMode, Kernels};
use forebay_format::QuantType;

/// Rows are padded with zeros to a multiple of this, so that the float kernels have no tail.
pub(super) const PAD: usize = 32;
/// Values between the starts of rows: an odd number of strips. A strip of each row of a group is worked on at a time, and 4 KiB apart lines compete for the same places
/// in the first-level cache (64 sets): 24 strips of 1 KiB that lie an odd number of KiB apart take six of its eight ways everywhere, an even number apart (rows of 1,536
/// or 2,048 values as they are) twelve or 24 in some places and none in the others.
const fn stride(cols: usize) -> usize {
    (cols.div_ceil(STRIP) | 1) * STRIP
}
/// Rows start at multiples of this many bytes: a line, or every second load of a vector would touch two.
const LINE: usize = 64;
/// Bytes between the starts of rows of an 8-bit form, for the same reason: a tile of weights meets one block of many rows at a time.
fn form_stride(cols: usize) -> usize {
    cols + FORM_SKEW
}
/// What [`form_stride`] adds: one line.
const FORM_SKEW: usize = 64;
/// From this many rows on, loading is shared among the threads.
const SHARE: usize = 4;

/// Zeros, of which those from [`Lined::start`] on begin a line.
#[derive(Debug)]
struct Lined<T>(Vec<T>);

impl<T: Copy + Default> Lined<T> {
    fn new(len: usize) -> Self {
        Lined(vec![T::default(); len + Self::spare()])
    }

    /// Most values before the first line.
    const fn spare() -> usize {
        LINE / size_of::<T>()
    }

    fn start(&self) -> usize {
        self.0.as_ptr().align_offset(LINE)
    }

    fn values(&self) -> &[T] {
        &self.0[self.start()..]
    }

    fn values_mut(&mut self) -> &mut [T] {
        let start = self.start();
        &mut self.0[start..]
    }
}

/// `n` rows of `cols` values: f32, and 8-bit forms. All memory is allocated in [`Activations::new`].
#[derive(Debug)]
pub struct Activations {
    values: Lined<f32>,
    /// `values` holds the rows that are loaded: weights that are decoded first meet them.
    floats: bool,
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
    q: Lined<i8>,
    d: Vec<f32>,
    sums: Vec<i16>,
    /// Holds the rows that are loaded.
    loaded: bool,
}

impl Quantised {
    fn new(form: Form, max_rows: usize, max_cols: usize) -> Self {
        let (d, sums) = (max_rows * max_cols.div_ceil(form.block()), max_rows * max_cols.div_ceil(form.group()));
        Quantised { form, q: Lined::new(max_rows * form_stride(max_cols)), d: vec![0.0; d], sums: vec![0; sums], loaded: false }
    }
}

impl Activations {
    /// Room for `max_rows` rows of `max_cols` values; also for fewer rows of fewer values.
    pub fn new(max_rows: usize, max_cols: usize, mode: ActivationMode) -> Self {
        let forms = match mode {
            ActivationMode::F32 => [None, None],
            ActivationMode::Int8 => Form::ALL.map(|form| Some(Quantised::new(form, max_rows, max_cols))),
        };
        let values = Lined::new(max_rows * stride(max_cols));
        Activations { values, floats: false, forms, max_rows, max_cols, rows: 0, cols: 0 }
    }

    /// Bytes that [`Activations::new`] allocates.
    pub fn bytes(max_rows: usize, max_cols: usize, mode: ActivationMode) -> u64 {
        let (rows, cols) = (max_rows as u64, max_cols as u64);
        let floats = rows * stride(max_cols) as u64 * 4 + LINE as u64;
        let form = |f: Form| {
            let row = cols + FORM_SKEW as u64 + 4 * cols.div_ceil(f.block() as u64) + 2 * cols.div_ceil(f.group() as u64);
            rows * row + LINE as u64
        };
        match mode {
            ActivationMode::F32 => floats,
            ActivationMode::Int8 => floats + Form::ALL.map(form).iter().sum::<u64>(),
        }
    }

    /// Takes `n` rows of `cols` values: copied from `rows`, and quantised once for each form, where weights of `types` need it.
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
        self.floats = k.mode() == ActivationMode::F32 || types.iter().any(|&t| Form::of(t).is_none());
        for Quantised { form, loaded, .. } in self.forms.iter_mut().flatten() {
            *loaded = k.mode() == ActivationMode::Int8 && types.iter().any(|&t| Form::of(t) == Some(*form));
            assert!(!*loaded || cols.is_multiple_of(form.block()), "{cols} values are no whole blocks of {}", form.block());
        }
    }

    /// Takes `rows` as the rows from `first` on: copies and quantises them, as far as the weights need it.
    ///
    /// # Panics
    /// If they are not whole rows, or there is no room for them.
    pub fn fill(&mut self, pool: &Pool, k: &Kernels, first: usize, rows: &[f32]) {
        let cols = self.cols;
        let n = rows.len() / cols.max(1);
        assert!(rows.len() == n * cols && first + n <= self.rows, "{} values in rows of {cols} from row {first} on", rows.len());
        if self.floats && cols > 0 {
            let (stride, padded) = (stride(cols), cols.next_multiple_of(PAD));
            let to = &mut self.values.values_mut()[first * stride..(first + n) * stride];
            let copy = |i: usize, to: &mut [f32]| {
                to[..cols].copy_from_slice(&rows[i * cols..(i + 1) * cols]);
                to[cols..padded].fill(0.0);
            };
            match n {
                ..SHARE => to.chunks_exact_mut(stride).enumerate().for_each(|(i, to)| copy(i, to)),
                _ => pool.split(to, stride, &|i, to, _| copy(i, to)),
            }
        }
        for Quantised { form, q, d, sums, .. } in self.forms.iter_mut().flatten().filter(|part| part.loaded) {
            let (blocks, groups) = (cols / form.block(), cols / form.group());
            quantise_rows(
                pool,
                k,
                *form,
                rows,
                cols,
                (&mut q.values_mut()[first * form_stride(cols)..], &mut d[first * blocks..], &mut sums[first * groups..]),
            );
        }
    }

    /// The f32 values of row `i`, if [`Activations::has_floats`].
    #[cfg(test)]
    pub(super) fn row(&self, i: usize) -> &[f32] {
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

    /// Row `i` with the zeros behind it, if [`Activations::has_floats`].
    pub(super) fn padded_row(&self, i: usize) -> &[f32] {
        assert!(i < self.rows, "activation row {i} of {}", self.rows);
        let start = i * stride(self.cols);
        &self.values.values()[start..start + self.cols.next_multiple_of(PAD)]
    }

    /// What is really allocated; [`Activations::bytes`] is tested against it.
    #[cfg(test)]
    pub(super) fn allocated(&self) -> u64 {
        let forms = self.forms.iter().flatten().map(|p| p.q.0.len() + 4 * p.d.len() + 2 * p.sums.len());
        (4 * self.values.0.len() + forms.sum::<usize>()) as u64
    }

    /// Rows were loaded as they are.
    pub(super) fn has_floats(&self) -> bool {
        self.floats
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
            q: &part.q.values()[i * form_stride(self.cols)..][..self.cols],
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
