//! Rows that lie interleaved.

use super::*;

/// Whether rows of `t` that are interleaved give the bits of rows one after the other. NEON keeps four sums of a row by itself.
fn same_bits(k: &Kernels, t: QuantType) -> bool {
    match k.set() {
        KernelSet::Scalar | KernelSet::Avx2 | KernelSet::Avx512 => true,
        KernelSet::Neon => !k.interleaved(t),
    }
}

/// Interleaved rows give what the same rows one after the other give, and the same bits for any number of activation rows and threads: in all types, sets, modes and pieces.
#[test]
fn interleaved_rows_change_no_result() {
    let mut random = Random(13);
    let (rows, n) = (96, 19);
    for t in QUANTS.iter().map(|q| q.qtype) {
        // Rows of some types are whole dwords with an even number of blocks, or with four.
        let cols = [5, 6, 4].map(|b| b * t.block_len()).into_iter().find(|&c| Tiling::Dwords16.fits(t, rows as u64, c as u64)).unwrap();
        let row_bytes = t.row_bytes(cols).unwrap();
        let bytes = weights(t, rows * cols, Fill::Random, &mut random, Random::float);
        let mut tiled = vec![0; bytes.len()];
        forebay_format::tiling::interleave(row_bytes, &bytes, &mut tiled);
        let (piece_rows, piece_stride) = (32, 32 * row_bytes + 100);
        let mut apart = Vec::new();
        for piece in tiled.chunks(piece_rows * row_bytes) {
            apart.resize(apart.len().next_multiple_of(piece_stride), 0xee);
            apart.extend_from_slice(piece);
        }
        let plain = Matrix::whole(t, rows, cols, &bytes);
        let whole = Matrix::whole(t, rows, cols, &tiled).tiled(Tiling::Dwords16);
        let pieces = Matrix { bytes: &apart, piece_rows, piece_stride, ..whole };
        let x: Vec<f32> = (0..n * cols).map(|_| random.float()).collect();
        let bits = |out: &[f32]| out.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        for mode in [ActivationMode::F32, ActivationMode::Int8] {
            for k in sets(mode) {
                let one = Pool::new(1);
                let alone: Vec<f32> =
                    (0..n).flat_map(|i| product(&k, &one, &whole, &load(&k, &one, &x[i * cols..(i + 1) * cols], 1, t))).collect();
                let a = load(&k, &one, &x, n, t);
                let name = |what: &str| format!("{} {mode:?} {}: {what}", k.name(), t.name());
                if same_bits(&k, t) {
                    assert_eq!(bits(&alone), bits(&product(&k, &one, &plain, &a)), "{}", name("row by row"));
                }
                for (i, r) in (0..n).flat_map(|i| (0..rows).map(move |r| (i, r))) {
                    let (expected, tolerance) = truth(&plain, r, &meant(&a, k.form(&plain), i));
                    let got = f64::from(alone[i * rows + r]);
                    assert!((got - expected).abs() <= tolerance, "{}", name(&format!("{got} {expected}")));
                }
                // As many as there are ways to go: alone, by two, three and four, in a strip.
                for n in [1, 2, 3, 4, 5, 6, 7, 9, 16, 19] {
                    for threads in [1, 2] {
                        let pool = Pool::new(threads);
                        let a = load(&k, &pool, &x[..n * cols], n, t);
                        for (w, how) in [(&whole, "whole"), (&pieces, "in pieces")] {
                            let out = product(&k, &pool, w, &a);
                            assert_eq!(
                                bits(&out),
                                bits(&alone[..n * rows]),
                                "{}",
                                name(&format!("{n} activation rows, {threads} threads, {how}"))
                            );
                        }
                    }
                }
            }
        }
    }
}

/// The largest integers meet in i16 as they do in rows by themselves.
#[test]
fn interleaved_extremes() {
    let (pool, mut random) = (Pool::new(1), Random(14));
    for t in [QuantType::Q4_K, QuantType::Q5_K] {
        for (fill, sign) in [0x00, 0x3f, 0xf0, 0xff].into_iter().flat_map(|b| [(b, 1.0), (b, -1.0)]) {
            let (rows, cols) = (16, 512);
            let bytes = weights(t, rows * cols, Fill::Byte(fill), &mut random, |_| 1.0);
            let mut tiled = vec![0; bytes.len()];
            forebay_format::tiling::interleave(bytes.len() / rows, &bytes, &mut tiled);
            let w = Matrix::whole(t, rows, cols, &bytes);
            for n in [1, 2, 3, 7] {
                let x = vec![127.0 * sign; n * cols];
                for k in sets(ActivationMode::Int8) {
                    let a = load(&k, &pool, &x, n, t);
                    let (expected, tolerance) = truth(&w, 3, &meant(&a, k.form(&w), n - 1));
                    let got = f64::from(
                        product(&k, &pool, &Matrix::whole(t, rows, cols, &tiled).tiled(Tiling::Dwords16), &a)[(n - 1) * rows + 3],
                    );
                    assert!((got - expected).abs() <= tolerance, "{} {} {fill:x} {n}: {got} {expected}", k.name(), t.name());
                }
            }
        }
    }
}

#[test]
fn rows_that_are_no_tiles_are_refused() {
    let (k, pool, bytes) = (Kernels::detect(ActivationMode::Int8), Pool::new(1), vec![0; 144 * 32]);
    let w = Matrix::whole(QuantType::Q4_K, 32, 256, &bytes).tiled(Tiling::Dwords16);
    let a = load(&k, &pool, &[0.0; 256], 1, QuantType::Q4_K);
    let fails = |w: Matrix<'_>| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| product(&k, &pool, &w, &a))).is_err();
    assert!(!fails(w));
    assert!(fails(Matrix { rows: 31, piece_rows: 31, ..w }) && fails(Matrix { rows: 31, ..w }) && fails(Matrix { piece_rows: 8, ..w }));
}
