//! Bad packs, each with the exact error it must give. Every one is a good frozen pack with one thing changed and, unless the damage is
//! the point, all hashes made to fit again.

#[path = "bad/editor.rs"]
mod editor;

use editor::{Editor, patch_superblock};
use forebay_format::layout::index::{CELL_BYTES, HEADER_BYTES, KINDS, LAYOUT_BYTES, RECORD_BYTES, SLICE_BYTES};
use forebay_format::reference::Reader;
use forebay_format::{BundleId, Kind};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

fn good() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/v1/hybrid_moe_bf16.fby")).expect("the frozen pack")
}

/// A change made through the editor.
fn edited(change: impl FnOnce(&mut Editor)) -> Vec<u8> {
    let mut editor = Editor::open(&good());
    change(&mut editor);
    editor.finish()
}

/// A change of bytes of the superblock, hash and copy made to fit.
fn superblock(at: usize, bytes: &[u8]) -> Vec<u8> {
    patch_superblock(&good(), at, bytes)
}

/// A change of bytes of the index section.
fn index(at: usize, bytes: &[u8]) -> Vec<u8> {
    edited(|e| e.index[at..at + bytes.len()].copy_from_slice(bytes))
}

/// A change of the manifest.
fn manifest(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    edited(|e| change(&mut e.manifest))
}

/// The same in a pack that says that it has interleaved rows.
fn tiled_manifest(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    patch_superblock(&manifest(change), 16, &[1 | 4])
}

/// Damage without repair.
fn damaged(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = good();
    change(&mut bytes);
    bytes
}

/// The toy has 2 layers; its records are trunk 0, experts 0..4, trunk 1, experts 0..4, embedding, head.
const RECORDS: usize = HEADER_BYTES + 3 * KINDS * CELL_BYTES;
const RECORD_COUNT: usize = 12;

fn record(i: usize, field: usize) -> usize {
    RECORDS + i * RECORD_BYTES + field
}

fn layouts() -> usize {
    RECORDS + RECORD_COUNT * RECORD_BYTES
}

fn slices() -> usize {
    let layouts_count = u32::from_le_bytes(Editor::open(&good()).index[16..20].try_into().expect("four bytes"));
    layouts() + layouts_count as usize * LAYOUT_BYTES
}

fn end_of_file() -> u64 {
    good().len() as u64
}

/// What opening the pack and reading every bundle says.
fn read(bytes: &[u8]) -> Result<(), String> {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("bad.fby");
    std::fs::write(&path, bytes).expect("temporary file");
    let reader = Reader::open(&path).map_err(|e| e.to_string())?;
    reader.records().iter().try_for_each(|r| reader.bundle(r.id).map(drop)).map_err(|e| e.to_string())
}

type Case = (&'static str, Vec<u8>, &'static str);

fn superblock_cases() -> Vec<Case> {
    let far = u64::MAX.to_le_bytes();
    vec![
        ("empty file", vec![], "not a Forebay pack (the first bytes are not its magic number)"),
        (
            "shorter than a superblock",
            damaged(|b| b.truncate(4095)),
            "superblock needs 4096 bytes, but only 4095 are there (truncated file?)",
        ),
        (
            "another program's file",
            damaged(|b| b[..8].copy_from_slice(b"GGUF\x03\0\0\0")),
            "checksum of the superblock (its copy at the end of the file is whole) does not match",
        ),
        ("copied in text mode", damaged(|b| b[4..].rotate_left(1)), "not a Forebay pack (the first bytes are not its magic number)"),
        ("next major version", superblock(8, &[2]), "pack format version 2.0 is not supported; this program reads 1.x"),
        (
            "one flipped bit in the superblock",
            damaged(|b| b[70] ^= 1),
            "checksum of the superblock (its copy at the end of the file is whole) does not match",
        ),
        (
            "one flipped bit in the copy",
            damaged(|b| b.last_mut().map(|x| *x ^= 1).unwrap_or_default()),
            "checksum of the superblock's copy at the end of the file (the first one is whole) does not match",
        ),
        (
            "both superblocks damaged",
            damaged(|b| [70, b.len() - 4096 + 70].iter().for_each(|&i| b[i] ^= 1)),
            "checksum of the superblock does not match",
        ),
        ("a required feature from the future", superblock(16 + 5, &[1]), "the pack needs a feature this program does not know: bit 40"),
        (
            "the bit for neuron groups without any",
            superblock(16, &[3]),
            "feature bits is invalid: the bit for neuron groups does not match the pack's contents",
        ),
        ("wrong superblock length", superblock(12, &8192u32.to_le_bytes()), "superblock length is invalid: 8192 is not 4096"),
        ("alignment 512", superblock(32, &512u32.to_le_bytes()), "alignment is invalid: 512 is neither 4096 nor 16384"),
        ("chunks of 4 KiB", superblock(36, &4096u32.to_le_bytes()), "chunk length is invalid: 4096 is not a power of two in 64..256 KiB"),
        (
            "chunks of 100,000 bytes",
            superblock(36, &100_000u32.to_le_bytes()),
            "chunk length is invalid: 100000 is not a power of two in 64..256 KiB",
        ),
        (
            "last page missing",
            damaged(|b| b.truncate(b.len() - 4096)),
            "the file needs 159744 bytes, but only 155648 are there (truncated file?)",
        ),
        (
            "trailing junk",
            damaged(|b| b.extend_from_slice(&[0; 4096])),
            "the file is invalid: is 163840 bytes long, but the pack ends at 159744 (something was appended)",
        ),
        ("a reserved byte in front of the sections", superblock(100, &[1]), "superblock is invalid: reserved bytes are not zero"),
        ("a reserved byte behind the sections", superblock(4000, &[1]), "superblock is invalid: reserved bytes are not zero"),
        ("sections in the wrong order", superblock(128, &[2]), "section table is invalid: entry 0 has kind 2, not 1"),
        ("unaligned section", superblock(192 + 8, &[1]), "index section is invalid: offset 143361 is not aligned to 4096"),
        (
            "section behind the end",
            superblock(192 + 8, &(end_of_file() - 4096).to_le_bytes()),
            "index section is invalid: 1488 bytes at 155648 do not lie inside the file",
        ),
        (
            "section whose end overflows",
            superblock(192 + 16, &far),
            "index section is invalid: 18446744073709551615 bytes at 143360 do not lie inside the file",
        ),
        (
            "overlapping sections",
            superblock(128 + 8, &Editor::open(&good()).superblock.index.offset.to_le_bytes()),
            "sections is invalid: two of them overlap",
        ),
        (
            "manifest that expands beyond the limit",
            superblock(128 + 24, &(1u64 << 40).to_le_bytes()),
            "manifest is 1099511627776, the limit is 268435456",
        ),
        (
            "manifest of another length than promised",
            superblock(128 + 24, &100u64.to_le_bytes()),
            "manifest: cannot be decompressed to the 100 bytes that the superblock promises",
        ),
        ("weights of another identity", superblock(64, &[0; 32]), "checksum of the content id does not match"),
    ]
}

fn index_cases() -> Vec<Case> {
    let at_index = Editor::open(&good()).superblock.index.offset as usize;
    vec![
        ("one flipped bit in the index", damaged(|b| b[at_index + 200] ^= 4), "checksum of the index section does not match"),
        ("index without its magic", index(0, b"FBYINDEY"), "index is invalid: does not start with FBYINDEX"),
        ("counts that do not add up", index(12, &13u32.to_le_bytes()), "index is invalid: its counts do not add up to its 1488 bytes"),
        ("sums whose size overflows", index(24, &u64::MAX.to_le_bytes()), "index is invalid: its counts do not add up to its 1488 bytes"),
        ("too many layers", index(8, &1025u32.to_le_bytes()), "number of layers is 1025, the limit is 1024"),
        ("a reserved byte in the index header", index(40, &[1]), "index is invalid: reserved bytes are not zero"),
        ("a reserved byte in a record", index(record(1, 40), &[1]), "index record is invalid: reserved bytes are not zero"),
        ("unknown kind", index(record(1, 28), &[7]), "index record is invalid: unknown kind 7"),
        (
            "records out of order",
            index(record(1, 36), &1u32.to_le_bytes()),
            "layer 0 expert 1 is invalid: records are not in canonical order",
        ),
        ("layer that does not exist", index(record(0, 32), &9u32.to_le_bytes()), "layer 9 trunk is invalid: no such layer"),
        ("layout that does not exist", index(record(0, 24), &99u32.to_le_bytes()), "layer 0 trunk is invalid: no such layout"),
        ("unaligned bundle", index(record(2, 0), &[1]), "layer 0 expert 1 is invalid: offset 86017 is not aligned to 4096"),
        (
            "bundle of another length than its layout",
            index(record(2, 8), &4096u64.to_le_bytes()),
            "layer 0 expert 1 is invalid: length 4096 is not its layout's",
        ),
        (
            "bundle behind the payload",
            index(record(2, 0), &(end_of_file() - 4096).to_le_bytes()),
            "layer 0 expert 1 is invalid: 8192 bytes at 155648 lie outside the payload",
        ),
        (
            "bundle on the superblock",
            index(record(2, 0), &0u64.to_le_bytes()),
            "layer 0 expert 1 is invalid: 8192 bytes at 0 lie outside the payload",
        ),
        ("two bundles in one place", edited(overlap), "layer 0 expert 1 is invalid: overlaps layer 0 expert 0"),
        (
            "directory that does not match",
            index(HEADER_BYTES + 2 * CELL_BYTES + 4, &3u32.to_le_bytes()),
            "index is invalid: the directory does not match the records",
        ),
        ("sums of another bundle", index(record(3, 16), &0u64.to_le_bytes()), "index is invalid: first_sum does not match the layouts"),
        (
            "layout with a gap between slices",
            index(slices() + SLICE_BYTES * 2, &4096u64.to_le_bytes()),
            "layout 2 is invalid: its slices do not tile it on the alignment",
        ),
        (
            "layout without slices",
            index(layouts() + 12, &0u32.to_le_bytes()),
            "layout 0 is invalid: its slices do not follow those of the layout before",
        ),
        (
            "layout of another length than its slices",
            index(layouts(), &4096u64.to_le_bytes()),
            "layout 0 is invalid: its length is not the sum of its slices",
        ),
        ("slice of no bytes", index(slices() + 8, &0u64.to_le_bytes()), "layout 0 is invalid: its slices do not tile it on the alignment"),
    ]
}

/// Gives expert 1 of layer 0 the place of expert 0.
fn overlap(e: &mut Editor) {
    let (from, to) = (record(1, 0), record(2, 0));
    e.index.copy_within(from..from + 8, to);
}

fn manifest_cases() -> Vec<Case> {
    vec![
        ("manifest that is no object", edited(|e| e.manifest = json!([1])), "manifest: invalid type: integer `1`, expected a string"),
        ("manifest with an unknown key", manifest(|m| m["colour"] = json!("blue")), "manifest: unknown field `colour`"),
        (
            "unknown mechanism",
            manifest(|m| m["spec"]["layers"][0]["mixer"] = json!({ "retention": {} })),
            "manifest: unknown variant `retention`",
        ),
        ("unknown role", manifest(|m| m["head"][0]["role"] = json!("tail")), "manifest: unknown variant `tail`"),
        ("unknown quant type", manifest(|m| m["embedding"][0]["qtype"] = json!("q3_9")), "manifest: unknown variant `q3_9`"),
        (
            "unknown tiling",
            manifest(|m| m["embedding"][0]["tiling"] = json!("hilbert")),
            "manifest: unknown variant `hilbert`, expected `row_major`",
        ),
        (
            "interleaved rows that are looked up",
            tiled_manifest(|m| m["embedding"][0]["tiling"] = json!("dwords_16")),
            "embedding, embedding is invalid: 264 x 32 values of bf16 are not to be interleaved",
        ),
        (
            "interleaved rows that are no tiles",
            tiled_manifest(|m| m["trunk"][0][3]["tiling"] = json!("dwords_16")),
            "layer 0 trunk, delta_b is invalid: 2 x 32 values of bf16 are not to be interleaved",
        ),
        (
            "the bit for interleaved rows without any",
            tiled_manifest(|_| ()),
            "feature bits is invalid: the bit for tiled rows does not match the pack's contents",
        ),
        (
            "interleaved rows of an expert that are no tiles",
            tiled_manifest(|m| {
                m["experts"][0]["tiling"] = json!("dwords_16");
                let slice = &m["experts"][0]["slices"][0]["gate_up"].clone();
                m["experts"][0]["slices"][0]["gate_up"]["rows"] = json!(slice["rows"].as_u64().unwrap_or(0) - 8);
            }),
            "layer 0 expert 0, slice 0 is invalid: 24 x 32 values of bf16 are not to be interleaved",
        ),
        (
            "interleaved rows without their bit",
            manifest(|m| m["experts"][0]["tiling"] = json!("dwords_16")),
            "feature bits is invalid: the bit for tiled rows does not match the pack's contents",
        ),
        (
            "interleaved down rows without the bit",
            manifest(|m| m["experts"][1]["down_tiling"] = json!("dwords_16")),
            "feature bits is invalid: the bit for tiled rows does not match the pack's contents",
        ),
        ("a number where a text belongs", manifest(|m| m["writer"] = json!(7)), "manifest: invalid type: integer `7`, expected a string"),
        (
            "tensor behind its run",
            manifest(|m| m["embedding"][0]["offset"] = json!(1u64 << 32)),
            "embedding, embedding is invalid: 16896 bytes at 4294967296 do not fit the run of 20480",
        ),
        (
            "tensor off the 64-byte grid",
            manifest(|m| m["trunk"][0][1]["offset"] = json!(65)),
            "layer 0 trunk, delta_qkv is invalid: offset 65 is not a multiple of 64",
        ),
        (
            "tensors that overlap",
            manifest(|m| m["trunk"][0][1]["offset"] = json!(0)),
            "layer 0 trunk, delta_qkv is invalid: offset 0 lies inside the tensor before it, which ends at 64",
        ),
        (
            "tensor listed twice",
            manifest(|m| m["trunk"][0][1]["role"] = m["trunk"][0][0]["role"].clone()),
            "layer 0 trunk is invalid: has mixer_norm [64, 32] where the spec needs delta_qkv [64, 32]",
        ),
        ("tensor missing", manifest(|m| m["head"] = json!([])), "head: tensors is invalid: 0, but 2 in the spec"),
        (
            "a matrix of another shape than the spec's",
            manifest(|m| m["embedding"][0]["rows"] = json!(263)),
            "embedding is invalid: has embedding [263, 32] where the spec needs embedding [264, 32]",
        ),
        (
            "fewer layers than the index",
            manifest(|m| m["spec"]["layers"] = json!([m["spec"]["layers"][0].clone()])),
            "manifest: spec.layers is invalid: 1, but 2 layers in the index",
        ),
        (
            "more experts than the index",
            manifest(|m| m["spec"]["layers"][1]["ffn"]["routed"]["experts"] = json!(5)),
            "layer 1 trunk is invalid: has router [4, 32] where the spec needs router [5, 32]",
        ),
        (
            "no place for the experts",
            manifest(|m| m["experts"][1] = Value::Null),
            "layer 1 experts is invalid: places and spec disagree on whether it has any",
        ),
        (
            "slices of other rows",
            manifest(|m| m["experts"][0]["slices"][0]["gate_up"]["rows"] = json!(16)),
            "layer 0 expert 0 is invalid: has 16 of 32 gate/up rows",
        ),
        (
            "up rows inside the gate rows",
            manifest(|m| m["experts"][0]["slices"][0]["gate_up"]["up_offset"] = json!(64)),
            "layer 0 expert 0, slice 0 is invalid: 32 gate and up rows with the up rows at 64 do not fit 4096 bytes",
        ),
        (
            "top-k of zero",
            manifest(|m| m["spec"]["layers"][0]["ffn"]["routed"]["top_k"] = json!(0)),
            "layer 0: experts per token is invalid: 0 of 4 experts",
        ),
        ("a model of no width", manifest(|m| m["spec"]["hidden"] = json!(0)), "hidden is invalid: 0 is not between 1 and 1048576"),
        (
            "key heads that do not divide",
            manifest(|m| m["spec"]["layers"][1]["mixer"]["attention"]["kv_heads"] = json!(3)),
            "layer 1: key/value heads is invalid: 3 does not divide heads (2)",
        ),
        (
            "a norm without epsilon",
            manifest(|m| m["spec"]["final_norm"]["eps"] = json!(-1.0)),
            "final norm epsilon is invalid: -1 is not a number above zero",
        ),
        (
            "a stop token outside the vocabulary",
            manifest(|m| m["generation"]["stop_tokens"] = json!([264])),
            "stop token is invalid: 264 is outside the vocabulary of 264",
        ),
    ]
}

fn payload_cases() -> Vec<Case> {
    let e = Editor::open(&good());
    let offset = |i: usize| u64::from_le_bytes(e.index[record(i, 0)..record(i, 0) + 8].try_into().expect("eight bytes")) as usize;
    let length = u64::from_le_bytes(e.index[record(1, 8)..record(1, 8) + 8].try_into().expect("eight bytes")) as usize;
    let (first, second) = (offset(1), offset(2));
    let swapped = damaged(|b| {
        let expert = b[first..first + length].to_vec();
        b.copy_within(second..second + length, first);
        b[second..second + length].copy_from_slice(&expert);
    });
    vec![
        ("one flipped bit in an expert", damaged(|b| b[second + 100] ^= 16), "checksum of layer 0 expert 1 does not match"),
        ("one flipped bit in a trunk run", damaged(|b| b[offset(0)] ^= 1), "checksum of layer 0 trunk does not match"),
        ("two experts of the same size swapped", swapped, "checksum of layer 0 expert 0 does not match"),
        ("an expert of zeros", damaged(|b| b[second..second + length].fill(0)), "checksum of layer 0 expert 1 does not match"),
    ]
}

#[test]
fn every_bad_pack_gives_its_error() {
    read(&good()).expect("the frozen pack is good");
    let cases: Vec<Case> = [superblock_cases(), index_cases(), manifest_cases(), payload_cases()].concat();
    assert!(cases.len() >= 25, "only {} bad packs", cases.len());
    let mut wrong = String::new();
    for (name, bytes, expected) in cases {
        let start = Instant::now();
        let error = read(&bytes).err().unwrap_or_else(|| "read without an error".into());
        // Hashes differ from one damage to the next; what is named does not.
        if !error.contains(expected) || expected.is_empty() {
            wrong += &format!("{name}\n  expected: {expected}\n  got:      {error}\n");
        }
        assert!(start.elapsed() < Duration::from_secs(1), "{name} took {:?}", start.elapsed());
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn fast_sums_catch_a_swap_as_surely_as_a_flip() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("good.fby");
    std::fs::write(&path, good()).expect("temporary file");
    let reader = Reader::open(&path).expect("a good pack");
    let (pack_id, chunk) = (reader.superblock.pack_id, reader.superblock.chunk_bytes);
    let [one, two] = [0, 1].map(|e| reader.index.get(BundleId { kind: Kind::Expert, layer: 0, ordinal: e }).expect("an expert"));
    let mut bytes = reader.bundle(one.id).expect("readable");
    reader.index.check_sums(one, &pack_id, chunk, &bytes).expect("its own bytes");
    let error = reader.index.check_sums(two, &pack_id, chunk, &bytes).expect_err("another expert's bytes");
    assert!(error.to_string().contains("layer 0 expert 1"), "{error}");
    let error = reader.index.check_sums(one, &[0; 16], chunk, &bytes).expect_err("another pack's bytes");
    assert!(error.to_string().contains("layer 0 expert 0"), "{error}");
    bytes[5] ^= 1;
    reader.index.check_sums(one, &pack_id, chunk, &bytes).expect_err("a flipped bit");
}
