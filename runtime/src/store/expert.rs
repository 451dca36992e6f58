//! Where gate, up and down lie in an expert's bundle. Worked out once per layer; a view is then arithmetic.

use std::ops::Range;

use forebay_format::layout::manifest::{ExpertPlace, ExpertSlice};
use forebay_format::model::{Ffn, GatedFfn};
use forebay_format::{BundleId, FormatError, Layout, QuantType, Record, Tiling};

use crate::kernels::Matrix;
use crate::pack::Pack;

/// One expert in the window.
#[derive(Clone, Copy, Debug)]
pub struct ExpertView<'a> {
    /// `[inner, hidden]`.
    pub gate: Matrix<'a>,
    /// `[inner, hidden]`.
    pub up: Matrix<'a>,
    /// `[hidden, inner]`.
    pub down: Matrix<'a>,
}

/// A matrix in pieces, from the start of the bundle.
#[derive(Clone, Copy)]
struct Part {
    qtype: QuantType,
    rows: usize,
    cols: usize,
    start: usize,
    /// To the end of the last row.
    length: usize,
    piece_rows: usize,
    piece_stride: usize,
    tiling: Tiling,
}

impl Part {
    fn new((qtype, tiling): (QuantType, Tiling), rows: u32, cols: u32, start: u64, piece_rows: u32, piece_stride: u64) -> Option<Part> {
        let (rows, cols, piece_rows) = (rows as usize, cols as usize, piece_rows as usize);
        let (start, piece_stride) = (usize::try_from(start).ok()?, usize::try_from(piece_stride).ok()?);
        let last = rows.checked_sub(1)?;
        let rows_in_last = last.checked_rem(piece_rows)?.checked_add(1)?;
        let length = (last / piece_rows).checked_mul(piece_stride)?.checked_add(rows_in_last.checked_mul(qtype.row_bytes(cols)?)?)?;
        Some(Part { qtype, rows, cols, start, length, piece_rows, piece_stride, tiling })
    }

    fn end(&self) -> Option<usize> {
        self.start.checked_add(self.length)
    }

    fn matrix<'a>(&self, bundle: &'a [u8]) -> Option<Matrix<'a>> {
        let bytes = bundle.get(self.start..)?.get(..self.length)?;
        Some(Matrix {
            qtype: self.qtype,
            rows: self.rows,
            cols: self.cols,
            bytes,
            piece_rows: self.piece_rows,
            piece_stride: self.piece_stride,
            pieces: None,
            tiling: self.tiling,
        })
    }
}

/// Some rows of an expert: what one slice of its bundle holds.
#[derive(Clone, Debug)]
pub enum SliceView<'a> {
    /// Rows of gate and of up.
    GateUp {
        /// Which.
        rows: Range<usize>,
        /// `[rows, hidden]`.
        gate: Matrix<'a>,
        /// `[rows, hidden]`.
        up: Matrix<'a>,
    },
    /// Rows of down.
    Down {
        /// Which.
        rows: Range<usize>,
        /// `[rows, inner]`.
        down: Matrix<'a>,
    },
}

/// One slice: its bytes in the bundle, and what they are.
struct Slice {
    range: Range<usize>,
    rows: Range<usize>,
    /// Where up starts in the slice; `None` for down rows.
    up: Option<usize>,
}

/// Gate, up and down of the bundles that share a layout of the index.
struct Parts {
    layout: u32,
    gate: Part,
    up: Part,
    down: Part,
    slices: Vec<Slice>,
}

/// The parts of all experts of one layer.
pub(crate) struct LayerParts {
    /// One entry for each layout in use; nearly always one.
    by_layout: Vec<Parts>,
}

impl LayerParts {
    /// The parts of every layer; `None` for layers without experts.
    pub fn of(pack: &Pack) -> Result<Vec<Option<LayerParts>>, FormatError> {
        let spec = &pack.manifest.spec;
        let places = spec.layers.iter().zip(&pack.manifest.experts);
        (0u32..)
            .zip(places)
            .map(|(layer, (l, place))| match (&l.ffn, place) {
                (Ffn::Routed(routed), Some(place)) => {
                    let mut by_layout: Vec<Parts> = Vec::new();
                    for expert in 0..routed.experts {
                        let record = pack.index.get(BundleId::expert(layer, expert))?;
                        if by_layout.iter().all(|p| p.layout != record.layout) {
                            let parts = parts(record, pack.index.layout(record), place, &routed.expert, spec.hidden);
                            by_layout.push(parts.ok_or_else(|| {
                                FormatError::invalid(record.id.to_string(), "its slices do not hold gate, up and down rows")
                            })?);
                        }
                    }
                    Ok(Some(LayerParts { by_layout }))
                }
                _ => Ok(None),
            })
            .collect()
    }

    fn parts(&self, record: &Record) -> Option<&Parts> {
        self.by_layout.iter().find(|p| p.layout == record.layout)
    }

    /// The matrices of one expert, given its slot.
    pub fn view<'a>(&self, record: &Record, slot: &'a [u8]) -> Option<ExpertView<'a>> {
        let parts = self.parts(record)?;
        Some(ExpertView { gate: parts.gate.matrix(slot)?, up: parts.up.matrix(slot)?, down: parts.down.matrix(slot)? })
    }

    /// Number of slices of an expert.
    pub fn slices(&self, record: &Record) -> usize {
        self.parts(record).map_or(0, |p| p.slices.len())
    }

    /// Slices with gate and up rows, and those with down rows, by bit; for bundles of at most 64 slices.
    pub fn masks(&self, record: &Record) -> (u64, u64) {
        let slices = self.parts(record).into_iter().flat_map(|p| &p.slices).enumerate();
        slices.fold((0, 0), |(g, d), (i, s)| if s.up.is_some() { (g | 1 << i, d) } else { (g, d | 1 << i) })
    }

    /// The bytes of a slice in its bundle.
    pub fn slice_range(&self, record: &Record, slice: usize) -> Option<Range<usize>> {
        Some(self.parts(record)?.slices.get(slice)?.range.clone())
    }

    /// The rows in a slice, given its bytes.
    pub fn slice<'a>(&self, record: &Record, slice: usize, bytes: &'a [u8]) -> Option<SliceView<'a>> {
        let parts = self.parts(record)?;
        let slice = parts.slices.get(slice)?;
        let rows = slice.rows.clone();
        let matrix = |part: &Part, at: usize| {
            let length = part.qtype.row_bytes(part.cols)?.checked_mul(rows.len())?;
            Some(Matrix::whole(part.qtype, rows.len(), part.cols, bytes.get(at..)?.get(..length)?).tiled(part.tiling))
        };
        Some(match slice.up {
            Some(up) => SliceView::GateUp { gate: matrix(&parts.gate, 0)?, up: matrix(&parts.up, up)?, rows },
            None => SliceView::Down { down: matrix(&parts.down, 0)?, rows },
        })
    }
}

/// `None` if manifest and layout do not fit each other, which `validate_pack::check` excludes.
fn parts(record: &Record, layout: &Layout, place: &ExpertPlace, ffn: &GatedFfn, hidden: u32) -> Option<Parts> {
    let (mut gate_up, mut down) = (None, None);
    let mut slices = Vec::with_capacity(place.slices.len());
    for (slice, range) in place.slices.iter().zip(layout.slice_ranges()) {
        let length = range.end - range.start;
        let bytes = usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?;
        let (first, rows, all, up) = match *slice {
            ExpertSlice::GateUp { first_row, rows, up_offset } => {
                gate_up.get_or_insert((rows, up_offset, range.start, length));
                (first_row, rows, ffn.inner, Some(usize::try_from(up_offset).ok()?))
            }
            ExpertSlice::Down { first_row, rows } => {
                down.get_or_insert((rows, range.start, length));
                (first_row, rows, hidden, None)
            }
        };
        let end = first.checked_add(rows)?.min(all);
        slices.push(Slice { range: bytes, rows: first as usize..end.max(first) as usize, up });
    }
    let (rows, up_offset, start, stride) = gate_up?;
    let gate = Part::new((place.gate, place.tiling), ffn.inner, hidden, start, rows, stride)?;
    let up = Part::new((place.up, place.tiling), ffn.inner, hidden, start.checked_add(up_offset)?, rows, stride)?;
    let (rows, start, stride) = down?;
    let down = Part::new((place.down, place.down_tiling), hidden, ffn.inner, start, rows, stride)?;
    let inside = [&gate, &up, &down].iter().all(|p| p.end().is_some_and(|end| end as u64 <= record.length));
    inside.then_some(Parts { layout: record.layout, gate, up, down, slices })
}
