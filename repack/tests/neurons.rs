//! Neuron groups: the same weights as in the trunk run, whatever the shape, the type and the number of threads; found damaged, found changed, resumed.

mod common;

use common::{Limited, NEVER, Shape, options, sparse};
use forebay_format::model::Role;
use forebay_format::reference::Reader;
use forebay_format::{BundleId, Kind, QuantType};
use forebay_repack::encode::encode_row;
use forebay_repack::plan::{Choices, Neurons, Plan, Quantize, Tilings, WRITER, WRITER_OF_GROUPS};
use forebay_repack::verify::{Depth, verify};
use forebay_repack::write::media::{Media, System};
use forebay_repack::write::{self, Silent};
use proptest::prelude::*;
use std::io;
use std::path::{Path, PathBuf};

fn choices(quantize: Quantize, neurons: Neurons) -> Choices {
    Choices { quantize, neurons, tilings: Tilings::Auto, copies: 1 }
}

fn convert(dir: &Path, shape: Shape, ungated: bool, choices: Choices, threads: usize) -> PathBuf {
    let (checkpoint, binding) = sparse(dir, shape, ungated);
    let plan = Plan::with(&checkpoint, &binding, choices).unwrap();
    let out = dir.join(format!("{:?}-{threads}.fby", choices.neurons));
    write::convert(&checkpoint, &plan, &out, &options(threads)).unwrap();
    out
}

/// Gate (if any), up and down of layer 1 and its sketch equal those of the pack without groups.
fn same_weights(shape: Shape, ungated: bool, quantize: Quantize) {
    let dir = tempfile::tempdir().unwrap();
    let off = Reader::open(&convert(dir.path(), shape, ungated, choices(quantize, Neurons::Off), 1)).unwrap();
    let auto = Reader::open(&convert(dir.path(), shape, ungated, choices(quantize, Neurons::Auto), 3)).unwrap();
    assert_eq!((off.superblock.required & 2, auto.superblock.required & 2), (0, 2));
    assert_eq!((off.manifest.writer.as_str(), auto.manifest.writer.as_str()), (WRITER, WRITER_OF_GROUPS));
    let trunk = |role| off.tensor(BundleId::trunk(1), role).unwrap();
    let (gate, up, down) = auto.neurons(1).unwrap();
    assert!(gate == trunk(Role::FfnGate), "gate of {shape:?}");
    assert!(Some(&up) == trunk(Role::FfnUp).as_ref(), "up of {shape:?}");
    assert!(Some(&down) == trunk(Role::FfnDown).as_ref(), "down of {shape:?}");
    let sketch = auto.tensor(BundleId::trunk(1), Role::NeuronSketch).unwrap().unwrap();
    let trigger = gate.as_ref().unwrap_or(&up);
    // Made from the source, not from what quantising left of it: the same where nothing is quantised.
    if quantize == Quantize::Keep {
        let row = sketch.bytes.len() / shape.inner as usize;
        for (n, bytes) in (0..).zip(sketch.bytes.chunks(row)) {
            let mut expected = vec![0; row];
            encode_row(sketch.qtype, &trigger.row(n).unwrap(), &mut expected).unwrap();
            assert!(bytes == expected, "sketch row {n}");
        }
    }
    let (checkpoint, binding) = sparse(dir.path(), shape, ungated);
    let plan = Box::new(Plan::with(&checkpoint, &binding, choices(quantize, Neurons::Auto)).unwrap());
    let pack = dir.path().join("Auto-3.fby");
    let found = verify(&pack, &Depth::Source { checkpoint: &checkpoint, plan }, 2, &NEVER, &Silent).unwrap();
    assert_eq!(found.problems, []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn groups_hold_every_weight_once(hidden in 1u32..40, inner in 1u32..90, wide in any::<bool>(), ungated in any::<bool>(), way in 0usize..5) {
        let (hidden, inner) = if wide { (hidden * 64, inner * 32) } else { (hidden * 4, inner) };
        let whole = hidden.is_multiple_of(32) && inner.is_multiple_of(32);
        let (dtype, quantize) = match way {
            0 => (QuantType::F32, Quantize::Keep),
            1 => (QuantType::BF16, Quantize::Keep),
            2 => (QuantType::BF16, Quantize::To(QuantType::F16)),
            3 if whole => (QuantType::F32, Quantize::To(QuantType::Q8_0)),
            _ if whole => (QuantType::Q8_0, Quantize::Keep),
            _ => (QuantType::F32, Quantize::To(QuantType::BF16)),
        };
        same_weights(Shape { hidden, inner, experts: 2, vocab: 40, dtype }, ungated, quantize);
    }
}

#[test]
fn groups_are_as_small_as_whole_pages_allow() {
    // (hidden, inner, type, gate) -> neurons of a group, slices of a full group.
    let table = [
        (4096, 64, QuantType::BF16, false, 1, [8192, 8192]),
        (4096, 64, QuantType::F32, true, 1, [16384, 32768]),
        (256, 64, QuantType::BF16, true, 8, [4096, 8192]),
        (384, 64, QuantType::BF16, true, 16, [12288, 24576]),
        (64, 24, QuantType::F32, true, 16, [4096, 8192]),
        (32, 40, QuantType::BF16, false, 40, [4096, 4096]),
        (4096, 64, QuantType::Q8_0, false, 32, [139264, 139264]),
    ];
    for (hidden, inner, dtype, gated, group, slices) in table {
        let dir = tempfile::tempdir().unwrap();
        let (checkpoint, binding) = sparse(dir.path(), Shape { hidden, inner, experts: 2, vocab: 4, dtype }, !gated);
        let plan = Plan::with(&checkpoint, &binding, choices(Quantize::Keep, Neurons::Auto)).unwrap();
        let place = plan.manifest.neurons[1].as_ref().unwrap();
        let run = plan.runs.iter().find(|r| r.id == BundleId::neurons(1, 0)).unwrap();
        assert_eq!((place.group, plan.layout(run).slices.as_slice()), (group, &slices[..]), "hidden {hidden}, {}", dtype.name());
    }
}

#[test]
fn networks_that_are_never_zero_stay_dense_and_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, binding) = common::toy(dir.path(), common::SMALL);
    let bytes = |neurons| {
        let out = dir.path().join("toy.fby");
        let plan = Plan::with(&checkpoint, &binding, choices(Quantize::Keep, neurons)).unwrap();
        assert!(plan.manifest.neurons.is_empty());
        write::convert(&checkpoint, &plan, &out, &write::Options { force: true, ..options(2) }).unwrap();
        std::fs::read(out).unwrap()
    };
    assert!(bytes(Neurons::Auto) == bytes(Neurons::Off));
}

/// Groups of several pieces, the last group of fewer neurons.
const LARGE: Shape = Shape { hidden: 512, inner: 2101, experts: 2, vocab: 64, dtype: QuantType::F32 };

#[test]
fn the_same_bytes_for_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let first = std::fs::read(convert(dir.path(), LARGE, false, choices(Quantize::Keep, Neurons::Auto), 1)).unwrap();
    for threads in [2, 5] {
        let other = convert(dir.path(), LARGE, false, choices(Quantize::Keep, Neurons::Auto), threads);
        assert!(std::fs::read(other).unwrap() == first, "{threads} threads");
    }
}

#[test]
fn damage_and_other_weights_are_named_by_group() {
    let dir = tempfile::tempdir().unwrap();
    let keep = choices(Quantize::Keep, Neurons::Auto);
    let path = convert(dir.path(), LARGE, false, keep, 2);
    let good = std::fs::read(&path).unwrap();
    let reader = Reader::open(&path).unwrap();
    let groups: Vec<_> = reader.records().iter().filter(|r| r.id.kind == Kind::NeuronGroup).cloned().collect();
    let full = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        verify(&path, &Depth::Full, 2, &NEVER, &Silent).unwrap().problems
    };
    assert_eq!(full(&good), []);
    let mut places = Vec::new();
    let mut bad = good.clone();
    for record in [&groups[0], &groups[700], groups.last().unwrap()] {
        // In the trigger rows, the part of down, and padding at the end.
        bad[record.offset as usize + 5] ^= 1;
        bad[(record.offset + record.length) as usize - 1] ^= 1;
        places.push(record.id.to_string());
    }
    let found: Vec<_> = full(&bad).into_iter().map(|p| p.place).collect();
    assert_eq!(found, places);

    let swapped = {
        let (a, b) = (groups[3].offset as usize, groups[4].offset as usize);
        let length = groups[3].length as usize;
        let mut bytes = good.clone();
        bytes[a..a + length].copy_from_slice(&good[b..b + length]);
        bytes[b..b + length].copy_from_slice(&good[a..a + length]);
        bytes
    };
    let found: Vec<_> = full(&swapped).into_iter().map(|p| p.place).collect();
    assert_eq!(found, ["layer 1 neuron group 3", "layer 1 neuron group 4"]);

    // One weight of down is another in the source: its group, row and column are named, and the rest holds.
    std::fs::write(&path, &good).unwrap();
    let (mut checkpoint, binding) = sparse(dir.path(), LARGE, false);
    let down = checkpoint.tensor("l.1.down").unwrap().range.start;
    let source = dir.path().join("weights.bin");
    let mut bytes = std::fs::read(&source).unwrap();
    let (row, column) = (77u64, 2003u64);
    bytes[(down + (row * LARGE.inner as u64 + column) * 4) as usize] ^= 1;
    std::fs::write(&source, bytes).unwrap();
    checkpoint.files[0].fingerprint = write::fill::fingerprint(&std::fs::metadata(&source).unwrap());
    let plan = Box::new(Plan::with(&checkpoint, &binding, keep).unwrap());
    let found = verify(&path, &Depth::Source { checkpoint: &checkpoint, plan }, 2, &NEVER, &Silent).unwrap().problems;
    let place = reader.manifest.neurons[1].as_ref().unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].place, format!("layer 1 neuron group {}", column as u32 / place.group));
    assert!(found[0].why.ends_with("tensor l.1.down, row 77, column 2003"), "{found:?}");
}

#[test]
fn a_value_that_is_not_finite_is_named() {
    for (tensor, value) in [("l.1.down", f32::NAN), ("l.1.up", f32::INFINITY), ("l.1.gate", f32::NAN)] {
        let dir = tempfile::tempdir().unwrap();
        let (mut checkpoint, binding) = sparse(dir.path(), common::SMALL, false);
        let source = dir.path().join("weights.bin");
        let mut bytes = std::fs::read(&source).unwrap();
        let at = checkpoint.tensor(tensor).unwrap().range.start as usize + 9 * 32 * 4 + 12;
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        std::fs::write(&source, &bytes).unwrap();
        checkpoint.files[0].fingerprint = write::fill::fingerprint(&std::fs::metadata(&source).unwrap());
        let plan = Plan::with(&checkpoint, &binding, choices(Quantize::Keep, Neurons::Auto)).unwrap();
        let error = write::convert(&checkpoint, &plan, &dir.path().join("toy.fby"), &options(2)).unwrap_err().to_string();
        assert!(error.contains(tensor) && error.contains("row 9"), "{error}");
    }
}

/// Claims after every piece.
fn piecemeal(resume: bool, media: &dyn Media) -> write::Options<'_> {
    write::Options { resume, media, group_bytes: 1, ..options(1) }
}

#[test]
fn a_stopped_conversion_is_resumed_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let keep = choices(Quantize::Keep, Neurons::Auto);
    let whole = std::fs::read(convert(dir.path(), LARGE, false, keep, 2)).unwrap();
    let (checkpoint, binding) = sparse(dir.path(), LARGE, false);
    let plan = Plan::with(&checkpoint, &binding, keep).unwrap();
    let out = dir.path().join("stopped.fby");
    let mut resumed = 0;
    for at in (0..).step_by(3) {
        if write::convert(&checkpoint, &plan, &out, &piecemeal(false, &Limited::new(at, || io::Error::other("stopped")))).is_ok() {
            break;
        }
        let report = write::convert(&checkpoint, &plan, &out, &piecemeal(true, &System)).unwrap();
        resumed = resumed.max(report.resumed_bytes);
        assert!(std::fs::read(&out).unwrap() == whole, "stopped at write {at}");
        std::fs::remove_file(&out).unwrap();
    }
    assert!(resumed > 16 << 20, "stopped behind the groups too: {resumed}");
}
