//! Small checkpoints, right and wrong, byte by byte.

use std::fs;
use std::path::{Path, PathBuf};

/// A safetensors file with this header text and `data` bytes of data.
pub fn safetensors_raw(header: impl AsRef<[u8]>, data: usize) -> Vec<u8> {
    let header = header.as_ref();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header);
    bytes.extend((0..data).map(|i| i as u8));
    bytes
}

/// One entry of a safetensors header.
pub fn entry(name: &str, dtype: &str, shape: &str, from: u64, to: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}"#)
}

/// A safetensors file of these entries.
pub fn safetensors(entries: &[String], data: usize) -> Vec<u8> {
    safetensors_raw(format!("{{{}}}", entries.join(",")), data)
}

/// A valid file with tensors of two F32 values each.
pub fn valid_safetensors(names: &[&str]) -> Vec<u8> {
    let entries: Vec<_> = names.iter().zip(0u64..).map(|(n, i)| entry(n, "F32", "[2]", 8 * i, 8 * i + 8)).collect();
    safetensors(&entries, 8 * names.len())
}

/// Writes files into `dir`, with a plain `config.json` if there is none among them, and returns `dir`.
pub fn directory(dir: &Path, files: &[(&str, &[u8])]) -> PathBuf {
    if !files.iter().any(|(name, _)| *name == "config.json") {
        fs::write(dir.join("config.json"), br#"{"model_type":"llama"}"#).unwrap();
    }
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
    }
    dir.to_path_buf()
}

/// A directory with one weight file.
pub fn single(dir: &Path, weights: &[u8]) -> PathBuf {
    directory(dir, &[("model.safetensors", weights)])
}

/// A directory with valid weights and one other file.
pub fn beside(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    directory(dir, &[("model.safetensors", &valid_safetensors(&["a"])), (name, bytes)])
}

/// A directory with two shards, `x` in the first and `y` in the second, and this index.
pub fn sharded(dir: &Path, index: impl AsRef<[u8]>) -> PathBuf {
    let (one, two) = (valid_safetensors(&["x"]), valid_safetensors(&["y"]));
    directory(
        dir,
        &[
            ("model-00001-of-00002.safetensors", &one),
            ("model-00002-of-00002.safetensors", &two),
            ("model.safetensors.index.json", index.as_ref()),
        ],
    )
}

/// An index with this `weight_map`.
pub fn index(map: &[(&str, &str)]) -> String {
    let entries: Vec<_> = map.iter().map(|(t, s)| format!("{}:{}", serde_json::json!(t), serde_json::json!(s))).collect();
    format!(r#"{{"metadata":{{"total_size":16}},"weight_map":{{{}}}}}"#, entries.join(","))
}

/// The right index for [`sharded`].
pub fn right_index() -> String {
    index(&[("x", "model-00001-of-00002.safetensors"), ("y", "model-00002-of-00002.safetensors")])
}

/// A GGUF string.
pub fn text(s: impl AsRef<[u8]>) -> Vec<u8> {
    [&(s.as_ref().len() as u64).to_le_bytes(), s.as_ref()].concat()
}

/// A key-value pair: key, type id, value as bytes.
pub fn pair(key: impl AsRef<[u8]>, kind: u32, value: &[u8]) -> Vec<u8> {
    [&text(key), &kind.to_le_bytes()[..], value].concat()
}

/// `general.architecture`, which every file needs.
pub fn architecture() -> Vec<u8> {
    pair("general.architecture", 8, &text("llama"))
}

/// An unsigned 32-bit value.
pub fn pair_u32(key: &str, value: u32) -> Vec<u8> {
    pair(key, 4, &value.to_le_bytes())
}

/// An array value: element type, count, elements as bytes.
pub fn array(kind: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), elements].concat()
}

/// A tensor descriptor.
pub fn tensor(name: impl AsRef<[u8]>, dimensions: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let dimensions_bytes: Vec<u8> = dimensions.iter().flat_map(|d| d.to_le_bytes()).collect();
    [&text(name), &(dimensions.len() as u32).to_le_bytes()[..], &dimensions_bytes, &kind.to_le_bytes(), &offset.to_le_bytes()].concat()
}

/// A GGUF file; change fields to break it.
pub struct Gguf {
    pub magic: [u8; 4],
    pub version: u32,
    pub counts: Option<(u64, u64)>,
    pub pairs: Vec<Vec<u8>>,
    pub tensors: Vec<Vec<u8>>,
    pub alignment: usize,
    pub data: usize,
}

impl Gguf {
    /// A valid file: the architecture, an F32 tensor `a` of 8 values and a Q8_0 tensor `b` of 2 x 32.
    pub fn valid() -> Self {
        let tensors = vec![tensor("a", &[8], 0, 0), tensor("b", &[32, 2], 8, 32)];
        Self { magic: *b"GGUF", version: 3, counts: None, pairs: vec![architecture()], tensors, alignment: 32, data: 32 + 68 }
    }

    pub fn with_pair(mut self, pair: Vec<u8>) -> Self {
        self.pairs.push(pair);
        self
    }

    /// The tensors are these, with 100 bytes of data.
    pub fn with_tensors(mut self, tensors: &[Vec<u8>]) -> Self {
        self.tensors = tensors.to_vec();
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let (tensors, pairs) = self.counts.unwrap_or((self.tensors.len() as u64, self.pairs.len() as u64));
        let mut bytes = self.magic.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(pairs.to_le_bytes());
        bytes.extend(self.pairs.concat());
        bytes.extend(self.tensors.concat());
        bytes.resize(bytes.len().next_multiple_of(self.alignment), 0);
        bytes.extend((0..self.data).map(|i| i as u8));
        bytes
    }

    /// Writes the file as `m.gguf`.
    pub fn write(&self, dir: &Path) -> PathBuf {
        self.write_as(dir, "m.gguf")
    }

    pub fn write_as(&self, dir: &Path, name: &str) -> PathBuf {
        fs::write(dir.join(name), self.bytes()).unwrap();
        dir.join(name)
    }
}

/// Part `no` (from 0) of a split in `count` parts with one F32 tensor of 8 values.
pub fn part(no: u16, count: u16, total: i32, name: &str) -> Gguf {
    let mut gguf = Gguf::valid().with_tensors(&[tensor(name, &[8], 0, 0)]);
    gguf.pairs = vec![
        architecture(),
        pair("split.no", 2, &no.to_le_bytes()),
        pair("split.count", 2, &count.to_le_bytes()),
        pair("split.tensors.count", 5, &total.to_le_bytes()),
    ];
    gguf
}
