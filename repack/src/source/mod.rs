//! Checkpoint sources: what tensors a download holds and where their bytes are. Reads headers only.

mod file;
mod gguf;
mod huggingface;
mod index;
mod json;
mod reader;
mod safetensors;
mod sniff;
mod split;

use crate::error::{Error, Result};
use forebay_format::QuantType;
pub use reader::Reader;
use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Element type of a source tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// A type that a pack can hold; its bytes move unchanged.
    Weight(QuantType),
    /// Anything else, by the source's own name (`F8_E4M3`, `I32`, `Q1_0`, ...).
    Other {
        /// Name in messages.
        name: &'static str,
        /// Values in a block.
        block_len: u32,
        /// Bytes in a block.
        block_bytes: u32,
    },
}

impl Dtype {
    /// Name in messages: a quant type's own, or the source's.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::Weight(qtype) => qtype.name(),
            Dtype::Other { name, .. } => name,
        }
    }

    /// Values and bytes in a block.
    pub fn block(self) -> (u64, u64) {
        match self {
            Dtype::Weight(qtype) => (qtype.block_len() as u64, qtype.block_bytes() as u64),
            Dtype::Other { block_len, block_bytes, .. } => (block_len.into(), block_bytes.into()),
        }
    }

    /// Bytes of a tensor of this shape; `None` if its values are no whole number of blocks or the size overflows.
    pub fn bytes_of(self, shape: &[u64]) -> Option<u64> {
        // An empty tensor is empty however large its other dimensions are.
        let values = if shape.contains(&0) { 0 } else { shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d))? };
        let (len, bytes) = self.block();
        if !values.is_multiple_of(len) {
            return None;
        }
        values.checked_div(len)?.checked_mul(bytes)
    }
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
        self.shape.iter().rev().skip(1).fold(1, |n, &d| n.saturating_mul(d))
    }

    /// Length of its data in bytes.
    pub fn bytes(&self) -> u64 {
        self.range.end.saturating_sub(self.range.start)
    }

    /// Bytes of a row; `None` if a row is no whole number of blocks.
    pub fn row_bytes(&self) -> Option<u64> {
        self.dtype.bytes_of(&[self.cols()])
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
#[allow(clippy::large_enum_variant)] // one per checkpoint
pub enum Meta {
    /// A Hugging Face directory.
    HuggingFace {
        /// `config.json`.
        config: serde_json::Value,
        /// `tokenizer.json`, verbatim: one JSON object with a `model`; nothing else in it is checked.
        tokenizer: Option<String>,
        /// `tokenizer_config.json`.
        tokenizer_config: Option<serde_json::Value>,
        /// `generation_config.json`.
        generation_config: Option<serde_json::Value>,
        /// `chat_template.jinja`; else the (default) template of `tokenizer_config.json`; else that of `chat_template.json`.
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
        self.by_name.get(name).and_then(|&i| self.tensors.get(i))
    }

    /// Checks that no weight file was changed or replaced since its header was read.
    ///
    /// # Errors
    /// [`Error::SourceChanged`] with the file's name.
    pub fn check_unchanged(&self) -> Result<()> {
        for file in &self.files {
            let same = std::fs::symlink_metadata(&file.path).is_ok_and(|meta| file::fingerprint(&meta) == file.fingerprint);
            if !same {
                return Err(Error::SourceChanged { file: file.path.clone() });
            }
        }
        Ok(())
    }
}

/// Most tensors of a checkpoint. The largest public ones have about 200 000.
const MAX_TENSORS: usize = 500_000;

/// Opens a Hugging Face directory (also `models--org--name` of its cache), a `.safetensors` file or index inside one, or a GGUF file (any part of a split).
/// Reads headers and small files only, and writes nothing.
///
/// # Errors
/// [`Error::Source`] if the files are not there or not what their names say, [`Error::Malformed`] if their content is damaged,
/// [`Error::Unsupported`] if it is of a kind that this program does not read, [`Error::Io`] if the system refuses.
pub fn open(path: &Path) -> Result<Checkpoint> {
    open_as(path, false)
}

/// As [`open`], for planning: of a GGUF file the beginning is enough, as far as its header goes. Reading weights may fail then.
///
/// # Errors
/// As [`open`].
pub fn open_header(path: &Path) -> Result<Checkpoint> {
    open_as(path, true)
}

fn open_as(path: &Path, header_only: bool) -> Result<Checkpoint> {
    let meta = std::fs::metadata(path).map_err(|e| not_found(path, e))?;
    if meta.is_dir() {
        return huggingface::open_dir(path, path);
    }
    let (Some(name), Some(dir)) = (path.file_name().and_then(|n| n.to_str()), path.parent()) else {
        return Err(file::source_error(path, "has a name that is not UTF-8"));
    };
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    if name.ends_with(".safetensors.index.json") {
        return huggingface::open_file(path, dir, name);
    }
    let resolved = std::fs::canonicalize(path).map_err(|e| file::io_error(path, "resolving the path", e))?;
    let opened = file::Opened { header_only, ..file::open_resolved(&resolved, path)? };
    let mut head = [0u8; 32];
    let length = usize::try_from(opened.len()).unwrap_or(usize::MAX).min(head.len());
    let head = head.get_mut(..length).unwrap_or_default();
    opened.file.read_exact_at(head, 0).map_err(|e| opened.io("reading the first bytes", e))?;
    match sniff::recognise(head) {
        Some(sniff::Known::Gguf) => split::open(path, dir, name, opened),
        Some(other) => Err(other.error(path)),
        None if head.is_empty() => Err(file::source_error(path, "is empty: the download has not begun")),
        None if name.ends_with(".safetensors") => huggingface::open_file(path, dir, name),
        None if name.ends_with(".gguf") => {
            Err(opened.malformed("does not begin with \"GGUF\": it is no GGUF file, or its beginning is damaged"))
        }
        None => Err(file::source_error(path, "is neither a model directory nor a .safetensors, .safetensors.index.json or .gguf file")),
    }
}

/// A path that is not there, perhaps because it is the name of a model on the Hub.
fn not_found(path: &Path, error: std::io::Error) -> Error {
    if error.kind() != std::io::ErrorKind::NotFound {
        return file::io_error(path, "looking at the source", error);
    }
    match path.to_str() {
        Some(id) if path.is_relative() && id.split('/').count() == 2 && !id.starts_with('.') => file::source_error(
            path,
            format!("does not exist; if it is a model's name, download it first: `hf download {id} --local-dir DIR`"),
        ),
        _ => file::source_error(path, "does not exist"),
    }
}
