//! The writer: what it writes, that it always writes the same, and what it refuses.

mod common;

use common::{SMALL, Shape, options, toy};
use forebay_format::QuantType;
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
    for name in ["weights.bin", "alias.fby", "sneaky.fby"] {
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
