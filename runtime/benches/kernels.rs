//! How fast weights are consumed: `cargo bench -p forebay --bench kernels [-- TYPE...]`.
//!
//! First a row for what the memory gives: all threads add up the same bytes as numbers, nothing else. Then one row a type, activation mode and
//! kernel set. GB/s count weight bytes; the best of several runs counts. "cache": a matrix of about 700 KB, one thread. "memory": 192 MB,
//! all threads. "of read": that as a part of the plain read. Then 2, 8 and 64 activation rows, all threads, in billions of multiply-adds a second.
//!
//! Types with kernels for interleaved rows have a second row for those.
//!
//! `-- --count TYPE SET [interleaved]` makes one product instead ([`COUNTED_ROWS`] rows, one activation row, one thread), for a tool that counts
//! instructions: see `docs/kernels.md`.

use forebay::kernels::{ActivationMode, Activations, KernelSet, Kernels, Matrix, Pool};
use forebay_format::quant::QUANTS;
use forebay_format::tiling::TILE_ROWS;
use forebay_format::{QuantType, Tiling};
use std::hint::black_box;
use std::time::Instant;

const COLS: usize = 2048;
/// Numbers of activation rows: an expert meets a few of a short prompt's.
const MANY: [usize; 3] = [2, 8, 64];
/// Weight rows of a counted product.
const COUNTED_ROWS: usize = 256;
/// Bytes of a matrix that stays in cache, and of one that does not.
const SIZES: [usize; 2] = [700 << 10, 192 << 20];
const SETS: [KernelSet; 4] = [KernelSet::Scalar, KernelSet::Avx2, KernelSet::Avx512, KernelSet::Neon];

/// Random bytes, but every float near one: subnormal numbers would be measured instead of kernels. Halves lie on even bytes, so the odd ones
/// hold their exponents; two types have exponents in bytes of their own, anywhere. What is left random goes through the codebooks.
fn weights(t: QuantType, bytes: usize) -> (Vec<u8>, usize) {
    let row_bytes = t.row_bytes(COLS).unwrap_or(1);
    let rows = (bytes / row_bytes).max(1).next_multiple_of(TILE_ROWS);
    let everywhere = matches!(t, QuantType::MXFP4 | QuantType::NVFP4);
    let byte = |i: usize| {
        let random = (i as u32).wrapping_mul(2_654_435_761).rotate_left(11).wrapping_mul(2_246_822_519).to_be_bytes()[0];
        if everywhere || i % 2 == 1 { random & 3 | 0x3c } else { random }
    };
    ((0..rows * row_bytes).map(byte).collect(), rows)
}

/// Seconds of the fastest of several calls, after one to warm up; stops after 0.2 s.
fn best(mut call: impl FnMut()) -> f64 {
    call();
    let begin = Instant::now();
    let mut best = f64::INFINITY;
    while begin.elapsed().as_secs_f64() < 0.2 {
        let start = Instant::now();
        call();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

/// Activations for one type: `n` rows.
fn activations(k: &Kernels, pool: &Pool, t: QuantType, n: usize) -> Activations {
    let x: Vec<f32> = (0..n * COLS).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let mut a = Activations::new(n, COLS, k.mode());
    a.load(pool, k, &x, n, COLS, &[t]);
    a
}

/// Seconds of one product of all rows of `data` with `n` activation rows.
fn measure(k: &Kernels, pool: &Pool, w: &Matrix<'_>, n: usize) -> f64 {
    let a = activations(k, pool, w.qtype, n);
    let mut out = vec![0.0; n * w.rows];
    best(|| k.matmul(pool, w, &a, black_box(&mut out)))
}

/// GB/s of adding up `data` with all threads, in pieces as large as those that a product is shared in.
fn plain_read(pool: &Pool, data: &[u8]) -> f64 {
    let pieces: Vec<&[u8]> = data.chunks(128 << 10).collect();
    let sum = |piece: &[u8]| piece.as_chunks::<8>().0.iter().fold(0u64, |sum, b| sum.wrapping_add(u64::from_le_bytes(*b)));
    let seconds = best(|| {
        pool.run(pieces.len(), &|i, _| {
            black_box(sum(pieces[i]));
        })
    });
    data.len() as f64 / seconds / 1e9
}

/// What is counted: nothing but the product runs inside.
#[inline(never)]
fn counted_product(k: &Kernels, pool: &Pool, w: &Matrix<'_>, a: &Activations, out: &mut [f32]) {
    k.matmul(pool, w, a, out);
}

fn count(t: QuantType, set: KernelSet, tiling: Tiling) {
    let pool = Pool::new(1);
    let Some(k) = Kernels::with_set(set, ActivationMode::Int8) else {
        eprintln!("this machine does not run {set:?}");
        std::process::exit(1);
    };
    let (data, rows) = weights(t, t.row_bytes(COLS).unwrap_or(1) * COUNTED_ROWS);
    let a = activations(&k, &pool, t, 1);
    let mut out = vec![0.0; rows];
    counted_product(&k, &pool, &Matrix::whole(t, rows, COLS, &data).tiled(tiling), &a, black_box(&mut out));
    println!("{} {}: {rows} x {COLS}, first result {}", t.name(), k.name(), out[0]);
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [flag, t, set, order @ ..] = &arguments[..]
        && flag == "--count"
    {
        let tiling = match order {
            [] => Some(Tiling::RowMajor),
            [word] if word == "interleaved" => Some(Tiling::Dwords16),
            _ => None,
        };
        let set = SETS.into_iter().find(|s| format!("{s:?}").eq_ignore_ascii_case(set));
        let (Some(t), Some(set), Some(tiling)) = (QuantType::from_name(t), set, tiling) else {
            eprintln!("--count TYPE scalar|avx2|avx512|neon [interleaved]");
            std::process::exit(2);
        };
        return count(t, set, tiling);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pools = [Pool::new(1), Pool::new(threads)];
    let read = plain_read(&pools[1], &vec![1; SIZES[1]]);
    println!("{threads} threads, rows of {COLS} values; plain read of {} MB: {read:.1} GB/s\n", SIZES[1] >> 20);
    println!("| type | mode | set | cache GB/s | memory GB/s | of read | GMAC/s, 2 rows | 8 | 64 |\n|---|---|---|---|---|---|---|---|---|");
    for t in QUANTS.iter().map(|q| q.qtype).filter(|t| arguments.is_empty() || arguments.iter().any(|w| w == t.name())) {
        rows_of(t, &pools, read);
    }
}

/// The rows of one type.
fn rows_of(t: QuantType, [one, all]: &[Pool; 2], read: f64) {
    let [(small, small_rows), (large, large_rows)] = SIZES.map(|bytes| weights(t, bytes));
    for mode in [ActivationMode::Int8, ActivationMode::F32] {
        if t.is_float() && mode == ActivationMode::Int8 {
            continue; // the same as F32
        }
        for k in SETS.into_iter().filter_map(|s| Kernels::with_set(s, mode)) {
            let tilings = [(Tiling::RowMajor, ""), (Tiling::Dwords16, ", interleaved")];
            for (tiling, name) in tilings.into_iter().filter(|(tiling, _)| tiling.is_row_major() || k.interleaved(t)) {
                let [small, large] =
                    [(&small, small_rows), (&large, large_rows)].map(|(data, rows)| Matrix::whole(t, rows, COLS, data).tiled(tiling));
                let cache = small.bytes.len() as f64 / measure(&k, one, &small, 1) / 1e9;
                let memory = match k.set() {
                    KernelSet::Scalar => "- | -".to_string(), // far from the limit of the memory
                    _ => {
                        let speed = large.bytes.len() as f64 / measure(&k, all, &large, 1) / 1e9;
                        format!("{speed:.1} | {:.0}%", 100.0 * speed / read)
                    }
                };
                let many = MANY.map(|n| format!("{:.1}", (n * small_rows * COLS) as f64 / measure(&k, all, &small, n) / 1e9)).join(" | ");
                println!("| {}{name} | {mode:?} | {} | {cache:.1} | {memory} | {many} |", t.name(), k.name());
            }
        }
    }
}
