//! The writer: what it writes, that it always writes the same, and what it refuses.

mod common;

use common::{SMALL, Shape, options, toy};
use forebay_format::reference::Reader;
use forebay_format::{BundleId, Kind, QuantType};
use forebay_repack::arch::Rows;
use forebay_repack::plan::{Plan, Quantize};
use forebay_repack::{Error, write};
use std::path::PathBuf;

fn convert_with(shape: Shape, threads: usize) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, binding) = toy(dir.path(), shape);
    let plan = Plan::new(&checkpoint, &binding, Quantize::Keep).unwrap();
    let out = dir.path().join("toy.fby");
    write::convert(&checkpoint, &plan, &out, &options(threads)).unwrap();
    (dir, out)
}

#[test]
fn the_same_bytes_for_any_number_of_threads() {
    // Large enough for runs of several pieces and experts of several slices.
    let shape = Shape { hidden: 512, inner: 768, experts: 3, vocab: 9000, dtype: QuantType::F32 };
    let (_dir, first) = convert_with(shape, 1);
    let first = std::fs::read(first).unwrap();
    for threads in [2, 5] {
        let (_dir, other) = convert_with(shape, threads);
        assert!(std::fs::read(other).unwrap() == first, "{threads} threads");
    }
}

#[test]
fn the_reference_reader_gives_back_what_the_source_holds() {
    let large = Shape { hidden: 512, inner: 768, experts: 3, vocab: 200, dtype: QuantType::BF16 };
    for shape in [SMALL, large] {
        let (dir, out) = convert_with(shape, 3);
        let source = std::fs::read(dir.path().join("weights.bin")).unwrap();
        let (checkpoint, binding) = toy(dir.path(), shape);
        let rows = |r: &Rows| {
            let t = &checkpoint.tensors[r.tensor];
            let row = shape.dtype.row_bytes(t.cols() as usize).unwrap() as u64;
            let start = t.range.start + r.first * row;
            &source[start as usize..(start + r.count * row) as usize]
        };
        let reader = Reader::open(&out).unwrap();
        let mut runs = vec![(BundleId::global(Kind::Embedding, 0), &binding.embedding), (BundleId::global(Kind::Head, 0), &binding.head)];
        runs.extend((0..).zip(&binding.trunk).map(|(l, t)| (BundleId::trunk(l), t)));
        for (run, bound) in runs.iter().flat_map(|(run, list)| list.iter().map(|b| (*run, b))) {
            let matrix = reader.tensor(run, bound.role).unwrap().unwrap();
            assert_eq!((matrix.rows, matrix.cols), (bound.rows, bound.cols));
            assert!(matrix.bytes == rows(&bound.source), "{run} {:?}", bound.role);
            assert_eq!(matrix.values().len(), (bound.rows * bound.cols) as usize);
        }
        for (e, bound) in (0..).zip(&binding.experts[0]) {
            let parts = reader.expert(0, e).unwrap();
            for (matrix, source) in parts.iter().zip([&bound.gate, &bound.up, &bound.down]) {
                assert!(matrix.bytes == rows(source), "expert {e}");
            }
        }
        let carried = &checkpoint.tensors[binding.carried[0]];
        assert!(reader.carried(0).unwrap() == source[carried.range.start as usize..carried.range.end as usize]);
        assert_eq!(reader.source().unwrap(), checkpoint.small_files);
    }
}

#[test]
fn nothing_is_left_beside_the_pack() {
    let (dir, _) = convert_with(SMALL, 2);
    let mut names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["toy.fby", "weights.bin"]);
}

#[test]
fn an_existing_pack_is_not_replaced_without_force() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, binding) = toy(dir.path(), SMALL);
    let plan = Plan::new(&checkpoint, &binding, Quantize::Keep).unwrap();
    let out = dir.path().join("toy.fby");
    std::fs::write(&out, "precious").unwrap();
    let error = write::convert(&checkpoint, &plan, &out, &options(1)).unwrap_err();
    assert!(matches!(&error, Error::Usage(text) if text.contains("--force")), "{error}");
    assert_eq!(std::fs::read(&out).unwrap(), b"precious");
    write::convert(&checkpoint, &plan, &out, &write::Options { force: true, ..options(1) }).unwrap();
    assert!(std::fs::read(&out).unwrap().len() > 4096);
}

#[test]
fn the_source_is_never_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, binding) = toy(dir.path(), SMALL);
    let plan = Plan::new(&checkpoint, &binding, Quantize::Keep).unwrap();
    let source = dir.path().join("weights.bin");
    let before = std::fs::read(&source).unwrap();
    std::os::unix::fs::symlink("weights.bin", dir.path().join("alias.fby")).unwrap();
    std::os::unix::fs::symlink("weights.bin", dir.path().join("sneaky.fby.partial")).unwrap();
    std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    for name in ["weights.bin", "alias.fby", "sneaky.fby", "config.json"] {
        let force = write::Options { force: true, ..options(1) };
        let error = write::convert(&checkpoint, &plan, &dir.path().join(name), &force).unwrap_err();
        assert!(matches!(&error, Error::Usage(text) if text.contains("source")), "{name}: {error}");
    }
    assert_eq!(std::fs::read(&source).unwrap(), before);
}

#[test]
fn a_source_that_changed_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, binding) = toy(dir.path(), SMALL);
    let plan = Plan::new(&checkpoint, &binding, Quantize::Keep).unwrap();
    let source = dir.path().join("weights.bin");
    let mut bytes = std::fs::read(&source).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&source, bytes).unwrap();
    let out = dir.path().join("toy.fby");
    let error = write::convert(&checkpoint, &plan, &out, &options(1)).unwrap_err();
    assert!(matches!(error, Error::SourceChanged { .. }), "{error}");
    assert!(!out.exists());
}

#[test]
fn a_value_that_is_not_finite_is_named() {
    for (quantize, value) in
        [(Quantize::Keep, f32::NAN), (Quantize::To(QuantType::Q8_0), f32::INFINITY), (Quantize::To(QuantType::F16), 1e6)]
    {
        let dir = tempfile::tempdir().unwrap();
        let (mut checkpoint, binding) = toy(dir.path(), SMALL);
        let tensor = checkpoint.tensor("l.0.down").unwrap();
        let source = dir.path().join("weights.bin");
        let mut bytes = std::fs::read(&source).unwrap();
        let at = tensor.range.start as usize + 37 * SMALL.inner as usize * 4 + 12;
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        std::fs::write(&source, &bytes).unwrap();
        checkpoint.files[0].fingerprint = write::fill::fingerprint(&std::fs::metadata(&source).unwrap());
        let plan = Plan::new(&checkpoint, &binding, quantize).unwrap();
        let out = dir.path().join("toy.fby");
        let error = write::convert(&checkpoint, &plan, &out, &options(2)).unwrap_err().to_string();
        assert!(error.contains("l.0.down") && error.contains("row 37"), "{error}");
        assert!(!out.exists() && !dir.path().join("toy.fby.partial").exists());
    }
}
