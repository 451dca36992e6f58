use super::*;
use crate::kernels::KernelSet;
use forebay_format::QuantType;
use forebay_format::quant::QUANTS;

/// xorshift64*: the tests need many bytes, not good ones.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Where a block keeps its half-precision numbers.
fn halves(t: QuantType) -> &'static [usize] {
    match t {
        QuantType::F32 | QuantType::F16 | QuantType::BF16 | QuantType::MXFP4 | QuantType::NVFP4 | QuantType::IQ1_M => &[],
        QuantType::Q4_0 | QuantType::Q5_0 | QuantType::Q8_0 | QuantType::IQ4_NL | QuantType::IQ4_XS => &[0],
        QuantType::IQ1_S | QuantType::IQ2_XXS | QuantType::IQ2_XS | QuantType::IQ2_S | QuantType::IQ3_XXS | QuantType::IQ3_S => &[0],
        QuantType::Q4_1 | QuantType::Q5_1 | QuantType::Q4_K | QuantType::Q5_K => &[0, 2],
        QuantType::Q2_K => &[80, 82],
        QuantType::Q3_K => &[108],
        QuantType::Q6_K => &[208],
        QuantType::TQ1_0 => &[52],
        QuantType::TQ2_0 => &[64],
    }
}

/// What the payload of the blocks looks like.
#[derive(Clone, Copy, Debug)]
enum Fill {
    Random,
    Byte(u8),
}

/// Rows of `t`; scales come from `scale` (float types take their values from it).
fn weights(t: QuantType, values: usize, fill: Fill, random: &mut Random, mut scale: impl FnMut(&mut Random) -> f32) -> Vec<u8> {
    let mut bytes = vec![0; t.row_bytes(values).unwrap()];
    for block in bytes.chunks_exact_mut(t.block_bytes()) {
        for b in block.iter_mut() {
            *b = match fill {
                Fill::Random => random.next() as u8,
                Fill::Byte(b) => b,
            };
        }
        for &at in halves(t) {
            block[at..at + 2].copy_from_slice(&half::f16::from_f32(scale(random)).to_le_bytes());
        }
        match t {
            QuantType::F32 => block.copy_from_slice(&scale(random).to_le_bytes()),
            QuantType::F16 => block.copy_from_slice(&half::f16::from_f32(scale(random)).to_le_bytes()),
            QuantType::BF16 => block.copy_from_slice(&half::bf16::from_f32(scale(random)).to_le_bytes()),
            QuantType::MXFP4 => block[0] = (128.0 + scale(random).abs().log2().clamp(-20.0, 20.0)) as u8,
            QuantType::NVFP4 => {
                block[..4].fill_with(|| ((7.0 + scale(random).abs().log2().clamp(-7.0, 7.0)) as u8) << 3 | (random.next() as u8 & 7))
            }
            // A quarter of the half in the upper ends of four words.
            QuantType::IQ1_M => {
                let bits = half::f16::from_f32(scale(random)).to_bits();
                (0..4).for_each(|w| block[49 + 2 * w] = (block[49 + 2 * w] & 15) | (((bits >> (4 * w)) as u8 & 15) << 4));
            }
            _ => {}
        }
    }
    bytes
}

fn sets(mode: ActivationMode) -> Vec<Kernels> {
    [KernelSet::Scalar, KernelSet::Avx2, KernelSet::Avx512, KernelSet::Neon]
        .into_iter()
        .filter_map(|s| Kernels::with_set(s, mode))
        .collect()
}

fn load(k: &Kernels, pool: &Pool, x: &[f32], n: usize, t: QuantType) -> Activations {
    let cols = x.len() / n;
    let mut a = Activations::new(n, cols, k.mode());
    a.load(pool, k, x, n, cols, &[t]);
    a
}

fn product(k: &Kernels, pool: &Pool, w: &Matrix<'_>, a: &Activations) -> Vec<f32> {
    let mut out = vec![f32::NAN; a.rows() * w.rows];
    k.matmul(pool, w, a, &mut out);
    out
}

/// Columns to test a type with: one to eight blocks, lengths that are no multiple of a strip, and for float types a ragged end.
fn lengths(t: QuantType) -> Vec<usize> {
    if t.is_float() { vec![1, 7, 31, 32, 33, 64, 255, 256, 257, 1000] } else { (1..=8).chain([9, 17]).map(|b| b * t.block_len()).collect() }
}

/// The values that the 8-bit form stands for.
fn meant(a: &Activations, form: Option<Form>, i: usize) -> Vec<f64> {
    let Some(form) = form else { return a.row(i).iter().map(|&v| f64::from(v)).collect() };
    let row = a.quantised_row(form, i);
    row.q.iter().enumerate().map(|(j, &q)| f64::from(row.d[j / form.block()]) * f64::from(q)).collect()
}

/// Result and tolerance of one dot product: decoder, f64, and the sum of magnitudes as the measure. A minimum that is taken off a scale's
/// share rounds by its own magnitude, which `spread` (largest decoded magnitude times the activations) covers.
fn truth(w: &Matrix<'_>, r: usize, x: &[f64]) -> (f64, f64) {
    let mut decoded = vec![0.0; w.cols];
    w.qtype.decode(w.row(r, w.checked_row_bytes()), &mut decoded).unwrap();
    let sum = decoded.iter().zip(x).map(|(&w, x)| f64::from(w) * x).sum();
    let spread = decoded.iter().fold(0.0, |m, v| f64::from(v.abs()).max(m)) * x.iter().map(|v| v.abs()).sum::<f64>();
    (sum, 4e-6 * spread + 1e-30)
}

#[test]
fn every_type_set_and_mode_against_the_decoder() {
    let pool = Pool::new(2);
    let mut random = Random(1);
    for mode in [ActivationMode::F32, ActivationMode::Int8] {
        for k in sets(mode) {
            for t in QUANTS.iter().map(|q| q.qtype) {
                for cols in lengths(t) {
                    let (rows, n) = (11, 6);
                    let bytes = weights(t, rows * cols, Fill::Random, &mut random, Random::float);
                    let w = Matrix::whole(t, rows, cols, &bytes);
                    let x: Vec<f32> = (0..n * cols).map(|_| random.float() * 3.0).collect();
                    let a = load(&k, &pool, &x, n, t);
                    let out = product(&k, &pool, &w, &a);
                    for i in 0..n {
                        let exact = meant(&a, k.form(&w), i);
                        for r in 0..rows {
                            let (expected, tolerance) = truth(&w, r, &exact);
                            let got = f64::from(out[i * rows + r]);
                            assert!((got - expected).abs() <= tolerance, "{} {mode:?} {} {cols}: {got} {expected}", k.name(), t.name());
                        }
                    }
                }
            }
        }
    }
}

/// With scales of one and whole activations every partial sum is a whole number below 2^24, so any order and any set give the same bits.
#[test]
fn integers_are_exact() {
    let pool = Pool::new(1);
    let mut random = Random(2);
    for t in QUANTS.iter().map(|q| q.qtype).filter(|t| !t.is_float()) {
        for fill in [Fill::Random, Fill::Byte(0), Fill::Byte(0xff), Fill::Byte(0x80), Fill::Byte(0x7f)] {
            let (rows, cols, n) = (9, 256, 5);
            let bytes = weights(t, rows * cols, fill, &mut random, |_| 1.0);
            let w = Matrix::whole(t, rows, cols, &bytes);
            let mut x: Vec<f32> = (0..n * cols).map(|_| (random.next() % 7) as f32 - 3.0).collect();
            x.iter_mut().step_by(32).for_each(|v| *v = 127.0f32.copysign(*v));
            let results: Vec<Vec<f32>> =
                sets(ActivationMode::Int8).iter().map(|k| product(k, &pool, &w, &load(k, &pool, &x, n, t))).collect();
            for i in 0..n {
                for r in 0..rows {
                    let row: Vec<f64> = x[i * cols..(i + 1) * cols].iter().map(|&v| f64::from(v)).collect();
                    let (expected, _) = truth(&w, r, &row);
                    assert!(expected.abs() < f64::from(1 << 24));
                    for out in &results {
                        assert_eq!(f64::from(out[i * rows + r]), expected, "{} {fill:?}", t.name());
                    }
                }
            }
        }
    }
}

/// The largest integers of each type: nothing saturates or wraps.
#[test]
fn extremes_do_not_saturate() {
    let pool = Pool::new(1);
    let mut random = Random(3);
    for k in sets(ActivationMode::Int8) {
        for t in QUANTS.iter().map(|q| q.qtype).filter(|t| !t.is_float()) {
            for fill in [0x00, 0x0f, 0x77, 0x7f, 0x80, 0x88, 0xf0, 0xff].map(Fill::Byte).into_iter().chain([Fill::Random]) {
                for sign in [1.0, -1.0] {
                    let bytes = weights(t, 512, fill, &mut random, |_| 1.0);
                    let w = Matrix::whole(t, 1, 512, &bytes);
                    // Values of the same sign as their weights add up, of the other sign too.
                    let mut decoded = vec![0.0; 512];
                    t.decode(&bytes, &mut decoded).unwrap();
                    let x: Vec<f32> = decoded.iter().map(|v| 127.0f32.copysign(*v) * sign).collect();
                    let a = load(&k, &pool, &x, 1, t);
                    let got = f64::from(product(&k, &pool, &w, &a)[0]);
                    let (expected, tolerance) = truth(&w, 0, &meant(&a, k.form(&w), 0));
                    assert!((got - expected).abs() <= tolerance, "{} {} {fill:?}: {got} {expected}", k.name(), t.name());
                }
            }
        }
    }
}

#[test]
fn eight_bits_are_near_f32() {
    let pool = Pool::new(1);
    let mut random = Random(4);
    for t in QUANTS.iter().map(|q| q.qtype) {
        let bytes = weights(t, 512, Fill::Random, &mut random, Random::float);
        let w = Matrix::whole(t, 1, 512, &bytes);
        let x: Vec<f32> = (0..512).map(|_| random.float()).collect();
        for k in sets(ActivationMode::Int8) {
            let got = product(&k, &pool, &w, &load(&k, &pool, &x, 1, t))[0];
            let mut decoded = vec![0.0; 512];
            t.decode(&bytes, &mut decoded).unwrap();
            let exact: f64 = decoded.iter().zip(&x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            // Half a step of at most 1/127 on every value.
            let bound: f64 = decoded.iter().map(|w| f64::from(w.abs()) / 254.0).sum();
            assert!((f64::from(got) - exact).abs() <= bound * 1.001 + 1e-4, "{} {}", k.name(), t.name());
        }
    }
}

/// Scales of zero, the largest and the smallest halves, of both signs, side by side in a row, with payloads of any kind: nothing overflows on the way, and one activation
/// row gets the bits that it gets among five.
#[test]
fn extreme_scales() {
    let pool = Pool::new(1);
    let mut random = Random(12);
    let scales = [0.0, -0.0, 65504.0, -65504.0, 5.960_464_5e-8, -5.960_464_5e-8, 6.0e-5, 1.0];
    let (rows, n) = (21, 5);
    for t in QUANTS.iter().map(|q| q.qtype) {
        for fill in [Fill::Random, Fill::Byte(0), Fill::Byte(0xff), Fill::Byte(0x80)] {
            let cols = 256 * 3;
            let bytes = weights(t, rows * cols, fill, &mut random, |r| scales[r.next() as usize % scales.len()]);
            let w = Matrix::whole(t, rows, cols, &bytes);
            let x: Vec<f32> = (0..n * cols).map(|_| random.float() * 100.0).collect();
            for mode in [ActivationMode::F32, ActivationMode::Int8] {
                for k in sets(mode) {
                    let a = load(&k, &pool, &x, n, t);
                    let out = product(&k, &pool, &w, &a);
                    for i in 0..n {
                        let alone = product(&k, &pool, &w, &load(&k, &pool, &x[i * cols..(i + 1) * cols], 1, t));
                        let exact = meant(&a, k.form(&w), i);
                        for r in 0..rows {
                            let (expected, tolerance) = truth(&w, r, &exact);
                            let got = out[i * rows + r];
                            assert!(
                                (f64::from(got) - expected).abs() <= tolerance,
                                "{} {mode:?} {} {fill:?}: {got} {expected}",
                                k.name(),
                                t.name()
                            );
                            assert_eq!(got.to_bits(), alone[r].to_bits(), "{} {mode:?} {} {fill:?}", k.name(), t.name());
                        }
                    }
                }
            }
        }
    }
}

/// The law: bits depend neither on how many rows there are nor on who computes them.
#[test]
fn bits_do_not_depend_on_rows_threads_or_chunks() {
    let mut random = Random(5);
    // More activation rows than a tile takes.
    let (rows, n) = (90, 141);
    // Rows of floats of whole vectors, and with a ragged end.
    let shapes =
        QUANTS.iter().map(|q| q.qtype).flat_map(|t| if t.is_float() { vec![(t, 1100), (t, 1088)] } else { vec![(t, 5 * t.block_len())] });
    for (t, cols) in shapes {
        let bytes = weights(t, rows * cols, Fill::Random, &mut random, Random::float);
        let w = Matrix::whole(t, rows, cols, &bytes);
        let x: Vec<f32> = (0..n * cols).map(|_| random.float()).collect();
        for mode in [ActivationMode::F32, ActivationMode::Int8] {
            for k in sets(mode) {
                let one = Pool::new(1);
                let alone: Vec<f32> =
                    (0..n).flat_map(|i| product(&k, &one, &w, &load(&k, &one, &x[i * cols..(i + 1) * cols], 1, t))).collect();
                for threads in [1, 2, 3, 7] {
                    let pool = Pool::new(threads);
                    let together = product(&k, &pool, &w, &load(&k, &pool, &x, n, t));
                    let same = alone.iter().zip(&together).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{} {mode:?} {} {threads} threads", k.name(), t.name());
                }
            }
        }
    }
}

#[test]
fn jobs_picks_and_pieces() {
    let pool = Pool::new(3);
    let mut random = Random(6);
    let (rows, cols, n) = (50, 512, 9);
    for t in QUANTS.iter().map(|q| q.qtype) {
        let row_bytes = t.row_bytes(cols).unwrap();
        let bytes = weights(t, rows * cols, Fill::Random, &mut random, Random::float);
        let whole = Matrix::whole(t, rows, cols, &bytes);
        // The same rows in pieces of 12 with 100 bytes between them.
        let (piece_rows, piece_stride) = (12, 12 * row_bytes + 100);
        let mut scattered = Vec::new();
        for piece in bytes.chunks(piece_rows * row_bytes) {
            scattered.resize(scattered.len().next_multiple_of(piece_stride), 0xee);
            scattered.extend_from_slice(piece);
        }
        let pieces = Matrix { bytes: &scattered, piece_rows, piece_stride, ..whole };
        let x: Vec<f32> = (0..n * cols).map(|_| random.float()).collect();
        for mode in [ActivationMode::F32, ActivationMode::Int8] {
            for k in sets(mode) {
                let a = load(&k, &pool, &x, n, t);
                let plain = product(&k, &pool, &whole, &a);
                let picks: [&[u32]; 3] = [&[8, 0, 3, 3, 1, 7], &[4], &[]];
                let mut outs = picks.map(|p| vec![f32::NAN; p.len() * rows]);
                let mut all = vec![f32::NAN; n * rows];
                let mut jobs: Vec<Job<'_>> = outs
                    .iter_mut()
                    .zip(picks)
                    .map(|(out, p)| Job { weights: pieces, activations: &a, picked: Some(p), out })
                    .chain([Job { weights: pieces, activations: &a, picked: None, out: &mut all }])
                    .collect();
                k.matmul_jobs(&pool, &mut jobs);
                assert_eq!(all, plain, "{} {mode:?} {}", k.name(), t.name());
                for (out, p) in outs.iter().zip(picks) {
                    let expected: Vec<f32> = p.iter().flat_map(|&i| plain[i as usize * rows..(i as usize + 1) * rows].to_vec()).collect();
                    assert_eq!(*out, expected);
                }
            }
        }
    }
}

#[test]
fn each_of_many_jobs_gets_its_rows() {
    let (mut random, k) = (Random(11), Kernels::detect(ActivationMode::Int8));
    let (cols, most) = (64, 150);
    let bytes = weights(QuantType::Q8_0, most * cols, Fill::Random, &mut random, Random::float);
    let x: Vec<f32> = (0..cols).map(|_| random.float()).collect();
    let a = load(&k, &Pool::new(1), &x, 1, QuantType::Q8_0);
    let of = |rows: usize| Matrix::whole(QuantType::Q8_0, rows, cols, &bytes);
    let plain = product(&k, &Pool::new(1), &of(most), &a);
    // Lists below, at and above what is marked, with jobs of no rows at all.
    for count in [1, 2, 63, 64, 65, 127, 128, 129, 500] {
        let rows: Vec<usize> =
            (0..count).map(|_| random.next() as usize % (most + 1)).map(|rows| if rows % 5 == 0 { 0 } else { rows }).collect();
        let mut outs: Vec<Vec<f32>> = rows.iter().map(|&rows| vec![f32::NAN; rows]).collect();
        let jobs = rows.iter().zip(&mut outs).map(|(&rows, out)| Job { weights: of(rows), activations: &a, picked: None, out });
        k.matmul_jobs(&Pool::new(2), &mut jobs.collect::<Vec<_>>());
        assert!(outs.iter().all(|out| out[..] == plain[..out.len()]), "{count} jobs");
    }
}

#[test]
fn decoded_rows_are_the_decoders() {
    let mut random = Random(7);
    for t in QUANTS.iter().map(|q| q.qtype) {
        for cols in lengths(t) {
            let bytes = weights(t, 3 * cols, Fill::Random, &mut random, Random::float);
            let w = Matrix::whole(t, 3, cols, &bytes);
            let mut expected = vec![0.0; cols];
            t.decode(w.row(1, w.checked_row_bytes()), &mut expected).unwrap();
            for k in sets(ActivationMode::F32) {
                let mut out = vec![f32::NAN; cols];
                k.decode_row(&w, 1, &mut out);
                let same = out.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{} {} {cols}", k.name(), t.name());
            }
        }
    }
}

/// Every bit pattern of the scales, NaN and infinity included, decodes as the format says.
#[test]
fn decoding_takes_any_bytes() {
    let mut random = Random(8);
    for t in QUANTS.iter().map(|q| q.qtype) {
        let cols = 64 * t.block_len();
        for _ in 0..50 {
            let bytes: Vec<u8> = (0..t.row_bytes(cols).unwrap()).map(|_| random.next() as u8).collect();
            let mut expected = vec![0.0; cols];
            t.decode(&bytes, &mut expected).unwrap();
            for k in sets(ActivationMode::F32) {
                let mut out = vec![0.0; cols];
                k.decode_row(&Matrix::whole(t, 1, cols, &bytes), 0, &mut out);
                let same = out.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan());
                assert!(same, "{} {}", k.name(), t.name());
            }
        }
    }
}

#[test]
fn both_sets_quantise_alike() {
    let mut random = Random(9);
    let mut x: Vec<f32> = (0..4096).map(|_| random.float() * 10f32.powi((random.next() % 9) as i32 - 4)).collect();
    x[100..400].fill(0.0);
    (x[700], x[1500], x[2800]) = (f32::NAN, f32::INFINITY, f32::NEG_INFINITY);
    x[3000..3600].fill(1e-37);
    x[3600..3900].iter_mut().enumerate().for_each(|(i, v)| *v = i as f32 * 0.5); // halves
    let pool = Pool::new(1);
    for t in [QuantType::Q8_0, QuantType::Q4_K] {
        let form = Form::of(t).unwrap();
        let loaded: Vec<Activations> = sets(ActivationMode::Int8).iter().map(|k| load(k, &pool, &x, 2, t)).collect();
        for pair in loaded.windows(2) {
            for i in 0..2 {
                let (a, b) = (pair[0].quantised_row(form, i), pair[1].quantised_row(form, i));
                assert_eq!((a.q, a.sums), (b.q, b.sums));
                assert!(a.d.iter().zip(b.d).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
    }
}

#[test]
fn rows_may_come_in_parts() {
    let pool = Pool::new(2);
    let mut random = Random(11);
    let (cols, n) = (512, 9);
    let x: Vec<f32> = (0..n * cols).map(|_| random.float()).collect();
    for t in [QuantType::Q8_0, QuantType::Q4_K, QuantType::F32] {
        let bytes = weights(t, 20 * cols, Fill::Random, &mut random, Random::float);
        let w = Matrix::whole(t, 20, cols, &bytes);
        for k in sets(ActivationMode::Int8) {
            let whole = product(&k, &pool, &w, &load(&k, &pool, &x, n, t));
            let mut a = Activations::new(n, cols, k.mode());
            a.reserve(&k, n, cols, &[t]);
            for (first, rows) in [(5, 4), (0, 1), (1, 4)] {
                a.fill(&pool, &k, first, &x[first * cols..(first + rows) * cols]);
            }
            assert_eq!(product(&k, &pool, &w, &a), whole, "{} {}", k.name(), t.name());
        }
    }
}

#[test]
fn a_nan_shows() {
    let pool = Pool::new(1);
    let mut random = Random(10);
    for t in QUANTS.iter().map(|q| q.qtype) {
        let bytes = weights(t, 512, Fill::Random, &mut random, |_| 1.0);
        let mut x = vec![1.0; 512];
        x[300] = f32::NAN;
        for mode in [ActivationMode::F32, ActivationMode::Int8] {
            for k in sets(mode) {
                let out = product(&k, &pool, &Matrix::whole(t, 1, 512, &bytes), &load(&k, &pool, &x, 1, t));
                assert!(out[0].is_nan(), "{} {}", k.name(), t.name());
            }
        }
    }
}

#[test]
fn memory_is_as_announced() {
    for mode in [ActivationMode::F32, ActivationMode::Int8] {
        for (rows, cols) in [(1, 1), (3, 100), (7, 2048)] {
            assert_eq!(Activations::new(rows, cols, mode).allocated(), Activations::bytes(rows, cols, mode));
        }
    }
}

#[test]
fn mistakes_of_the_caller_panic() {
    let k = Kernels::detect(ActivationMode::Int8);
    let pool = Pool::new(1);
    let bytes = vec![0; 34 * 4];
    let w = Matrix::whole(QuantType::Q8_0, 2, 64, &bytes);
    let a = load(&k, &pool, &[0.0; 64], 1, QuantType::Q8_0);
    let fails = |f: &mut dyn FnMut()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
    let mut out = vec![0.0; 2];
    assert!(!fails(&mut || k.matmul(&pool, &w, &a, &mut out)));
    assert!(fails(&mut || k.matmul(&pool, &w, &a, &mut out[..1])), "short out");
    assert!(fails(&mut || k.matmul(&pool, &Matrix { rows: 3, ..w }, &a, &mut [0.0; 3])), "rows outside");
    assert!(fails(&mut || k.matmul(&pool, &Matrix { cols: 32, ..w }, &a, &mut out)), "columns");
    let unloaded = load(&k, &pool, &[0.0; 64], 1, QuantType::F32);
    assert!(fails(&mut || k.matmul(&pool, &w, &unloaded, &mut out)), "form not loaded");
    let mut job = [Job { weights: w, activations: &a, picked: Some(&[1]), out: &mut out }];
    assert!(fails(&mut || k.matmul_jobs(&pool, &mut job)), "picked row outside");
}

/// Machines without the dot product instruction get the bits of those with it.
#[cfg(target_arch = "aarch64")]
#[test]
fn the_dot_product_instruction_changes_no_bit() {
    use crate::kernels::ops::{NEON, NEON_BASE};
    if !std::arch::is_aarch64_feature_detected!("dotprod") {
        println!("SKIP: this machine has no dot product instruction");
        return;
    }
    let pool = Pool::new(1);
    let mut random = Random(12);
    let (rows, n) = (7, 15); // groups of eight, four, two and one
    for t in QUANTS.iter().map(|q| q.qtype).filter(|t| !t.is_float()) {
        for fill in [Fill::Random, Fill::Byte(0x80), Fill::Byte(0xff)] {
            let cols = 5 * t.block_len();
            let bytes = weights(t, rows * cols, fill, &mut random, Random::float);
            let w = Matrix::whole(t, rows, cols, &bytes);
            let x: Vec<f32> = (0..n * cols).map(|i| if i % 3 == 0 { -1.0 } else { random.float() }).collect();
            let outs = [&NEON, &NEON_BASE].map(|ops| {
                let k = Kernels { ops, mode: ActivationMode::Int8 };
                product(&k, &pool, &w, &load(&k, &pool, &x, n, t))
            });
            assert!(outs[0].iter().zip(&outs[1]).all(|(a, b)| a.to_bits() == b.to_bits()), "{} {fill:?}", t.name());
        }
    }
}

mod interleaved;
