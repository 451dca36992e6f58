use super::*;
use proptest::prelude::*;
use std::path::Path;

const COLS: usize = 256;

fn vector(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/encode").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// 48 rows of trained weights, 24 of Gaussian noise, 24 of Laplace noise (`scripts/oracle/encode_vectors.py`).
fn weights() -> Vec<f32> {
    vector("weights.f32").as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect()
}

const GROUPS: [(&str, std::ops::Range<usize>); 3] = [("trained", 0..48), ("gaussian", 48..72), ("laplace", 72..96)];

fn encode(qtype: QuantType, rows: &[f32], cols: usize) -> Vec<u8> {
    let bytes = qtype.row_bytes(cols).unwrap();
    let mut out = vec![0xAA; rows.len() / cols * bytes];
    for (row, out) in rows.chunks(cols).zip(out.chunks_mut(bytes)) {
        encode_row(qtype, row, out).unwrap();
    }
    out
}

fn decode(qtype: QuantType, bytes: &[u8], len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    qtype.decode(bytes, &mut values).unwrap();
    values
}

/// Root of the mean squared error, relative to the root mean square of the values.
fn rmse(values: &[f32], decoded: &[f32]) -> f64 {
    let error: f64 = values.iter().zip(decoded).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    let power: f64 = values.iter().map(|&a| f64::from(a).powi(2)).sum();
    (error / power).sqrt()
}

#[test]
fn types_without_a_search_give_the_bytes_of_the_reference_encoder() {
    for qtype in [QuantType::Q8_0, QuantType::F16, QuantType::BF16] {
        let ours = encode(qtype, &weights(), COLS);
        let theirs = vector(&format!("{}.bin", qtype.name()));
        let differing = ours.iter().zip(&theirs).position(|(a, b)| a != b);
        assert_eq!((ours.len(), differing), (theirs.len(), None), "{}", qtype.name());
    }
}

#[test]
fn searched_types_are_no_worse_than_other_encoders() {
    let rows = weights();
    for qtype in [QuantType::Q4_0, QuantType::Q5_0, QuantType::Q4_K, QuantType::Q6_K, QuantType::MXFP4] {
        let ours = decode(qtype, &encode(qtype, &rows, COLS), rows.len());
        let theirs = decode(qtype, &vector(&format!("{}.bin", qtype.name())), rows.len());
        for (group, range) in GROUPS {
            let range = range.start * COLS..range.end * COLS;
            let (our, their) = (rmse(&rows[range.clone()], &ours[range.clone()]), rmse(&rows[range.clone()], &theirs[range]));
            eprintln!("{:6} {group:9} ours {our:.5} theirs {their:.5} ratio {:.4}", qtype.name(), our / their);
            assert!(our <= their, "{} on {group}: {our} against {their}", qtype.name());
        }
    }
}

/// The plainest `q4_k`: scale and minimum of each sub-block from its smallest and largest value.
fn naive_q4_k(rows: &[f32]) -> Vec<f32> {
    let mut decoded = Vec::new();
    for block in rows.chunks(256) {
        let fit = |x: &[f32]| {
            let (low, high) = x.iter().fold((0.0f32, 0.0f32), |(l, h), &v| (l.min(v), h.max(v)));
            ((high - low) / 15.0, -low)
        };
        let fits: Vec<(f32, f32)> = block.chunks(32).map(fit).collect();
        let half = |v: f32| half::f16::from_f32(v / 63.0).to_f32();
        let d = half(fits.iter().fold(0.0, |top, f| top.max(f.0)));
        let dmin = half(fits.iter().fold(0.0, |top, f| top.max(f.1)));
        for (x, (scale, min)) in block.chunks(32).zip(fits) {
            let (scale, min) = (d * (scale / d).round().min(63.0), dmin * (min / dmin).round().min(63.0));
            decoded.extend(x.iter().map(|v| scale * ((v + min) / scale).round().clamp(0.0, 15.0) - min));
        }
    }
    decoded
}

#[test]
fn the_search_of_q4_k_pays() {
    let rows = weights();
    let ours = decode(QuantType::Q4_K, &encode(QuantType::Q4_K, &rows, COLS), rows.len());
    let (our, naive) = (rmse(&rows, &ours), rmse(&rows, &naive_q4_k(&rows)));
    assert!(our < 0.95 * naive, "searched {our}, naive {naive}");
}

/// The plainest `q2_k`: scale and minimum of each sub-block from its smallest and largest value, not even put on the block's grids.
#[test]
fn the_search_of_q2_k_pays() {
    let rows = weights();
    let naive = |x: &[f32]| {
        let (low, high) = x.iter().fold((0.0f32, 0.0f32), |(l, h), &v| (l.min(v), h.max(v)));
        let scale = (high - low) / 3.0;
        x.iter().map(move |v| scale * ((v - low) / scale).round() + low).collect::<Vec<_>>()
    };
    let naive: Vec<f32> = rows.chunks(16).flat_map(naive).collect();
    let ours = decode(QuantType::Q2_K, &encode(QuantType::Q2_K, &rows, COLS), rows.len());
    let (our, naive) = (rmse(&rows, &ours), rmse(&rows, &naive));
    assert!(our < 0.95 * naive, "searched {our}, naive {naive}");
}

#[test]
fn values_that_cannot_be_encoded_are_named() {
    for encoder in ENCODERS {
        let qtype = encoder.qtype;
        let mut out = vec![0; qtype.row_bytes(COLS).unwrap()];
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut row = [0.5; COLS];
            row[200] = bad;
            row[201] = bad;
            assert_eq!(encode_row(qtype, &row, &mut out), Err(NotFinite { column: 200 }), "{} {bad}", qtype.name());
        }
        let mut row = [0.5; COLS];
        row[3] = -encoder.limit;
        encode_row(qtype, &row, &mut out).unwrap();
        assert_eq!(qtype.check_finite(&out), None, "{}: the largest value gives a finite scale", qtype.name());
        assert!(decode(qtype, &out, COLS).iter().all(|v| v.is_finite()), "{}", qtype.name());
        if encoder.limit < f32::MAX {
            row[3] = -encoder.limit.next_up();
            assert_eq!(encode_row(qtype, &row, &mut out), Err(NotFinite { column: 3 }), "{}", qtype.name());
        }
    }
}

/// Scales of such rows are subnormal halves, or below them.
#[test]
fn tiny_rows_keep_what_can_be_kept() {
    let rows = &weights()[48 * COLS..72 * COLS];
    let power = (rows.iter().map(|v| v * v).sum::<f32>() / rows.len() as f32).sqrt();
    for (level, worst) in [(1e-4, 0.16), (3e-5, 0.3), (1e-5, 0.6), (1e-6, 1.0), (1e-8, 1.0)] {
        let tiny: Vec<f32> = rows.iter().map(|v| v / power * level).collect();
        for qtype in [QuantType::Q4_0, QuantType::Q4_K, QuantType::Q5_0, QuantType::Q6_K] {
            let error = rmse(&tiny, &decode(qtype, &encode(qtype, &tiny, COLS), tiny.len()));
            assert!(error <= worst, "{} at {level:e}: {error}", qtype.name());
        }
    }
}

#[test]
fn zeros_and_constants_survive() {
    for encoder in ENCODERS {
        let qtype = encoder.qtype;
        for constant in [0.0, 1.0, -1.0, 0.25, 4.0] {
            let row = [constant; COLS];
            let decoded = decode(qtype, &encode(qtype, &row, COLS), COLS);
            assert!(
                rmse(&[&row[..], &[1e-9]].concat(), &[&decoded[..], &[1e-9]].concat()) < 2e-3,
                "{} {constant}: {decoded:?}",
                qtype.name()
            );
        }
    }
}

/// Bound of a value's error, relative to the largest magnitude of the row. The search may clip an extreme a little, so the bounds of the
/// few-bit types are wider than half a step.
fn bound(qtype: QuantType) -> f32 {
    match qtype {
        QuantType::F32 => 0.0,
        QuantType::F16 => 1.0 / 2048.0,
        QuantType::BF16 => 1.0 / 256.0,
        QuantType::Q8_0 => 0.5 / 127.0 + 1.0 / 2048.0,
        QuantType::Q6_K => 0.06,
        QuantType::Q5_0 => 0.11,
        QuantType::Q4_0 | QuantType::Q4_K => 0.25,
        QuantType::MXFP4 => 0.27,
        QuantType::Q2_K => 0.75,
        other => panic!("no bound for {}", other.name()),
    }
}

/// Rows of very different kinds: dense, sparse, with outliers, one-sided, tiny and huge.
fn row() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![4 => -1.0f32..1.0, 1 => Just(0.0f32), 1 => -0.01f32..0.01, 1 => prop_oneof![Just(1.0f32), Just(-1.0f32)]];
    (prop::collection::vec(value, COLS), -30i32..15, 0u8..4).prop_map(|(mut row, exponent, kind)| {
        for (i, v) in row.iter_mut().enumerate() {
            let sparse = if kind == 1 && i % 37 != 0 { 0.01 } else { 1.0 };
            *v *= sparse * (exponent as f32).exp2();
            if kind == 2 {
                *v = v.abs();
            }
        }
        row
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn errors_are_bounded(row in row()) {
        let largest = row.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        for encoder in ENCODERS {
            let qtype = encoder.qtype;
            let bytes = encode(qtype, &row, COLS);
            prop_assert_eq!(qtype.check_finite(&bytes), None);
            // Scales below the smallest half cannot be stored, those below the smallest normal half only coarsely.
            let slack = if qtype.is_float() && qtype != QuantType::F16 || qtype == QuantType::MXFP4 { 0.0 } else { 127.0 * (-25f32).exp2() };
            for (column, (a, b)) in row.iter().zip(decode(qtype, &bytes, COLS)).enumerate() {
                prop_assert!((a - b).abs() <= bound(qtype) * largest + slack, "{} column {column}: {a} became {b}, largest {largest}", qtype.name());
            }
        }
    }
}
