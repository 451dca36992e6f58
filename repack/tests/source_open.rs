//! Every checkpoint among the oracles and models opens, and its weights can be read.

use forebay_repack::source::{self, Dtype, Meta, Reader};
use std::path::PathBuf;

/// `../shared`, or what `FOREBAY_SHARED` names; `None` (said on stderr) where it does not exist.
fn shared(part: &str) -> Option<PathBuf> {
    let root =
        std::env::var_os("FOREBAY_SHARED").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let path = root.join(part);
    if path.exists() {
        return Some(path);
    }
    drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("SKIP: {} does not exist\n", path.display())));
    None
}

/// Reads the last row of each tensor and compares sizes.
fn check(path: &std::path::Path) -> source::Checkpoint {
    let checkpoint = source::open(path).unwrap_or_else(|e| panic!("{e}"));
    let reader = Reader::open(&checkpoint).unwrap();
    let mut row = Vec::new();
    for (position, tensor) in checkpoint.tensors.iter().enumerate() {
        assert_eq!(checkpoint.by_name.get(&tensor.name), Some(&position));
        assert_eq!(tensor.dtype.bytes_of(&tensor.shape), Some(tensor.bytes()), "{}", tensor.name);
        reader.read_rows(tensor, tensor.rows() - 1, 1, &mut row).unwrap();
        assert_eq!(Some(row.len() as u64), tensor.row_bytes());
        assert!(reader.read_rows(tensor, tensor.rows(), 1, &mut row).is_err());
    }
    checkpoint.check_unchanged().unwrap();
    checkpoint
}

#[test]
fn oracles_open() {
    let Some(root) = shared("oracles") else { return };
    let (mut directories, mut ggufs) = (0, 0);
    for entry in std::fs::read_dir(root).unwrap() {
        let dir = entry.unwrap().path();
        if !dir.join("config.json").exists() {
            continue;
        }
        directories += 1;
        let checkpoint = check(&dir);
        let Meta::HuggingFace { config, tokenizer, tokenizer_config, generation_config, .. } = &checkpoint.meta else { panic!() };
        assert!(config["model_type"].is_string() && tokenizer.is_some() && tokenizer_config.is_some() && generation_config.is_some());
        assert!(checkpoint.tensors.iter().any(|t| matches!(t.dtype, Dtype::Weight(_))));
        for name in std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()) {
            let file_name = name.file_name().unwrap().to_str().unwrap().to_owned();
            if file_name.ends_with(".gguf") {
                ggufs += 1;
                assert!(matches!(check(&name).meta, Meta::Gguf(_)));
            }
            // Any shard and the index stand for the same checkpoint.
            if file_name.starts_with("model") && file_name.contains("safetensors") {
                assert_eq!(check(&name).tensors, checkpoint.tensors);
            }
        }
    }
    assert!(directories >= 18 && ggufs >= 40, "{directories} directories, {ggufs} GGUF files");
}

#[test]
fn models_open() {
    let Some(root) = shared("models") else { return };
    let checkpoint = check(&root.join("q35-moe-45m"));
    assert_eq!(checkpoint.files.len(), 7);
    let Meta::HuggingFace { chat_template, .. } = &checkpoint.meta else { panic!() };
    assert!(chat_template.as_deref().is_some_and(|t| t.contains("im_start")));
    check(&root.join("relu-llama-19m"));
}

#[test]
fn vocabularies_open() {
    let Some(root) = shared("vocab") else { return };
    for entry in std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()) {
        if entry.extension().is_some_and(|e| e == "gguf") {
            assert!(check(&entry).tensors.is_empty());
        }
    }
}

#[test]
fn the_demo_model_opens() {
    let checkpoint = check(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../demo/pocket-moe-10m-q8_0.gguf"));
    assert!(!checkpoint.tensors.is_empty());
}

/// Name, type, shape, position and size of every tensor equal what the `gguf` Python package reads.
#[test]
fn gguf_tensors_equal_the_python_package() {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let golden = std::fs::read_to_string(manifest.join("tests/golden/gguf_tensors.tsv")).unwrap();
    let (mut files, mut tensors) = (0, 0);
    for section in golden.split("\n# ").skip(1) {
        let mut lines = section.lines();
        let file = lines.next().unwrap();
        let path = if file.starts_with("demo/") { manifest.join("..").join(file) } else { shared(file).unwrap_or_default() };
        if path.as_os_str().is_empty() {
            continue; // said so
        }
        let checkpoint = check(&path);
        let mut expected = 0;
        for line in lines {
            let fields: Vec<_> = line.split('\t').collect();
            let &[name, dtype, shape, position, bytes] = fields.as_slice() else { panic!("{line}") };
            let tensor = checkpoint.tensor(name).unwrap_or_else(|| panic!("{file}: {name} is missing"));
            let ours = tensor.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
            assert_eq!(tensor.dtype.name().to_uppercase(), dtype, "{file}: {name}");
            assert_eq!(
                (ours.as_str(), tensor.range.start.to_string().as_str(), tensor.bytes().to_string().as_str()),
                (shape, position, bytes),
                "{file}: {name}"
            );
            expected += 1;
        }
        assert_eq!(checkpoint.tensors.len(), expected, "{file}");
        (files, tensors) = (files + 1, tensors + expected);
    }
    assert!(files >= 1 && tensors > 50, "{files} files, {tensors} tensors");
}
