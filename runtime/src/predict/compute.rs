//! What computing takes on this machine: the products of the model, in their own types and sizes, timed for a few milliseconds each with weights that come from memory; and
//! what else a token costs: the recurrence, attention, and the sums of what is read.

use super::neurons::Firing;
use super::work::{Experts, Product, Work};
use crate::budget::MemoryPlan;
use crate::kernels::{ActivationMode, Activations, Kernels, Matrix, Pool, delta, xxh3};
use crate::kv::{KvCache, KvType};
use crate::mixer::attend::{Attend, Workspace, WorkspaceSizes};
use crate::model;
use crate::scratch::Step;
use crate::store::Resident;
use crate::window::arena::Arena;
use forebay_format::Tiling;
use forebay_format::tiling::TILE_ROWS;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// Bytes that weights are taken from, one product after the other: several times what caches hold.
const MEMORY: usize = 128 << 20;
/// Bytes of a product's weights that are timed; a longer one takes as much longer. The second is for many activation rows.
const LONGEST: [usize; 2] = [32 << 20, 4 << 20];
/// Time for each product.
const TIME: Duration = Duration::from_millis(25);
/// Rows of a step at which the trunk's products are timed, beside one.
const TRUNK_ROWS: [usize; 3] = [8, 32, 128];
/// Rows of an expert at which its products are timed.
const EXPERT_ROWS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Tokens of a step that the recurrence is timed with.
const RECURRENT_ROWS: usize = 32;
/// Positions that attention is timed with.
const POSITIONS: usize = 1024;
/// Share of the memory's bandwidth that kernels get through.
const KERNELS_OF_MEMORY: f64 = 0.8;
/// Bytes of a chunk of sums.
const SUM_BYTES: usize = 256 << 10;

/// Seconds against rows, between the measured numbers of rows on straight lines, behind them in proportion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ByRows(Vec<(f64, f64)>);

impl ByRows {
    /// Seconds for `rows`, which need not be whole.
    pub fn at(&self, rows: f64) -> f64 {
        let Some(&last) = self.0.last() else { return 0.0 };
        let mut before = self.0.first().map_or((0.0, 0.0), |first| (0.0, first.1));
        for &next in &self.0 {
            if rows <= next.0 {
                return before.1 + (next.1 - before.1) * ((rows - before.0) / (next.0 - before.0).max(1e-9)).clamp(0.0, 1.0);
            }
            before = next;
        }
        last.1 * rows / last.0
    }

    /// Rows and seconds, as measured.
    pub fn points(&self) -> &[(f64, f64)] {
        &self.0
    }

    fn scale(&mut self, by: f64) {
        self.0.iter_mut().for_each(|point| point.1 *= by);
    }
}

/// A product of the trunk with one row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timed {
    /// Which.
    pub product: Product,
    /// How many of them a token takes.
    pub times: u32,
    /// Seconds of one.
    pub seconds: f64,
}

/// What computing takes, in seconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compute {
    /// The trunk's products with one row, each by itself.
    pub products: Vec<Timed>,
    /// The trunk's products of one step, by its rows.
    pub trunk: ByRows,
    /// The head, for one row.
    pub head: f64,
    /// All experts that one token uses in all layers, with so many rows each.
    pub experts: ByRows,
    /// Neuron groups of all layers, by the rows of a step: those that fire, with the triggers in memory, and all of them. Transposed rows of down count as rows.
    pub groups: [ByRows; 2],
    /// Asking the routers for guesses, one token.
    pub guesses: f64,
    /// The recurrences of a token, alone, and in a prompt.
    pub recurrence: [f64; 2],
    /// Attention, for each position that a token sees.
    pub position: f64,
    /// Checking a byte that was read.
    pub sum: f64,
    /// Reading a byte of memory, on all threads.
    pub memory: f64,
}

impl Compute {
    /// Times everything on `threads` threads.
    pub fn measure(work: &Work, firing: Option<&Firing>, threads: usize, mode: ActivationMode) -> std::io::Result<Compute> {
        let mut clock = Clock::new(threads, mode)?;
        let products = |rows: usize| work.trunk.iter().map(move |&(product, times)| (product, times, rows));
        let timed = products(1).map(|(product, times, rows)| Timed { product, times, seconds: clock.product(product, rows) });
        let timed: Vec<Timed> = timed.collect();
        let mut trunk = vec![(1.0, timed.iter().map(|t| t.seconds * f64::from(t.times)).sum())];
        for rows in TRUNK_ROWS {
            trunk.push((rows as f64, products(rows).map(|(p, times, rows)| clock.product(p, rows) * f64::from(times)).sum()));
        }
        let head = work.head.iter().map(|&p| clock.product(p, 1)).sum();
        let (experts, guesses) = work.main_experts().map_or((ByRows::default(), 0.0), |main| {
            // Layers of another shape take as much longer as their experts have more bytes.
            let layers = work.routed_bytes as f64 / (u64::from(main.top_k) * main.bytes).max(1) as f64;
            let points = EXPERT_ROWS.map(|rows| (rows as f64, clock.experts(main, rows) * layers));
            (ByRows(points.to_vec()), clock.product(main.guess, 1) * work.experts.len() as f64)
        });
        let mut groups = |rows: usize, resident: bool| {
            let share = firing.filter(|_| resident).map_or(1.0, |f| f.together(rows as u32));
            let products = work.grouped.iter().flat_map(|g| g.products(share, resident));
            (rows as f64, products.map(|(p, times)| clock.product(p, rows) * f64::from(times)).sum())
        };
        let mut of_groups = |resident: bool| {
            let rows = std::iter::once(1).chain(TRUNK_ROWS).filter(|_| !work.grouped.is_empty());
            ByRows(rows.map(|rows| groups(rows, resident)).collect())
        };
        let groups = [of_groups(true), of_groups(false)];
        Ok(Compute {
            products: timed,
            trunk: ByRows(trunk),
            head,
            experts,
            groups,
            guesses,
            recurrence: [1, RECURRENT_ROWS].map(|rows| clock.recurrence(work, rows)),
            position: clock.position(work),
            sum: clock.sum(),
            memory: clock.memory(),
        })
    }

    /// Of a machine that is not here: bytes of weights and multiply-adds a second.
    #[cfg(test)]
    pub(super) fn assumed(work: &Work, weights: f64, macs: f64) -> Compute {
        let head: u64 = work.head.iter().map(Product::bytes).sum();
        let trunk: (u64, u64) = work.trunk.iter().fold((0, 0), |sum, (p, times)| {
            let times = u64::from(*times);
            (sum.0 + p.bytes() * times, sum.1 + p.macs() * times)
        });
        let expert = |e: &Experts| u64::from(e.top_k) * (e.into.macs() + e.back.macs());
        let experts: u64 = work.experts.iter().map(expert).sum();
        let line = |bytes: u64, operations: u64| {
            let (once, each) = (bytes as f64 / weights, operations as f64 / macs);
            // From so many rows on arithmetic takes longer than fetching the weights.
            let knee = (once / each.max(1e-12)).max(1.0);
            ByRows(vec![(1.0, once.max(each)), (knee + 1.0, (knee + 1.0) * each.max(1e-12))])
        };
        let memory = KERNELS_OF_MEMORY / weights;
        Compute {
            trunk: line(trunk.0, trunk.1),
            head: head as f64 / weights,
            experts: line(work.routed_bytes, experts),
            sum: memory,
            memory,
            ..Compute::default()
        }
    }

    /// A machine whose kernels get through so many bytes of weights a second. All that was measured gets faster in proportion: prompts do with the number of cores, weights
    /// until the memory is saturated. Memory and sums follow from the weights, see [`KERNELS_OF_MEMORY`].
    pub fn assuming(&self, work: &Work, weights: f64) -> Compute {
        let memory = KERNELS_OF_MEMORY / weights;
        Compute { sum: memory, memory, ..self.faster(weights / self.weights(work)) }
    }

    /// Neuron groups under a plan.
    pub(super) fn groups_for(&self, plan: &MemoryPlan) -> &ByRows {
        &self.groups[if plan.resident == Resident::Triggers { 0 } else { 1 }]
    }

    /// The same machine with kernels and memory `by` times as fast.
    pub fn faster(&self, by: f64) -> Compute {
        let mut faster = self.clone();
        faster.trunk.scale(1.0 / by);
        faster.experts.scale(1.0 / by);
        faster.groups.iter_mut().for_each(|groups| groups.scale(1.0 / by));
        for seconds in [&mut faster.head, &mut faster.guesses, &mut faster.position, &mut faster.sum, &mut faster.memory] {
            *seconds /= by;
        }
        faster.recurrence = faster.recurrence.map(|seconds| seconds / by);
        faster
    }

    /// The same model in a type that takes `share` of the bytes: products of one row take as much less.
    pub fn lighter(&self, share: f64) -> Compute {
        let mut lighter = self.clone();
        lighter.trunk.scale(share);
        lighter.experts.scale(share);
        lighter.groups.iter_mut().for_each(|groups| groups.scale(share));
        lighter.head *= share;
        lighter
    }

    /// Bytes of weights a second of a token's products, one row.
    pub fn weights(&self, work: &Work) -> f64 {
        (work.trunk_bytes + work.routed_bytes) as f64 / (self.trunk.at(1.0) + self.head + self.experts.at(1.0)).max(1e-9)
    }

    /// Multiply-adds a second of the layers' products with many rows.
    pub fn macs(&self, work: &Work) -> f64 {
        let rows = 128.0;
        let head: u64 = work.head.iter().map(Product::macs).sum();
        (work.macs - head) as f64 * rows / (self.trunk.at(rows) + self.experts.at(rows)).max(1e-9)
    }
}

/// Times things.
struct Clock {
    kernels: Kernels,
    pool: Pool,
    memory: Arena,
    /// Where the next weights are taken from.
    next: usize,
}

impl Clock {
    fn new(threads: usize, mode: ActivationMode) -> std::io::Result<Clock> {
        let mut memory = Arena::new([MEMORY])?;
        if let Some(bytes) = memory.bytes_mut(0) {
            // Every float of a block near one: subnormal numbers would be timed instead of kernels. The rest does not matter for speed.
            for (i, byte) in (0u32..).zip(bytes) {
                *byte = i.wrapping_mul(2_654_435_761).to_be_bytes()[0] & 3 | 0x3c;
            }
        }
        Ok(Clock { kernels: Kernels::detect(mode), pool: Pool::new(threads), memory, next: 0 })
    }

    /// Seconds of one call of `work`: of all calls in [`TIME`] a quarter was no slower. (The median, and more so the mean, have what other programs and the host took.)
    fn time(mut work: impl FnMut()) -> f64 {
        let mut times = Vec::new();
        let begin = Instant::now();
        while times.len() < 3 || begin.elapsed() < TIME {
            let start = Instant::now();
            work();
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 4).copied().unwrap_or(0.0)
    }

    /// Where `bytes` that are in no cache begin.
    fn fresh(next: &mut usize, bytes: usize) -> usize {
        let at = if *next + bytes > MEMORY { 0 } else { *next };
        *next = at + bytes.next_multiple_of(64);
        at
    }

    /// Quantising `n` rows of activations and their product with `p`.
    fn product(&mut self, p: Product, n: usize) -> f64 {
        let (cols, all) = (p.cols as usize, p.rows as usize);
        let Some(row) = p.qtype.row_bytes(cols).filter(|row| (1..=MEMORY).contains(row)) else { return 0.0 };
        let longest = if n == 1 { LONGEST[0] } else { LONGEST[1] };
        let rows = (longest / row).next_multiple_of(TILE_ROWS).min(MEMORY / row).min(all).max(1);
        // Fewer than a tile fit only where a row takes megabytes.
        let (rows, tiling) = if rows < TILE_ROWS { (rows, Tiling::RowMajor) } else { (rows / TILE_ROWS * TILE_ROWS, p.tiling) };
        let x: Vec<f32> = (0..n * cols).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        let mut activations = Activations::new(n, cols, self.kernels.mode());
        let mut out = vec![0.0; n * rows];
        let Clock { kernels, pool, memory, next } = self;
        let Some(bytes) = memory.bytes(0) else { return 0.0 };
        let seconds = Clock::time(|| {
            let at = Clock::fresh(next, rows * row);
            activations.load(pool, kernels, &x, n, cols, &[p.qtype]);
            let w = Matrix::whole(p.qtype, rows, cols, &bytes[at..at + rows * row]).tiled(tiling);
            kernels.matmul(pool, &w, &activations, std::hint::black_box(&mut out));
        });
        seconds * all as f64 / rows as f64
    }

    /// One layer's experts of one token, each with `n` rows.
    fn experts(&mut self, e: &Experts, n: usize) -> f64 {
        let all = |p: Product| Product { rows: p.rows * u64::from(e.top_k), ..p };
        self.product(all(e.into), n) + self.product(all(e.back), n)
    }

    /// The recurrences of one token in steps of `rows`, states from memory as far as a step does not keep them.
    fn recurrence(&mut self, work: &Work, rows: usize) -> f64 {
        let mut seconds = 0.0;
        for r in &work.recurrences {
            let (heads, key, value) = (r.heads as usize, r.key_dim as usize, r.value_dim as usize);
            let one = heads * key * value;
            let layers = (MEMORY / 8 / one.max(1)).clamp(1, r.layers as usize);
            let mut states = vec![0.01f32; layers * one];
            let mut out = vec![0.0f32; heads * rows * value];
            let vector: Vec<f32> = (0..key.max(value)).map(|i| (i % 7) as f32 * 0.01).collect();
            let (Some(k), Some(v)) = (vector.get(..key), vector.get(..value)) else { continue };
            let tokens = vec![delta::Token { q: k, k, v, beta: 0.5, decay: 0.9 }; rows];
            let mut layer = 0;
            let kernels = &self.kernels;
            let step = Clock::time(|| {
                let state = &mut states[layer * one..(layer + 1) * one];
                layer = (layer + 1) % layers;
                self.pool.split2((state, key * value), (&mut out, rows * value), &|_, state, out, _| {
                    delta::steps(kernels, state, &tokens, out);
                });
            });
            seconds += step / rows as f64 * f64::from(r.layers);
        }
        seconds
    }

    /// Attention of one token, for each position.
    fn position(&mut self, work: &Work) -> f64 {
        let mut seconds = 0.0;
        for a in &work.attention {
            let shape = model::attention_shape(&a.of);
            let cache = KvCache::new(&a.of, POSITIONS, KvType::of(self.kernels.mode()));
            let queries = vec![0.1f32; shape.heads * shape.query_stride()];
            let mut out = vec![0.0f32; shape.heads * shape.head_dim];
            let mut memory = Workspace::new(&WorkspaceSizes::new(std::iter::once(shape), 1, POSITIONS, self.pool.threads()));
            let attend = Attend { shape, scale: 0.1, window: usize::MAX, cache: &cache, queries: &queries };
            let cancel = AtomicBool::new(false);
            let last = Step { pool: &self.pool, kernels: &self.kernels, rows: 1, position: POSITIONS - 1, cut: 0.0, cancel: &cancel };
            let step = Clock::time(|| attend.run(&last, &mut memory, &mut [], &mut out));
            seconds += step / POSITIONS as f64 * f64::from(a.layers);
        }
        seconds
    }

    /// Checking a byte, on all threads.
    fn sum(&mut self) -> f64 {
        self.pass(SUM_BYTES, |bytes| xxh3(7, bytes))
    }

    /// Reading a byte, on all threads.
    fn memory(&mut self) -> f64 {
        let add = |bytes: &[u8]| bytes.as_chunks::<8>().0.iter().fold(0u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
        self.pass(SUM_BYTES, add)
    }

    /// `of` all of the memory, in pieces, on all threads: seconds a byte.
    fn pass(&mut self, piece: usize, of: impl Fn(&[u8]) -> u64 + Sync) -> f64 {
        let Some(bytes) = self.memory.bytes(0) else { return 0.0 };
        let mut out = vec![0u64; bytes.len() / piece];
        let seconds = Clock::time(|| {
            self.pool.split(&mut out, 1, &|i, out, _| out[0] = of(&bytes[i * piece..(i + 1) * piece]));
            std::hint::black_box(&out);
        });
        seconds / bytes.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_lie_on_lines_between_what_was_measured() {
        let by = ByRows(vec![(1.0, 2.0), (4.0, 3.5), (8.0, 8.0)]);
        assert_eq!([0.0, 0.5, 1.0, 2.0, 4.0, 6.0, 8.0, 16.0].map(|r| by.at(r)), [2.0, 2.0, 2.0, 2.5, 3.5, 5.75, 8.0, 16.0]);
        assert_eq!(ByRows::default().at(3.0), 0.0);
    }

    #[test]
    fn everything_takes_time_and_twice_the_speed_half_of_it() {
        let pack = crate::testing::TinyPack::new().open();
        let work = Work::new(&pack.manifest, &pack.index);
        let compute = Compute::measure(&work, None, 1, ActivationMode::Int8).unwrap();
        assert!(compute.trunk.at(1.0) > 0.0 && compute.experts.at(1.0) > 0.0 && compute.head > 0.0 && compute.sum > 0.0, "{compute:?}");
        assert!(compute.weights(&work) > 0.0 && compute.macs(&work) > 0.0);
        let twice = compute.faster(2.0);
        assert!((twice.weights(&work) / compute.weights(&work) - 2.0).abs() < 1e-6);
    }
}
