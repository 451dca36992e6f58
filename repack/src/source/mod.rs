//! Checkpoint sources: what tensors a download holds and where their bytes are. Reads headers only.

use crate::error::Result;
use forebay_format::QuantType;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Element type of a source tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// A type that a pack can hold; its bytes move unchanged.
    Weight(QuantType),
    /// Anything else, by the source's own name (`F8_E4M3`, `I32`, `IQ2_XS`, ...).
    Other {
        /// Name in messages.
        name: &'static str,
        /// Values in a block.
        block_len: u32,
        /// Bytes in a block.
        block_bytes: u32,
    },
}

/// One tensor of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Name in the source.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Shape, outermost dimension first (GGUF's order is reversed on reading). A row is the last dimension.
    pub shape: Vec<u64>,
    /// Which of [`Checkpoint::files`].
    pub file: usize,
    /// Bytes in that file. Checked: inside the file, of the size that type and shape need, overlapping no other tensor.
    pub range: Range<u64>,
}

impl Tensor {
    /// Values in a row (the last dimension; 1 for a scalar).
    pub fn cols(&self) -> u64 {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows (all other dimensions together).
    pub fn rows(&self) -> u64 {
        self.shape.iter().rev().skip(1).product()
    }
}

/// A file of the checkpoint that holds weights.
#[derive(Clone, Debug)]
pub struct WeightFile {
    /// Where it is (symlinks resolved).
    pub path: PathBuf,
    /// Name without directories, as the user sees it.
    pub name: String,
    /// Identity at the time the header was read: a change later is an error.
    pub fingerprint: Fingerprint,
    /// The header's bytes are `0..header_bytes`.
    pub header_bytes: u64,
    /// BLAKE3 of the header.
    pub header_blake3: [u8; 32],
}

/// What says that a file is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Length.
    pub bytes: u64,
    /// Modification time, ns.
    pub mtime_ns: i128,
    /// Status change time, ns.
    pub ctime_ns: i128,
}

/// A metadata value of a GGUF file.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    /// Any unsigned integer or bool.
    Uint(u64),
    /// Any signed integer.
    Int(i64),
    /// f32 or f64.
    Float(f64),
    /// String.
    Text(String),
    /// Bool.
    Bool(bool),
    /// Array.
    Array(Vec<GgufValue>),
}

/// What the source says about the model besides its tensors.
#[derive(Clone, Debug)]
pub enum Meta {
    /// A Hugging Face directory.
    HuggingFace {
        /// `config.json`.
        config: serde_json::Value,
        /// `tokenizer.json`, verbatim.
        tokenizer: Option<String>,
        /// `tokenizer_config.json`.
        tokenizer_config: Option<serde_json::Value>,
        /// `generation_config.json`.
        generation_config: Option<serde_json::Value>,
        /// `chat_template.jinja`, if the directory has one.
        chat_template: Option<String>,
    },
    /// GGUF key-value pairs in file order (of the first part of a split).
    Gguf(Vec<(String, GgufValue)>),
}

/// A checkpoint: headers read and validated, weights untouched.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// What the user named.
    pub path: PathBuf,
    /// Files with weights.
    pub files: Vec<WeightFile>,
    /// Tensors, in file order.
    pub tensors: Vec<Tensor>,
    /// Position in `tensors` by name.
    pub by_name: HashMap<String, usize>,
    /// Everything else.
    pub meta: Meta,
    /// Small files read whole (config, tokenizer, index): name and bytes, for provenance.
    pub small_files: Vec<(String, Vec<u8>)>,
}

impl Checkpoint {
    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }
}

/// Opens a Hugging Face directory, a `model.safetensors[.index.json]` inside one, or a GGUF file (any part of a split).
pub fn open(path: &Path) -> Result<Checkpoint> {
    let _ = path;
    unimplemented!("source helper")
}
