//! Keys and values of one attention layer, sized for the whole context when the model is opened.
//!
//! Both lie in panels of sixteen columns ([`crate::kernels::panel`]), per key/value head: keys as `[position / 16][head_dim][16 positions]`, so that sixteen scores are
//! made at once and no sum crosses lanes; values as `[position / 64][head_dim / 16][64 positions][16 dimensions]`. Attention of one head reads both forwards.

use crate::kernels::panel::{self, COLUMNS, Line};
use crate::kernels::{ActivationMode, Kernels, vector};
use crate::scratch::{SERIAL_VALUES, Step};
use forebay_format::model::Attention;

/// Positions of a block: as many as a panel of values has lines.
pub const BLOCK: usize = 64;
/// Values under one scale in [`KvType::Q8_0`], along the head as in the format's type of this name; fewer at the end of a head whose width is no multiple.
const GROUP: usize = 32;

/// Type in which keys and values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// Single precision: the exact path.
    F32,
    /// Half precision: the default.
    F16,
    /// 8 bits with a half-precision scale for 32 values. Half the memory of [`KvType::F16`], at a loss.
    Q8_0,
}

impl KvType {
    /// What goes with an activation mode if nobody asks otherwise.
    pub fn of(mode: ActivationMode) -> Self {
        match mode {
            ActivationMode::F32 => KvType::F32,
            ActivationMode::Int8 => KvType::F16,
        }
    }

    /// Name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Q8_0 => "q8_0",
        }
    }
}

/// Stored numbers; scales beside them where the type has any.
#[derive(Debug)]
enum Cells {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Q8 { values: Vec<i8>, scales: Vec<u16> },
}

impl Cells {
    fn new(kv: KvType, values: usize, scales: usize) -> Self {
        match kv {
            KvType::F32 => Cells::F32(vec![0.0; values]),
            KvType::F16 => Cells::F16(vec![0; values]),
            KvType::Q8_0 => Cells::Q8 { values: vec![0; values], scales: vec![0; scales] },
        }
    }
}

/// How a head's positions and dimensions become panels.
#[derive(Clone, Copy, Debug)]
enum Lie {
    Keys,
    Values,
}

/// Where things are in a head's run.
#[derive(Clone, Copy, Debug)]
struct Place {
    lie: Lie,
    dim: usize,
    /// A whole number of blocks.
    positions: usize,
}

impl Place {
    /// Stored numbers and scales of a head.
    fn run(&self) -> (usize, usize) {
        let width = match self.lie {
            Lie::Keys => self.dim,
            Lie::Values => self.dim.next_multiple_of(COLUMNS),
        };
        (self.positions * width, self.positions * self.dim.div_ceil(GROUP))
    }

    /// First of the dimensions from `16 * chunk` on of a position, and the distance from one to the next.
    fn chunk(&self, position: usize, chunk: usize) -> (usize, usize) {
        match self.lie {
            Lie::Keys => ((position / COLUMNS * self.dim + chunk * COLUMNS) * COLUMNS + position % COLUMNS, COLUMNS),
            Lie::Values => (((position / BLOCK * self.dim.div_ceil(COLUMNS) + chunk) * BLOCK + position % BLOCK) * COLUMNS, 1),
        }
    }

    /// Scale of a group of dimensions of a position. Scales of one group lie side by side: of a panel of keys, of a block of values.
    fn scale(&self, position: usize, group: usize) -> usize {
        let beside = match self.lie {
            Lie::Keys => COLUMNS,
            Lie::Values => BLOCK,
        };
        (position / beside * self.dim.div_ceil(GROUP) + group) * beside + position % beside
    }
}

/// Keys, or values, of all heads.
#[derive(Debug)]
struct Plane {
    place: Place,
    cells: Cells,
}

impl Plane {
    fn new(kv: KvType, heads: usize, place: Place) -> Self {
        let (values, scales) = place.run();
        Plane { place, cells: Cells::new(kv, heads * values, heads * scales) }
    }

    /// Stores `rows` (`[step.rows, heads * dim]`) at the step's positions.
    fn store(&mut self, step: &Step, rows: &[f32]) {
        let (place, k) = (self.place, step.kernels);
        let (run, scales_run) = place.run();
        let width = rows.len() / step.rows;
        let head_rows = |head: usize| {
            let own = head * place.dim..(head + 1) * place.dim;
            (step.position..).zip(rows.chunks_exact(width).map(move |row| &row[own.clone()]))
        };
        // A fork is worth its price only for many rows; who stores changes nothing of what is stored.
        let fork = rows.len() > SERIAL_VALUES;
        match &mut self.cells {
            Cells::F32(cells) => {
                let put = |head: usize, cells: &mut [f32]| {
                    head_rows(head).for_each(|(position, row)| place.put(position, row, cells, |from, to| to.copy_from_slice(from)));
                };
                if fork {
                    step.pool.split(cells, run, &|h, c, _| put(h, c))
                } else {
                    cells.chunks_mut(run).enumerate().for_each(|(h, c)| put(h, c))
                }
            }
            Cells::F16(cells) => {
                let put = |head: usize, cells: &mut [u16]| {
                    head_rows(head).for_each(|(position, row)| place.put(position, row, cells, |from, to| vector::to_f16(k, from, to)));
                };
                if fork {
                    step.pool.split(cells, run, &|h, c, _| put(h, c))
                } else {
                    cells.chunks_mut(run).enumerate().for_each(|(h, c)| put(h, c))
                }
            }
            Cells::Q8 { values, scales } => {
                let put = |head: usize, values: &mut [i8], scales: &mut [u16]| {
                    head_rows(head).for_each(|(position, row)| place.quantise(position, row, values, scales));
                };
                if fork {
                    step.pool.split2((values, run), (scales, scales_run), &|h, v, s, _| put(h, v, s));
                } else {
                    values.chunks_mut(run).zip(scales.chunks_mut(scales_run)).enumerate().for_each(|(h, (v, s))| put(h, v, s));
                }
            }
        }
    }

    /// Unpacks `to.len()` lines of a panel that begins at number `at` of a head's run. `position` is one of the panel's, and its first dimension is `dim`.
    fn unpack(&self, k: &Kernels, head: usize, (position, dim): (usize, usize), to: &mut [Line]) {
        let (run, scales_run) = self.place.run();
        let at = head * run + self.place.chunk(position, dim / COLUMNS).0;
        match &self.cells {
            Cells::F32(cells) => {
                let lines = cells[at..at + to.len() * COLUMNS].as_chunks::<COLUMNS>().0;
                to.iter_mut().zip(lines).for_each(|(to, line)| to.0 = *line);
            }
            Cells::F16(cells) => panel::widen(k, cells[at..at + to.len() * COLUMNS].as_chunks::<COLUMNS>().0, to),
            Cells::Q8 { values, scales } => {
                let lines = values[at..at + to.len() * COLUMNS].as_chunks::<COLUMNS>().0;
                let scales = &scales[head * scales_run..(head + 1) * scales_run];
                let mut wide = [0.0; BLOCK];
                match self.place.lie {
                    Lie::Keys => {
                        for (group, (lines, to)) in lines.chunks(GROUP).zip(to.chunks_mut(GROUP)).enumerate() {
                            let mut wide = [0.0; COLUMNS];
                            vector::from_f16(k, &scales[self.place.scale(position, group)..][..COLUMNS], &mut wide);
                            panel::scale_columns(lines, &wide, to);
                        }
                    }
                    Lie::Values => {
                        let wide = &mut wide[..to.len()];
                        vector::from_f16(k, &scales[self.place.scale(position, dim / GROUP)..][..wide.len()], wide);
                        panel::scale_lines(lines, wide, to);
                    }
                }
            }
        }
    }
}

impl Place {
    /// Puts a row of a head at its position, sixteen dimensions at a time through `convert`.
    fn put<T: Copy + Default>(&self, position: usize, row: &[f32], cells: &mut [T], convert: impl Fn(&[f32], &mut [T])) {
        for (chunk, values) in row.chunks(COLUMNS).enumerate() {
            let mut stored = [T::default(); COLUMNS];
            convert(values, &mut stored[..values.len()]);
            let (first, stride) = self.chunk(position, chunk);
            stored[..values.len()].iter().enumerate().for_each(|(i, &v)| cells[first + i * stride] = v);
        }
    }

    /// As [`Place::put`], in 8 bits. A group with something that is no number gets a scale that is none, so that it shows.
    fn quantise(&self, position: usize, row: &[f32], values: &mut [i8], scales: &mut [u16]) {
        for (group, own) in row.chunks(GROUP).enumerate() {
            let largest = own.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            let scale = if own.iter().all(|v| v.is_finite()) { largest / 127.0 } else { f32::NAN };
            scales[self.scale(position, group)] = half::f16::from_f32(scale).to_bits();
            let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
            for (chunk, own) in own.chunks(COLUMNS).enumerate() {
                let (first, stride) = self.chunk(position, group * (GROUP / COLUMNS) + chunk);
                own.iter().enumerate().for_each(|(i, v)| values[first + i * stride] = (v * inverse).round() as i8);
            }
        }
    }
}

/// The cache of one layer.
#[derive(Debug)]
pub struct KvCache {
    keys: Plane,
    values: Plane,
}

impl KvCache {
    /// A cache for `context` positions. Memory is reserved here and nowhere later.
    pub fn new(spec: &Attention, context: usize, kv: KvType) -> Self {
        let (heads, dim, positions) = (spec.kv_heads as usize, spec.head_dim as usize, context.next_multiple_of(BLOCK));
        let plane = |lie| Plane::new(kv, heads, Place { lie, dim, positions });
        KvCache { keys: plane(Lie::Keys), values: plane(Lie::Values) }
    }

    /// Bytes that [`KvCache::new`] takes; saturates.
    pub fn bytes(spec: &Attention, context: u32, kv: KvType) -> u64 {
        let dim = u64::from(spec.head_dim);
        let (cell, scale) = match kv {
            KvType::F32 => (4, 0),
            KvType::F16 => (2, 0),
            KvType::Q8_0 => (1, 2),
        };
        let a_position = (dim + dim.next_multiple_of(COLUMNS as u64)) * cell + 2 * dim.div_ceil(GROUP as u64) * scale;
        u64::from(spec.kv_heads).saturating_mul(u64::from(context).next_multiple_of(BLOCK as u64)).saturating_mul(a_position)
    }

    /// Stores the step's keys and values (`[rows, kv_heads * head_dim]` each) at its positions.
    pub fn store(&mut self, step: &Step, keys: &[f32], values: &[f32]) {
        self.keys.store(step, keys);
        self.values.store(step, values);
    }

    /// Sixteen keys of a head from `position` on, a multiple of sixteen: a line a dimension.
    pub fn keys(&self, k: &Kernels, head: usize, position: usize, to: &mut [Line]) {
        self.keys.unpack(k, head, (position, 0), to);
    }

    /// Sixteen dimensions from `dim` on, a multiple of sixteen, of a head's values from `position` on, a multiple of 64: a line a position.
    pub fn values(&self, k: &Kernels, head: usize, (position, dim): (usize, usize), to: &mut [Line]) {
        self.values.unpack(k, head, (position, dim), to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::Pool;
    use std::sync::atomic::AtomicBool;

    fn spec(kv_heads: u32, head_dim: u32) -> Attention {
        Attention {
            heads: kv_heads,
            kv_heads,
            head_dim,
            scale: 1.0,
            sliding_window: None,
            rope: None,
            qkv_bias: false,
            out_bias: false,
            qk_norm: forebay_format::model::QkNorm::None,
            output_gate: false,
        }
    }

    fn value(i: usize) -> f32 {
        (i * 7919 % 1009) as f32 / 504.5 - 1.0
    }

    /// What is stored in pieces comes back at its place, rounded as its type says, and takes the bytes that were announced.
    #[test]
    fn what_is_stored_comes_back() {
        let pool = Pool::new(2);
        for (heads, dim, context) in [(2usize, 20usize, 70usize), (1, 64, 64), (3, 80, 130)] {
            let width = heads * dim;
            let rows: Vec<f32> = (0..context * width).map(value).collect();
            let negative: Vec<f32> = rows.iter().map(|v| -v).collect();
            for (kv, error) in [(KvType::F32, 0.0), (KvType::F16, 1.0 / 2048.0), (KvType::Q8_0, 1.0 / 254.0 + 1.0 / 2048.0)] {
                let k = Kernels::detect(ActivationMode::Int8);
                let spec = spec(heads as u32, dim as u32);
                let mut cache = KvCache::new(&spec, context, kv);
                for (first, end) in [(0, 1), (1, 50), (50, context)] {
                    let step =
                        Step { pool: &pool, kernels: &k, rows: end - first, position: first, cut: 0.0, cancel: &AtomicBool::new(false) };
                    cache.store(&step, &rows[first * width..end * width], &negative[first * width..end * width]);
                }
                let near = |have: f32, want: f32| assert!((have - want).abs() <= error, "{kv:?}: {have} for {want}");
                for head in 0..heads {
                    for position in 0..context {
                        let want = |d: usize| rows[position * width + head * dim + d];
                        let mut lines = vec![Line::default(); dim];
                        cache.keys(&k, head, position / COLUMNS * COLUMNS, &mut lines);
                        (0..dim).for_each(|d| near(lines[d].0[position % COLUMNS], want(d)));
                        let mut lines = [Line::default(); BLOCK];
                        for first in (0..dim).step_by(COLUMNS) {
                            cache.values(&k, head, (position / BLOCK * BLOCK, first), &mut lines);
                            (first..dim.min(first + COLUMNS)).for_each(|d| near(lines[position % BLOCK].0[d - first], -want(d)));
                        }
                    }
                }
                let bytes = |plane: &Plane| match &plane.cells {
                    Cells::F32(cells) => size_of_val(&cells[..]),
                    Cells::F16(cells) => size_of_val(&cells[..]),
                    Cells::Q8 { values, scales } => size_of_val(&values[..]) + size_of_val(&scales[..]),
                };
                assert_eq!((bytes(&cache.keys) + bytes(&cache.values)) as u64, KvCache::bytes(&spec, context as u32, kv));
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        let (pool, k) = (Pool::new(1), Kernels::detect(ActivationMode::Int8));
        let mut cache = KvCache::new(&spec(1, 32), 1, KvType::Q8_0);
        let mut row = [1.0f32; 32];
        row[7] = f32::INFINITY;
        cache.store(&Step { pool: &pool, kernels: &k, rows: 1, position: 0, cut: 0.0, cancel: &AtomicBool::new(false) }, &row, &[0.0; 32]);
        let mut lines = [Line::default(); 32];
        cache.keys(&k, 0, 0, &mut lines);
        assert!(lines[3].0[0].is_nan());
        cache.values(&k, 0, (0, 0), &mut lines);
        assert!(lines.iter().all(|l| l.0 == [0.0; COLUMNS]));
    }
}
