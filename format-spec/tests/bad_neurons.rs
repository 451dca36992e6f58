//! Bad packs with groups of neurons, each with the exact error it must give: a good frozen pack with one thing changed and all hashes made to fit again.

#[path = "bad/editor.rs"]
mod editor;

use editor::{Editor, patch_superblock};
use forebay_format::BundleId;
use forebay_format::layout::index::RECORD_BYTES;
use forebay_format::reference::Reader;
use serde_json::{Value, json};
use std::path::Path;

fn good(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/v1").join(name)).expect("the frozen pack")
}

/// What opening the pack and reading every bundle says.
fn read(bytes: &[u8]) -> Result<(), String> {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("bad.fby");
    std::fs::write(&path, bytes).expect("temporary file");
    let reader = Reader::open(&path).map_err(|e| e.to_string())?;
    reader.records().iter().try_for_each(|r| reader.bundle(r.id).map(drop)).map_err(|e| e.to_string())
}

const FLOAT: &str = "neurons_bf16.fby";
const BLOCKS: &str = "neurons_q8_0.fby";

/// A change of the manifest of a frozen pack.
fn manifest(name: &str, change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut editor = Editor::open(&good(name));
    change(&mut editor.manifest);
    editor.finish()
}

/// A change of layer 1's place.
fn place(name: &str, key: &str, value: Value) -> Vec<u8> {
    manifest(name, |m| m["neurons"][1][key] = value)
}

/// Position of a field of the record of a group in layer 1: layer 0 has a trunk and three groups, layer 1 begins with its trunk.
fn record(group: usize, field: usize) -> usize {
    let header_and_directory = 64 + 3 * 8 * 8;
    header_and_directory + (4 + 1 + group) * RECORD_BYTES + field
}

#[test]
fn every_bad_pack_gives_its_error() {
    for name in [FLOAT, BLOCKS] {
        read(&good(name)).expect("the frozen pack is good");
    }
    let dense = |m: &mut Value, key: &str, value: Value| m["spec"]["layers"][1]["ffn"]["dense"][key] = value;
    let swapped = {
        let mut bytes = good(FLOAT);
        let index = Editor::open(&bytes).index;
        let at = |group| u64::from_le_bytes(index[record(group, 0)..record(group, 8)].try_into().expect("eight bytes")) as usize;
        let (one, two) = (at(0), at(1));
        let first = bytes[one..two].to_vec();
        bytes.copy_within(two..two + first.len(), one);
        bytes[two..two + first.len()].copy_from_slice(&first);
        bytes
    };
    let cases = [
        ("groups of none", place(FLOAT, "group", json!(0)), "layer 1 neuron groups is invalid: groups of 0 of 160 neurons"),
        (
            "groups larger than the layer",
            place(FLOAT, "group", json!(161)),
            "layer 1 neuron groups is invalid: groups of 161 of 160 neurons",
        ),
        (
            "more groups than there are",
            place(FLOAT, "group", json!(32)),
            "layer 1 neuron groups is invalid: 3, but 5 by the number of neurons",
        ),
        (
            "a gate too few",
            manifest(FLOAT, |m| drop(m["neurons"][1].as_object_mut().map(|o| o.remove("gate")))),
            "layer 1 neuron groups is invalid: place and spec disagree on whether there is a gate",
        ),
        (
            "a gate too many",
            manifest(FLOAT, |m| dense(m, "ungated", json!(true))),
            "layer 1 neuron groups is invalid: place and spec disagree on whether there is a gate",
        ),
        (
            "floats in blocks",
            place(FLOAT, "down_order", json!("blocks")),
            "layer 1 neuron groups is invalid: down in bf16 is stored transposed, not in blocks",
        ),
        (
            "blocks transposed",
            place(BLOCKS, "down_order", json!("transposed")),
            "layer 1 neuron groups is invalid: down in q8_0 cannot be transposed: a column has no bytes of its own",
        ),
        (
            "groups that cut blocks",
            place(BLOCKS, "group", json!(80)),
            "layer 1 neuron groups is invalid: groups of 80 neurons cut blocks of down: q8_0 has 32 values in a block",
        ),
        (
            "a type that does not fit the rows",
            place(FLOAT, "up", json!("q4_k")),
            "layer 1 neuron groups is invalid: up rows of 32 values are not whole q4_k blocks",
        ),
        (
            "down off the 64-byte grid",
            place(FLOAT, "down_offset", json!(4100)),
            "layer 1 neuron groups is invalid: down at 4100 of slice 1, behind 4096 bytes of up rows",
        ),
        (
            "down inside the up rows",
            place(FLOAT, "down_offset", json!(4032)),
            "layer 1 neuron groups is invalid: down at 4032 of slice 1, behind 4096 bytes of up rows",
        ),
        (
            "down behind the slice",
            place(FLOAT, "down_offset", json!(4160)),
            "layer 1 neuron group 0 is invalid: 64 neurons of 4096 and 8256 bytes do not fit slices of 4096 and 8192 bytes",
        ),
        (
            "down out of this world",
            place(FLOAT, "down_offset", json!(u64::MAX - 63)),
            "layer 1 neuron groups is invalid: a group of 64 neurons is longer than 8388608 bytes",
        ),
        ("an order from the future", place(FLOAT, "down_order", json!("spiral")), "manifest: unknown variant `spiral`"),
        ("a key from the future", place(FLOAT, "colour", json!(1)), "manifest: unknown field `colour`"),
        (
            "neurons that are never zero",
            manifest(FLOAT, |m| dense(m, "activation", json!("silu"))),
            "layer 1 neuron groups is invalid: the activation is never exactly zero, so no neuron can be left out",
        ),
        (
            "groups without a place",
            manifest(FLOAT, |m| m["neurons"][1] = Value::Null),
            "layer 1 trunk: tensors is invalid: 7, but 9 in the spec",
        ),
        (
            "no places at all",
            manifest(FLOAT, |m| drop(m.as_object_mut().map(|o| o.remove("neurons")))),
            "feature bits is invalid: the bit for neuron groups does not match the pack's contents",
        ),
        ("places of nothing", manifest(FLOAT, |m| m["neurons"] = json!([null, null])), "manifest: neurons is invalid: no layer has any"),
        (
            "places of fewer layers",
            manifest(FLOAT, |m| m["neurons"] = json!([m["neurons"][0].clone()])),
            "manifest: neurons is invalid: 1, but 2 layers in the index",
        ),
        (
            "groups without the bit",
            patch_superblock(&good(FLOAT), 16, &[0]),
            "feature bits is invalid: the bit for neuron groups does not match the pack's contents",
        ),
        (
            "a trunk without its sketch",
            manifest(FLOAT, |m| drop(m["trunk"][1].as_array_mut().map(Vec::pop))),
            "layer 1 trunk: tensors is invalid: 6, but 7 in the spec",
        ),
        (
            "a sketch of another shape",
            manifest(FLOAT, |m| m["trunk"][1][6]["rows"] = json!(159)),
            "layer 1 trunk is invalid: has neuron_sketch [159, 32] where the spec needs neuron_sketch [160, 32]",
        ),
        ("two groups swapped", swapped, "checksum of layer 1 neuron group 0 does not match"),
    ];
    let mut wrong = String::new();
    for (name, bytes, expected) in cases {
        let error = read(&bytes).err().unwrap_or_else(|| "read without an error".into());
        if !error.contains(expected) || expected.is_empty() {
            wrong += &format!("{name}\n  expected: {expected}\n  got:      {error}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn a_flipped_bit_is_named_by_its_group() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("flipped.fby");
    std::fs::write(&path, good(FLOAT)).expect("temporary file");
    let record = Reader::open(&path).expect("a good pack").index.get(BundleId::neurons(0, 2)).expect("a group").clone();
    let mut bytes = good(FLOAT);
    bytes[record.offset as usize + 1] ^= 1;
    let error = read(&bytes).expect_err("damaged");
    assert!(error.contains("layer 0 neuron group 2"), "{error}");
}
