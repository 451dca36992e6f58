//! Rows of an embedding matrix that is not in memory: those of a step's tokens are read when it begins, each with the chunks around it, so that its
//! sums can be checked.

use std::ops::Range;

use forebay_format::{FormatError, QuantType};

use super::{Store, lost};
use crate::error::{Error, Result};
use crate::kernels::{Matrix, Pool};
use crate::trunk::{RunId, TensorHandle};

/// Where rows are read to.
#[derive(Default)]
pub(super) struct Rows {
    /// First span.
    first: usize,
    /// Bytes of the row in each span.
    rows: Vec<Range<usize>>,
    /// Reads that have not arrived.
    pending: usize,
    failed: Option<Error>,
}

impl Rows {
    /// `slots` spans from `first` on.
    pub fn new(first: usize, slots: usize) -> Rows {
        Rows { first, rows: vec![0..0; slots], ..Rows::default() }
    }

    /// Notes what arrived.
    pub fn take_in(&mut self, result: Result<()>) {
        self.pending = self.pending.saturating_sub(1);
        if let Err(e) = result {
            self.failed.get_or_insert(e);
        }
    }
}

impl Store {
    /// Most rows that [`Store::read_rows`] takes; `None` where the embedding is in memory.
    pub fn row_slots(&self) -> Option<usize> {
        Some(self.rows.rows.len()).filter(|&n| n > 0)
    }

    /// Reads rows of the embedding, all of them at once, and waits for them; [`Store::row`] gives them by their place in `rows`.
    ///
    /// Errors: [`Error::Request`] for more rows than there are slots, [`Error::Format`] for one that the matrix has not, and as [`Store::advance`].
    pub fn read_rows(&mut self, embedding: TensorHandle, rows: &[u32], pool: &Pool) -> Result<()> {
        if rows.len() > self.rows.rows.len() {
            return Err(Error::Request(format!(
                "{} rows of the embedding at once, but there are {} slots",
                rows.len(),
                self.rows.rows.len()
            )));
        }
        // What an earlier call left behind when it failed.
        while self.rows.pending > 0 && self.advance(pool, true)? {}
        self.rows.failed = None;
        for (slot, &row) in rows.iter().enumerate() {
            self.read_row(embedding, slot, row)?;
        }
        while self.rows.pending > 0 && self.advance(pool, true)? {}
        match self.rows.failed.take() {
            Some(error) => Err(error),
            None if self.rows.pending > 0 => Err(lost(&self.pack, RunId::Embedding.bundle())),
            None => Ok(()),
        }
    }

    fn read_row(&mut self, embedding: TensorHandle, slot: usize, row: u32) -> Result<()> {
        let pack = &self.pack;
        let format = |error| Error::Format { file: pack.path.clone(), error };
        let id = RunId::Embedding.bundle();
        let record = pack.index.get(id).map_err(format)?;
        let wanted = self.map.place(embedding).and_then(|p| p.row_range(row as usize));
        let wanted = wanted.ok_or_else(|| format(FormatError::invalid(id.to_string(), format!("has no row {row}"))))?;
        let bytes = wanted.start as u64..wanted.end as u64;
        let read = self.io.read_chunks(pack, &mut self.trunk, self.rows.first + slot, record, bytes);
        let (_, start) = read.ok_or_else(|| lost(pack, id))?;
        self.rows.pending += 1;
        if let Some(place) = self.rows.rows.get_mut(slot) {
            *place = wanted.start - start as usize..wanted.end - start as usize;
        }
        Ok(())
    }

    /// The row that was read into a slot, as a matrix of one. An empty matrix for a slot that there is not.
    pub fn row(&self, embedding: TensorHandle, slot: usize) -> Matrix<'_> {
        let bytes = self.rows.rows.get(slot).and_then(|at| self.trunk.part(self.rows.first + slot, at.clone()));
        let row = self.map.place(embedding).zip(bytes).map(|(place, bytes)| place.row(bytes));
        row.unwrap_or(Matrix::whole(QuantType::F32, 0, 0, &[]))
    }
}
