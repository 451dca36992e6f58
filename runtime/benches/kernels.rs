//! How fast weights are consumed: `cargo bench -p forebay --bench kernels [-- TYPE...]`.
//!
//! One row a type. GB/s count weight bytes; the best of several runs counts. "cache": a matrix of about 700 KB, one thread. "memory": 192 MB,
//! all threads. "many": 64 activation rows, all threads, in billions of multiply-adds a second.

use forebay::kernels::{ActivationMode, Activations, KernelSet, Kernels, Matrix, Pool};
use forebay_format::QuantType;
use forebay_format::quant::QUANTS;
use std::time::Instant;

const COLS: usize = 2048;

/// Blocks whose every float is near one: subnormal numbers would be measured instead of kernels. The payload does not matter for speed.
fn weights(t: QuantType, bytes: usize) -> (Vec<u8>, usize) {
    let row_bytes = t.row_bytes(COLS).unwrap_or(1);
    let rows = (bytes / row_bytes).max(1);
    let data = (0..rows * row_bytes).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] & 3 | 0x3c).collect();
    (data, rows)
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

/// Seconds of one product of all rows of `data` with `n` activation rows.
fn measure(k: &Kernels, pool: &Pool, t: QuantType, data: &[u8], rows: usize, n: usize) -> f64 {
    let x: Vec<f32> = (0..n * COLS).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let mut a = Activations::new(n, COLS, k.mode());
    a.load(pool, k, &x, n, COLS, &[t]);
    let mut out = vec![0.0; n * rows];
    let w = Matrix::whole(t, rows, COLS, data);
    best(|| k.matmul(pool, &w, &a, std::hint::black_box(&mut out)))
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (one, all) = (Pool::new(1), Pool::new(threads));
    println!("{threads} threads, rows of {COLS} values\n");
    println!("| type | mode | set | cache GB/s | memory GB/s | many GMAC/s |\n|---|---|---|---|---|---|");
    for t in QUANTS.iter().map(|q| q.qtype).filter(|t| wanted.is_empty() || wanted.iter().any(|w| w == t.name())) {
        let (small, small_rows) = weights(t, 700 << 10);
        let (large, large_rows) = weights(t, 192 << 20);
        for mode in [ActivationMode::Int8, ActivationMode::F32] {
            if t.is_float() && mode == ActivationMode::Int8 {
                continue; // the same as F32
            }
            for k in [KernelSet::Scalar, KernelSet::Avx2, KernelSet::Avx512, KernelSet::Neon]
                .into_iter()
                .filter_map(|s| Kernels::with_set(s, mode))
            {
                let cache = small.len() as f64 / measure(&k, &one, t, &small, small_rows, 1) / 1e9;
                let memory = match k.set() {
                    KernelSet::Scalar => "-".to_string(), // far from the limit of the memory
                    _ => format!("{:.1}", large.len() as f64 / measure(&k, &all, t, &large, large_rows, 1) / 1e9),
                };
                let many = (64 * small_rows * COLS) as f64 / measure(&k, &all, t, &small, small_rows, 64) / 1e9;
                println!("| {} | {mode:?} | {} | {cache:.1} | {memory} | {many:.1} |", t.name(), k.name());
            }
        }
    }
}
