//! Unusual but right: all of this must open. And what must be noticed after opening.

use super::build::*;
use super::directory_cases::hub_cache;
use forebay_repack::Error;
use forebay_repack::source::{self, Checkpoint, Dtype, GgufValue, Meta, Reader};
use std::fs;
use std::path::Path;

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn open(path: &Path) -> Checkpoint {
    source::open(path).unwrap_or_else(|e| panic!("{e}"))
}

fn open_safetensors(bytes: &[u8]) -> Checkpoint {
    open(&single(temp().path(), bytes))
}

fn open_gguf(gguf: &Gguf) -> Checkpoint {
    open(&gguf.write(temp().path()))
}

#[test]
fn safetensors_headers() {
    for padding in 0..8 {
        let header = format!("{{{}}}{}", entry("a", "F32", "[2]", 0, 8), " ".repeat(padding));
        let checkpoint = open_safetensors(&safetensors_raw(&header, 8));
        let at = 8 + header.len() as u64;
        assert_eq!((checkpoint.tensors[0].range.clone(), checkpoint.files[0].header_bytes), (at..at + 8, at));
    }
    assert!(open_safetensors(&safetensors_raw("{}", 0)).tensors.is_empty());
    // A header whose length spells the magic of gzip.
    let header = format!("{{{}}}", entry("a", "F32", "[2]", 0, 8));
    let padded = format!("{header}{}", " ".repeat(0x08_8b1f - header.len()));
    assert_eq!(open_safetensors(&safetensors_raw(padded, 8)).tensors.len(), 1);
}

#[test]
fn safetensors_shapes_and_types() {
    let entries = [
        entry("scalar", "I64", "[]", 0, 8),
        entry("empty", "BF16", "[0,18446744073709551615]", 8, 8),
        entry("deep", "U8", "[1,1,1,1,1,1,1,2]", 8, 10),
        entry("half bytes", "F4", "[3,2]", 10, 13),
        entry("six bits", "F6_E2M3", "[4]", 13, 16),
    ];
    let checkpoint = open_safetensors(&safetensors(&entries, 16));
    let shape = |name: &str| checkpoint.tensor(name).map(|t| (t.rows(), t.cols(), t.bytes()));
    assert_eq!(shape("scalar"), Some((1, 1, 8)));
    assert_eq!(shape("empty"), Some((0, u64::MAX, 0)));
    assert_eq!(shape("deep"), Some((1, 2, 2)));
    assert_eq!(checkpoint.tensor("half bytes").unwrap().row_bytes(), Some(1));
    assert_eq!(checkpoint.tensor("six bits").unwrap().dtype, Dtype::Other { name: "F6_E2M3", block_len: 4, block_bytes: 3 });
    // In the order of the data, not of the header.
    let names: Vec<_> = open_safetensors(&safetensors(&[entry("b", "U8", "[1]", 1, 2), entry("a", "U8", "[1]", 0, 1)], 2)).tensors;
    assert_eq!(names.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn shards_of_any_name() {
    let dir = temp();
    let (one, two) = (valid_safetensors(&["x"]), valid_safetensors(&["y"]));
    let map = index(&[("x", "model.safetensors-00001-of-00002.safetensors"), ("y", "extra weights.safetensors")]);
    let files: [(&str, &[u8]); 4] = [
        ("model.safetensors-00001-of-00002.safetensors", &one),
        ("extra weights.safetensors", &two),
        ("model.safetensors.index.json", map.as_bytes()),
        ("unrelated.safetensors", b"not opened"),
    ];
    let path = directory(dir.path(), &files);
    let checkpoint = open(&path);
    assert_eq!(checkpoint.files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["extra weights.safetensors", files[0].0]);
    assert_eq!(checkpoint.tensors[checkpoint.by_name["x"]].file, 1);
    assert_eq!(open(&path.join("extra weights.safetensors")).tensors, checkpoint.tensors);
    let names: Vec<_> = checkpoint.small_files.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["config.json", "model.safetensors.index.json"]);
}

#[test]
fn hub_cache_layouts() {
    let dir = temp();
    let model = hub_cache(dir.path(), "abc");
    let tensors = open(&model).tensors;
    assert_eq!(tensors.len(), 1);
    assert_eq!(open(&model.join("snapshots/abc")).tensors, tensors);
    assert_eq!(open(&model.join("snapshots/abc/model.safetensors")).tensors, tensors);
    fs::remove_file(model.join("refs/main")).unwrap();
    let checkpoint = open(&model);
    assert_eq!(checkpoint.files[0].name, "model.safetensors");
    assert!(checkpoint.files[0].path.ends_with("models--o--n/blobs/b2"));
    Reader::open(&checkpoint).unwrap();
}

#[test]
fn links_inside_the_directory() {
    let dir = temp();
    directory(dir.path(), &[("real", &valid_safetensors(&["a"]))]);
    std::os::unix::fs::symlink("real", dir.path().join("model.safetensors")).unwrap();
    assert_eq!(open(dir.path()).tensors.len(), 1);
}

fn template(files: &[(&str, &[u8])]) -> Option<String> {
    let dir = temp();
    let path = single(dir.path(), &valid_safetensors(&["a"]));
    match open(&directory(&path, files)).meta {
        Meta::HuggingFace { chat_template, .. } => chat_template,
        Meta::Gguf(_) => panic!(),
    }
}

#[test]
fn chat_templates() {
    let config = ("tokenizer_config.json", &br#"{"chat_template":"from config"}"#[..]);
    let list = br#"{"chat_template":[{"name":"rag","template":"no"},{"name":"default","template":"yes"}]}"#;
    assert_eq!(template(&[config]).as_deref(), Some("from config"));
    assert_eq!(template(&[config, ("chat_template.jinja", b"from file")]).as_deref(), Some("from file"));
    assert_eq!(template(&[("tokenizer_config.json", list)]).as_deref(), Some("yes"));
    assert_eq!(template(&[("chat_template.json", br#"{"chat_template":"old"}"#)]).as_deref(), Some("old"));
    assert_eq!(template(&[("tokenizer_config.json", br#"{"chat_template":null}"#)]), None);
    assert_eq!(template(&[]), None);
}

#[test]
fn gguf_versions_keys_and_alignments() {
    let mut gguf = Gguf::valid();
    gguf.version = 2;
    assert_eq!(open_gguf(&gguf).tensors.len(), 2);
    for alignment in [1usize, 8, 64, 4096] {
        let mut gguf = Gguf::valid().with_pair(pair_u32("general.alignment", alignment as u32));
        gguf.alignment = alignment;
        gguf.tensors = vec![tensor("t", &[8], 0, alignment as u64)];
        gguf.data = alignment + 32;
        let checkpoint = open_gguf(&gguf);
        assert_eq!(checkpoint.tensors[0].range.end, gguf.bytes().len() as u64, "alignment {alignment}");
    }
    let pairs = [
        (pair_u32("gpt-oss.expert_count", 128), GgufValue::Uint(128)),
        (pair("i", 11, &(-5i64).to_le_bytes()), GgufValue::Int(-5)),
        (pair("f", 6, &0.5f32.to_le_bytes()), GgufValue::Float(0.5)),
        (pair("b", 7, &[1]), GgufValue::Bool(true)),
        (pair("a", 9, &array(3, 2, &[1, 0, 255, 255])), GgufValue::Array(vec![GgufValue::Int(1), GgufValue::Int(-1)])),
        (pair("s", 8, &text("text")), GgufValue::Text("text".into())),
        (pair("empty", 9, &array(8, 0, &[])), GgufValue::Array(vec![])),
    ];
    let mut gguf = Gguf::valid();
    gguf.pairs.extend(pairs.iter().map(|(bytes, _)| bytes.clone()));
    let Meta::Gguf(read) = open_gguf(&gguf).meta else { panic!() };
    assert!(read.iter().skip(1).map(|(_, v)| v).eq(pairs.iter().map(|(_, v)| v)));
    assert_eq!(read[1].0, "gpt-oss.expert_count");
}

#[test]
fn gguf_tensors() {
    let mut gguf = Gguf::valid();
    // Out of order, with a hole, an empty tensor in another's place, and a type that a pack cannot hold.
    gguf.tensors = vec![tensor("late", &[8], 0, 128), tensor("one", &[256], 41, 0), tensor("none", &[8, 0], 0, 0)];
    gguf.data = 128 + 32;
    let checkpoint = open_gguf(&gguf);
    let names: Vec<_> = checkpoint.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["none", "one", "late"]);
    assert_eq!(checkpoint.tensors[1].dtype, Dtype::Other { name: "Q1_0", block_len: 128, block_bytes: 18 });
    let valid = open_gguf(&Gguf::valid());
    assert_eq!(valid.tensor("b").map(|t| (t.shape.clone(), t.bytes())), Some((vec![2, 32], 68)));
    gguf.tensors = vec![];
    gguf.data = 0;
    assert!(open_gguf(&gguf).tensors.is_empty());
}

#[test]
fn gguf_splits() {
    let dir = temp();
    let first = part(0, 2, 2, "a").write_as(dir.path(), "m-00001-of-00002.gguf");
    let second = part(1, 2, 2, "b").write_as(dir.path(), "m-00002-of-00002.gguf");
    let (one, two) = (open(&first), open(&second));
    assert_eq!(one.tensors, two.tensors);
    assert_eq!(one.files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(), ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]);
    assert_eq!((one.tensors[0].file, one.tensors[1].file), (0, 1));
    // A merged file keeps the key.
    assert_eq!(open_gguf(&Gguf::valid().with_pair(pair("split.count", 2, &[0, 0]))).tensors.len(), 2);
}

#[test]
fn changes_after_opening_are_noticed() {
    let dir = temp();
    let path = single(dir.path(), &valid_safetensors(&["a"]));
    let weights = path.join("model.safetensors");
    let checkpoint = open(&path);
    let reader = Reader::open(&checkpoint).unwrap();
    let mut bytes = [0u8; 8];
    reader.read_exact_at(&checkpoint.tensors[0], 0, &mut bytes).unwrap();
    assert_eq!(bytes, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert!(matches!(reader.read_exact_at(&checkpoint.tensors[0], 1, &mut bytes), Err(Error::Malformed { .. })));
    checkpoint.check_unchanged().unwrap();
    // Replaced by another file of the same bytes.
    fs::copy(&weights, path.join("copy")).unwrap();
    fs::rename(path.join("copy"), &weights).unwrap();
    assert!(matches!(checkpoint.check_unchanged(), Err(Error::SourceChanged { .. })));
    assert!(matches!(Reader::open(&checkpoint), Err(Error::SourceChanged { .. })));
    // Cut short under an open reader.
    let checkpoint = open(&path);
    let reader = Reader::open(&checkpoint).unwrap();
    fs::OpenOptions::new().write(true).open(&weights).unwrap().set_len(60).unwrap();
    assert!(matches!(reader.read_exact_at(&checkpoint.tensors[0], 0, &mut bytes), Err(Error::SourceChanged { .. })));
    fs::remove_file(&weights).unwrap();
    assert!(matches!(checkpoint.check_unchanged(), Err(Error::SourceChanged { .. })));
}
