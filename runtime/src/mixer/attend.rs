//! Softmax attention over cached keys and values, by blocks of queries.
//!
//! A query walks its keys in spans of [`SPAN`] positions and within them in blocks of [`BLOCK`], both at fixed absolute positions, with a running maximum (Milakov and
//! Gimelshein 2018). A span begins anew; what spans give is merged in their order. So the result of a query depends on its position and on what is cached, never on
//! the queries beside it, the cut into steps, or the threads. Queries that share a key/value head go through a block together: its keys and values are unpacked
//! once for all of them. A step of one row is shared among the threads by heads and spans, a longer one by heads and rows.

use crate::kernels::panel::{COLUMNS, Line, TOGETHER, add_products};
use crate::kernels::{Kernels, vector};
use crate::kv::{BLOCK, KvCache};
use crate::mixer::attention::Shape;
use crate::scratch::{SERIAL_VALUES, Step};
use std::ops::Range;

/// Positions after which the running sums begin anew: the unit of work of a step of one row. Small, so that also short sequences are work for a few threads; merging
/// costs one part in 512 of what a span does.
const SPAN: usize = 256;
/// Queries that go through a block together, if there are as many: enough that unpacking the block is a small part of the work, few enough that they stay in the
/// second-level cache.
const QUERIES: usize = 32;

/// What to attend to, and how.
#[derive(Clone, Copy)]
pub struct Attend<'a> {
    /// Sizes.
    pub shape: Shape,
    /// Multiplies the scores.
    pub scale: f32,
    /// Positions a query sees, itself included.
    pub window: usize,
    /// Keys and values, those of the step included.
    pub cache: &'a KvCache,
    /// `[rows, heads * query_stride]`.
    pub queries: &'a [f32],
}

/// Rows of a step that one thread takes through the cache together.
pub fn tile_rows(shape: &Shape, rows: usize) -> usize {
    (QUERIES / shape.group()).clamp(1, rows.max(1))
}

/// Memory of the threads, and of the spans of a step of one row.
#[derive(Debug)]
pub struct Workspace {
    workers: Vec<Worker>,
    spans: Vec<f32>,
}

/// Lengths of a [`Workspace`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkspaceSizes {
    lines: usize,
    queries: usize,
    values: usize,
    spans: usize,
    threads: usize,
}

impl WorkspaceSizes {
    /// For steps of `rows` rows of layers with these sizes in a context of so many positions.
    pub fn new(shapes: impl Iterator<Item = Shape>, rows: usize, context: usize, threads: usize) -> Self {
        let mut sizes = WorkspaceSizes { threads, ..WorkspaceSizes::default() };
        for shape in shapes {
            let queries = tile_rows(&shape, rows) * shape.group();
            sizes.lines = sizes.lines.max(shape.head_dim).max(BLOCK);
            sizes.queries = sizes.queries.max(queries);
            sizes.values = sizes.values.max(queries * shape.padded_dim());
            sizes.spans = sizes.spans.max(context.div_ceil(SPAN) * shape.heads * (shape.padded_dim() + STATS));
        }
        sizes
    }

    /// Bytes that [`Workspace::new`] takes.
    pub fn bytes(&self) -> u64 {
        let WorkspaceSizes { lines, queries, values, spans, threads } = *self;
        let floats = 2 * values + queries * (BLOCK + 2 * STATS);
        let quads = queries.div_ceil(TOGETHER) * size_of::<Quad>();
        let worker =
            size_of::<Worker>() + lines * size_of::<Line>() + floats * size_of::<f32>() + queries * size_of::<Range<usize>>() + quads;
        (threads * worker + spans * size_of::<f32>()) as u64
    }
}

impl Workspace {
    /// Allocates everything.
    pub fn new(sizes: &WorkspaceSizes) -> Self {
        let WorkspaceSizes { lines, queries, values, spans, threads } = *sizes;
        let block = || BlockWork {
            lines: vec![Line::default(); lines],
            queries: vec![0.0; values],
            scores: vec![0.0; queries * BLOCK],
            seen: vec![0..0; queries],
            quads: vec![Quad::default(); queries.div_ceil(TOGETHER)],
        };
        let worker = || Worker {
            block: block(),
            partial: vec![0.0; values],
            stats: vec![[0.0; STATS]; queries],
            totals: vec![[0.0; STATS]; queries],
        };
        Workspace { workers: (0..threads).map(|_| worker()).collect(), spans: vec![0.0; spans] }
    }
}

/// Values of a query beside its output: the largest score so far, and the sum of the weights relative to it.
const STATS: usize = 2;

/// Memory of one thread.
#[derive(Debug)]
struct Worker {
    block: BlockWork,
    /// Outputs of a span that is not the first, `[queries][padded dim]`.
    partial: Vec<f32>,
    /// Those of a span that is not the first.
    stats: Vec<[f32; STATS]>,
    /// Those of all spans so far.
    totals: Vec<[f32; STATS]>,
}

/// What a block of positions needs.
#[derive(Debug)]
struct BlockWork {
    /// The panel at hand.
    lines: Vec<Line>,
    /// The queries, scaled, `[queries][dim]`.
    queries: Vec<f32>,
    /// Scores, then weights, `[queries][BLOCK]`.
    scores: Vec<f32>,
    /// Positions of the block that each query sees.
    seen: Vec<Range<usize>>,
    /// The same of four.
    quads: Vec<Quad>,
}

/// What [`TOGETHER`] queries see of a block: all of them these positions, and some of them more.
#[derive(Clone, Debug, Default)]
struct Quad {
    common: Range<usize>,
    ragged: bool,
}

/// Rows of a step and a key/value head: their queries are one tile.
struct Tile<'a> {
    k: &'a Kernels,
    attend: &'a Attend<'a>,
    head: usize,
    /// Position of the first row.
    position: usize,
    rows: usize,
}

impl Tile<'_> {
    fn count(&self) -> usize {
        self.rows * self.attend.shape.group()
    }

    /// Positions that a row of the tile sees.
    fn sees(&self, row: usize) -> Range<usize> {
        let end = self.position + row + 1;
        end.saturating_sub(self.attend.window)..end
    }

    /// Positions that some row sees.
    fn all(&self) -> Range<usize> {
        self.sees(0).start..self.sees(self.rows - 1).end
    }

    /// Copies the queries of the tile, which begins at row `first` of the step, scaled.
    fn load(&self, first: usize, to: &mut [f32]) {
        let Shape { heads, head_dim, .. } = self.attend.shape;
        let (group, stride) = (self.attend.shape.group(), self.attend.shape.query_stride());
        for (i, to) in to.chunks_exact_mut(head_dim).take(self.count()).enumerate() {
            let (row, head) = (first + i / group, self.head * group + i % group);
            let from = &self.attend.queries[(row * heads + head) * stride..][..head_dim];
            to.iter_mut().zip(from).for_each(|(to, q)| *to = q * self.attend.scale);
        }
    }

    /// What each query sees of the block from `start` on; false if none sees anything.
    fn look(&self, start: usize, keys: &Range<usize>, seen: &mut [Range<usize>], quads: &mut [Quad]) -> bool {
        let group = self.attend.shape.group();
        let within = |at: usize| at.clamp(start, start + BLOCK) - start;
        for (row, seen) in seen.chunks_exact_mut(group).take(self.rows).enumerate() {
            let sees = self.sees(row);
            let (from, to) = (within(sees.start.max(keys.start)), within(sees.end.min(keys.end)));
            seen.fill(if from < to { from..to } else { 0..0 });
        }
        for (seen, quad) in seen[..self.count()].chunks(TOGETHER).zip(quads) {
            let common = seen.iter().fold(0..BLOCK, |c, s| c.start.max(s.start)..c.end.min(s.end));
            quad.common = if common.is_empty() { 0..0 } else { common };
            quad.ragged = seen.iter().any(|s| *s != quad.common);
        }
        seen[..self.count()].iter().any(|s| !s.is_empty())
    }

    /// The softmax of the positions `keys`, a span, for all queries of the tile, not yet divided by its sum: outputs `[queries][padded dim]` and [`STATS`].
    fn span(&self, keys: &Range<usize>, work: &mut BlockWork, out: &mut [f32], stats: &mut [[f32; STATS]]) {
        let (n, dim, width) = (self.count(), self.attend.shape.head_dim, self.attend.shape.padded_dim());
        let (out, stats) = (&mut out[..n * width], &mut stats[..n]);
        out.fill(0.0);
        stats.fill([f32::NEG_INFINITY, 0.0]);
        let all = self.all();
        let keys = keys.start.max(all.start)..keys.end.min(all.end);
        for start in (keys.start / BLOCK * BLOCK..keys.end).step_by(BLOCK) {
            if !self.look(start, &keys, &mut work.seen, &mut work.quads) {
                continue;
            }
            let scores = &mut work.scores[..n * BLOCK];
            scores.fill(0.0);
            for panel in (0..BLOCK).step_by(COLUMNS).filter(|p| start + p < keys.end && start + p + COLUMNS > keys.start) {
                let lines = &mut work.lines[..dim];
                self.attend.cache.keys(self.k, self.head, start + panel, lines);
                add_products(self.k, n, (&work.queries, dim), lines, (&mut scores[panel..], BLOCK));
            }
            let rows = scores.as_chunks_mut::<BLOCK>().0.iter_mut().zip(&work.seen).zip(&mut *stats);
            for (((scores, seen), [largest, sum]), out) in rows.zip(out.chunks_exact_mut(width)) {
                let scores = &mut scores[seen.clone()];
                let most = vector::max(scores);
                if most > *largest {
                    let shrink = (*largest - most).exp(); // 0 in the first block
                    *sum *= shrink;
                    vector::scale(shrink, out);
                    *largest = most;
                }
                *sum += vector::exp_in_place(scores, *largest);
            }
            for first in (0..dim).step_by(COLUMNS) {
                let lines = &mut work.lines[..BLOCK];
                self.attend.cache.values(self.k, self.head, (start, first), lines);
                for (quad, at) in work.quads.iter().zip((0..n).step_by(TOGETHER)) {
                    let rows = at..n.min(at + TOGETHER);
                    let mut add = |row: usize, rows: usize, of: Range<usize>| {
                        let weights = (&scores[row * BLOCK + of.start..], BLOCK);
                        add_products(self.k, rows, weights, &lines[of], (&mut out[row * width + first..], width));
                    };
                    // Positions in order for each query: those that it alone sees before the common ones, these, and those after.
                    if quad.ragged {
                        rows.clone()
                            .for_each(|r| add(r, 1, work.seen[r].start..quad.common.start.clamp(work.seen[r].start, work.seen[r].end)));
                    }
                    if !quad.common.is_empty() {
                        add(rows.start, rows.len(), quad.common.clone());
                    }
                    if quad.ragged {
                        rows.for_each(|r| add(r, 1, quad.common.end.clamp(work.seen[r].start, work.seen[r].end)..work.seen[r].end));
                    }
                }
            }
        }
    }
}

impl Tile<'_> {
    /// All spans, merged and divided: outputs `[queries][padded dim]`.
    fn whole(&self, work: &mut Worker, out: &mut [f32]) {
        let Worker { block, partial, stats, totals } = work;
        let (group, width) = (self.attend.shape.group(), self.attend.shape.padded_dim());
        let all = self.all();
        for (i, span) in spans(&all).enumerate() {
            if i == 0 {
                self.span(&span, block, out, totals);
                continue;
            }
            self.span(&span, block, partial, stats);
            let queries = out.chunks_exact_mut(width).zip(partial.chunks_exact(width)).zip(totals.iter_mut().zip(&*stats));
            for (query, ((out, later), (total, stats))) in queries.take(self.count()).enumerate() {
                let sees = self.sees(query / group);
                if sees.start < span.start {
                    if span.start < sees.end {
                        merge(out, total, later, *stats);
                    }
                } else {
                    out.copy_from_slice(later);
                    *total = *stats;
                }
            }
        }
        for (out, total) in out.chunks_exact_mut(width).zip(&*totals).take(self.count()) {
            vector::scale(1.0 / total[1], out);
        }
    }
}

/// Adds what a later span gave to what earlier ones gave.
fn merge(out: &mut [f32], stats: &mut [f32; STATS], later: &[f32], [later_largest, later_sum]: [f32; STATS]) {
    let largest = stats[0].max(later_largest);
    let (a, b) = ((stats[0] - largest).exp(), (later_largest - largest).exp());
    out.iter_mut().zip(later).for_each(|(o, l)| *o = *o * a + l * b);
    *stats = [largest, stats[1] * a + later_sum * b];
}

/// The spans that these positions touch.
fn spans(positions: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    (positions.start / SPAN..positions.end.div_ceil(SPAN)).map(|i| i * SPAN..(i + 1) * SPAN)
}

impl Attend<'_> {
    /// Outputs of the heads, `[rows, heads * head_dim]`, into `out`. `tiles` is memory: see [`Shape::parts`].
    pub fn run(&self, step: &Step, work: &mut Workspace, tiles: &mut [f32], out: &mut [f32]) {
        if step.rows == 1 {
            self.one(step, work, out);
        } else {
            self.many(step, work, tiles, out);
        }
    }

    /// One row: heads and spans are shared among the threads.
    fn one(&self, step: &Step, work: &mut Workspace, out: &mut [f32]) {
        let Shape { heads, kv_heads, head_dim, .. } = self.shape;
        let (group, width) = (self.shape.group(), self.shape.padded_dim());
        let tile = |head: usize| Tile { k: step.kernels, attend: self, head, position: step.position, rows: 1 };
        let sees = tile(0).sees(0);
        let first = sees.start / SPAN;
        let count = spans(&sees).count();
        let item = group * (width + STATS);
        let partials = &mut work.spans[..kv_heads * count * item];
        step.pool.split_with(partials, item, &mut work.workers, &|i, partial, own| {
            let (tile, span) = (tile(i / count), (first + i % count) * SPAN);
            tile.load(0, &mut own.block.queries);
            let (out, stats) = partial.split_at_mut(group * width);
            tile.span(&(span..span + SPAN), &mut own.block, out, stats.as_chunks_mut::<STATS>().0);
        });
        let (partials, merging) = (&*partials, partials.len());
        let finish = |head: usize, out: &mut [f32]| {
            let (kv, in_group) = (head / group, head % group);
            let part = |span: usize| {
                let (values, stats) = partials[(kv * count + span) * item..][..item].split_at(group * width);
                (&values[in_group * width..][..head_dim], stats.as_chunks::<STATS>().0[in_group])
            };
            let (values, mut stats) = part(0);
            out.copy_from_slice(values);
            (1..count).map(part).for_each(|(values, later)| merge(out, &mut stats, values, later));
            vector::scale(1.0 / stats[1], out);
            self.gate(head, out);
        };
        if merging > SERIAL_VALUES {
            step.pool.split(&mut out[..heads * head_dim], head_dim, &|head, out, _| finish(head, out));
        } else {
            out[..heads * head_dim].chunks_exact_mut(head_dim).enumerate().for_each(|(head, out)| finish(head, out));
        }
    }

    /// Many rows: heads and tiles of rows are shared among the threads.
    fn many(&self, step: &Step, work: &mut Workspace, tiles: &mut [f32], out: &mut [f32]) {
        let Shape { heads, head_dim, .. } = self.shape;
        let (group, width) = (self.shape.group(), self.shape.padded_dim());
        let at_once = tile_rows(&self.shape, step.rows);
        let (per_head, item) = (step.rows.div_ceil(at_once), at_once * group * width);
        step.pool.split_with(tiles, item, &mut work.workers, &|i, out, own| {
            let row = i % per_head * at_once;
            let rows = at_once.min(step.rows - row);
            let tile = Tile { k: step.kernels, attend: self, head: i / per_head, position: step.position + row, rows };
            tile.load(row, &mut own.block.queries);
            tile.whole(own, out);
        });
        let tiles = &*tiles;
        step.each_row(out, head_dim, &|i, out| {
            let (row, head) = (i / heads, i % heads);
            let tile = (head / group * per_head + row / at_once) * item;
            out.copy_from_slice(&tiles[tile + (row % at_once * group + head % group) * width..][..head_dim]);
            self.gate(i, out);
        });
    }

    /// Multiplies a head's output by its gate if there is one; heads are numbered through all rows.
    fn gate(&self, head: usize, out: &mut [f32]) {
        let Shape { head_dim, output_gate, .. } = self.shape;
        if output_gate {
            vector::sigmoid_mul(out, &self.queries[head * self.shape.query_stride() + head_dim..][..head_dim]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{ActivationMode, Pool};
    use crate::kv::KvType;
    use forebay_format::model::{Attention, QkNorm};
    use std::sync::atomic::AtomicBool;

    fn value(i: usize) -> f32 {
        (i * 7919 % 1009) as f32 / 504.5 - 1.0
    }

    /// A sequence with everything that attention reads.
    struct Sequence {
        shape: Shape,
        window: usize,
        keys: Vec<f32>,
        values: Vec<f32>,
        queries: Vec<f32>,
    }

    impl Sequence {
        fn new(heads: usize, kv_heads: usize, head_dim: usize, output_gate: bool, window: usize, tokens: usize) -> Self {
            let shape = Shape { heads, kv_heads, head_dim, output_gate };
            let kv = |seed: usize| (0..tokens * kv_heads * head_dim).map(|i| value(i + seed)).collect();
            let queries = (0..tokens * heads * shape.query_stride()).map(|i| 2.0 * value(3 * i + 1)).collect();
            Sequence { shape, window, keys: kv(0), values: kv(333), queries }
        }

        fn tokens(&self) -> usize {
            self.keys.len() / (self.shape.kv_heads * self.shape.head_dim)
        }

        /// Outputs of all rows, fed in steps of so many.
        fn run(&self, kv: KvType, threads: usize, steps: &[usize]) -> Vec<f32> {
            let (pool, k) = (Pool::new(threads), Kernels::detect(ActivationMode::Int8));
            let Shape { heads, kv_heads, head_dim, output_gate } = self.shape;
            let spec = Attention {
                heads: heads as u32,
                kv_heads: kv_heads as u32,
                head_dim: head_dim as u32,
                scale: 1.0,
                sliding_window: None,
                rope: None,
                qkv_bias: false,
                out_bias: false,
                qk_norm: QkNorm::None,
                output_gate,
            };
            let tokens = self.tokens();
            let mut cache = KvCache::new(&spec, tokens, kv);
            let most = steps.iter().copied().max().unwrap_or(1);
            let sizes = WorkspaceSizes::new(std::iter::once(self.shape), most, tokens, threads);
            let mut work = Workspace::new(&sizes);
            let mut out = Vec::new();
            let mut steps = steps.iter().copied().cycle();
            while out.len() < tokens * heads * head_dim {
                let position = out.len() / (heads * head_dim);
                let rows = steps.next().unwrap_or(1).min(tokens - position);
                let step = Step { pool: &pool, kernels: &k, rows, position, cut: 0.0, cancel: &AtomicBool::new(false) };
                let part = |all: &'_ [f32], width: usize| all[position * width..(position + rows) * width].to_vec();
                let width = kv_heads * head_dim;
                cache.store(&step, &part(&self.keys, width), &part(&self.values, width));
                let queries = part(&self.queries, heads * self.shape.query_stride());
                let attend = Attend { shape: self.shape, scale: 0.25, window: self.window, cache: &cache, queries: &queries };
                let [.., tiles, _] = self.shape.parts(rows);
                let (mut tiles, mut row) = (vec![f32::NAN; tiles], vec![f32::NAN; rows * heads * head_dim]);
                attend.run(&step, &mut work, &mut tiles, &mut row);
                out.extend(row);
            }
            out
        }

        /// The definition, in f64.
        fn truth(&self, row: usize, head: usize) -> Vec<f64> {
            let Shape { heads, kv_heads, head_dim, output_gate } = self.shape;
            let kv = head / self.shape.group();
            let query = &self.queries[(row * heads + head) * self.shape.query_stride()..];
            let sees = (row + 1).saturating_sub(self.window)..row + 1;
            let at = |values: &[f32], position: usize, d: usize| f64::from(values[(position * kv_heads + kv) * head_dim + d]);
            let score = |p: usize| 0.25 * (0..head_dim).map(|d| f64::from(query[d]) * at(&self.keys, p, d)).sum::<f64>();
            let weights: Vec<f64> = sees.clone().map(|p| score(p).exp()).collect();
            let total: f64 = weights.iter().sum();
            let gate = |d: usize| if output_gate { 1.0 / (1.0 + (-f64::from(query[head_dim + d])).exp()) } else { 1.0 };
            (0..head_dim)
                .map(|d| sees.clone().zip(&weights).map(|(p, w)| w * at(&self.values, p, d)).sum::<f64>() / total * gate(d))
                .collect()
        }
    }

    /// Steps, threads and neighbours change no bit, over several spans, for grouped heads and for single ones, with and without a window; and the result is the definition's.
    #[test]
    fn steps_and_threads_do_not_matter() {
        for (heads, kv_heads, dim, gate, window) in [
            (4, 2, 16, true, usize::MAX),
            (3, 3, 20, false, usize::MAX),
            (6, 1, 32, false, 300),
            (2, 2, 16, false, 70),
            (80, 2, 16, true, 9),
        ] {
            let tokens = if heads > 10 { 90 } else { 3 * SPAN - 37 };
            let sequence = Sequence::new(heads, kv_heads, dim, gate, window, tokens);
            for (kv, error) in [(KvType::F32, 1e-5), (KvType::F16, 5e-3), (KvType::Q8_0, 5e-2)] {
                let one = sequence.run(kv, 1, &[1]);
                for (threads, steps) in [(2, &[1][..]), (1, &[7]), (3, &[64]), (2, &[512]), (2, &[5, 1, 130, 1, 1, 64])] {
                    assert!(sequence.run(kv, threads, steps) == one, "{heads} heads, {kv:?}, {threads} threads, steps of {steps:?}");
                }
                for row in (0..tokens).step_by(41).chain([tokens - 1]) {
                    for head in 0..heads {
                        let have = &one[(row * heads + head) * dim..][..dim];
                        let near = have.iter().zip(sequence.truth(row, head)).all(|(h, t)| (f64::from(*h) - t).abs() < error);
                        assert!(near, "{heads} heads, {kv:?}, row {row}, head {head}: {have:?}, {:?}", sequence.truth(row, head));
                    }
                }
            }
        }
    }

    #[test]
    fn a_workspace_takes_what_was_announced() {
        let shape = Shape { heads: 6, kv_heads: 2, head_dim: 20, output_gate: false };
        let sizes = WorkspaceSizes::new([shape].into_iter(), 64, 1000, 2);
        let work = Workspace::new(&sizes);
        let worker = |w: &Worker| {
            let floats = w.block.queries.len() + w.block.scores.len() + w.partial.len() + STATS * (w.stats.len() + w.totals.len());
            let seen = size_of_val(&w.block.seen[..]) + size_of_val(&w.block.quads[..]);
            size_of_val(w) + size_of_val(&w.block.lines[..]) + 4 * floats + seen
        };
        assert_eq!((work.workers.iter().map(worker).sum::<usize>() + 4 * work.spans.len()) as u64, sizes.bytes());
    }
}
