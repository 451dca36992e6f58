//! The manifest: everything about the model that is not bytes of weights. Stored as zstd-compressed JSON.

use crate::error::FormatError;
use crate::model::{ModelSpec, Role};
use crate::quant::QuantType;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Largest manifest a reader accepts, compressed.
pub const MAX_STORED_BYTES: u64 = 64 << 20;
/// Largest manifest a reader accepts, as JSON.
pub const MAX_JSON_BYTES: u64 = 256 << 20;
/// zstd level of the manifest and the source section; part of what makes a pack's bytes reproducible.
const ZSTD_LEVEL: i32 = 9;

/// The manifest of a pack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Program and version that wrote the pack.
    pub writer: String,
    /// Mechanisms and sizes.
    pub spec: ModelSpec,
    /// Tensors of the embedding run.
    pub embedding: Vec<TensorPlace>,
    /// Tensors of each layer's trunk run, in execution order.
    pub trunk: Vec<Vec<TensorPlace>>,
    /// Tensors of the head run: the final norm and, unless tied, the head.
    pub head: Vec<TensorPlace>,
    /// Where the parts of a bundle are, per layer; `None` for layers without experts.
    pub experts: Vec<Option<ExpertPlace>>,
    /// Neuron groups of dense layers, per layer. Empty when the pack has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neurons: Vec<Option<NeuronPlace>>,
    /// Tensors kept for other programs or later versions and not used here (multi-token prediction), one per carried record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub carried: Vec<CarriedTensor>,
    /// Text to ids and back; `None` when the source had no tokenizer.
    pub tokenizer: Option<Tokenizer>,
    /// Jinja template of a conversation.
    pub chat_template: Option<String>,
    /// Sampling defaults and end tokens.
    pub generation: Generation,
    /// Where the weights came from.
    pub provenance: Provenance,
}

impl Manifest {
    /// Some rows are stored in another order than one after the other.
    pub fn has_tiles(&self) -> bool {
        let mut tensors = self.embedding.iter().chain(self.trunk.iter().flatten()).chain(&self.head).map(|t| t.tiling);
        let mut experts = self.experts.iter().flatten().flat_map(|e| [e.tiling, e.down_tiling]);
        tensors.any(|t| !t.is_row_major()) || experts.any(|t| !t.is_row_major())
    }
}

/// A matrix inside a trunk run: `rows` rows of `cols` values, each `qtype.row_bytes(cols)` long, in the order of `tiling`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorPlace {
    /// Purpose.
    pub role: Role,
    /// Element type.
    pub qtype: QuantType,
    /// Rows.
    pub rows: u32,
    /// Values in a row.
    pub cols: u32,
    /// First byte, from the start of the run; a multiple of 64.
    pub offset: u64,
    /// Order of the rows.
    #[serde(default)]
    pub tiling: Tiling,
    /// Name in the source, for messages and `verify --source`.
    pub source: String,
}

/// Order in which the bytes of a matrix's rows are stored: a reversible permutation. [`crate::tiling`] does the arithmetic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tiling {
    /// Row after row.
    #[default]
    RowMajor,
    /// Tiles of sixteen rows, one after the other; in a tile the first dwords (four bytes) of all rows, row after row, then the second ones, and so on.
    #[serde(rename = "dwords_16")]
    Dwords16,
}

/// Layout of every expert bundle of one layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpertPlace {
    /// Element type of the gate rows (`inner` rows of `hidden`).
    pub gate: QuantType,
    /// Element type of the up rows (`inner` rows of `hidden`).
    pub up: QuantType,
    /// Element type of the down rows (`hidden` rows of `inner`).
    pub down: QuantType,
    /// Order of the gate rows of a slice, and of its up rows.
    #[serde(default)]
    pub tiling: Tiling,
    /// Order of the down rows of a slice.
    #[serde(default, skip_serializing_if = "Tiling::is_row_major")]
    pub down_tiling: Tiling,
    /// Slices in file order; they are the slices of the index's layout, one to one. All gate/up slices come before all
    /// down slices; those of one kind have the same `rows` and length (the last may have fewer rows and be shorter) and the
    /// same `up_offset`, so that a row is found by arithmetic.
    pub slices: Vec<ExpertSlice>,
    /// Names of the source tensors of gate, up and down; `{}` stands for the expert's number where each has its own.
    pub source: [String; 3],
}

/// One slice of an expert bundle: what one read may bring and a kernel may start on. Gate slices come first, so that
/// the down projection can wait for the tail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ExpertSlice {
    /// Gate rows `first_row ..`, at the start of the slice, then the same up rows at `up_offset` from the slice's start.
    GateUp {
        /// First row.
        first_row: u32,
        /// Rows of each.
        rows: u32,
        /// Start of the up rows, from the start of the slice; a multiple of 64.
        up_offset: u64,
    },
    /// Down rows `first_row ..` at the start of the slice.
    Down {
        /// First row.
        first_row: u32,
        /// Rows.
        rows: u32,
    },
}

/// Layout of the neuron groups of one dense layer; [`crate::neurons::GroupShape`] does the arithmetic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeuronPlace {
    /// Neurons in a group; the last group of a layer may have fewer.
    pub group: u32,
    /// Element type of the gate rows; `None` where there is no gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<QuantType>,
    /// Element type of the up rows.
    pub up: QuantType,
    /// Element type of down.
    pub down: QuantType,
    /// How a group's part of down is stored.
    pub down_order: NeuronDown,
    /// Where it starts, from the start of slice 1; a multiple of 64, the same in every group, 0 where there is no gate.
    pub down_offset: u64,
    /// Names of the source tensors of gate (if there is one), up and down.
    pub source: Vec<String>,
}

/// How a neuron group stores its part of the down matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NeuronDown {
    /// One row of `hidden` values per neuron. Float types only, where a column can be moved exactly.
    Transposed,
    /// For each of the `hidden` rows, the whole quant blocks that cover the group. `group` is a multiple of the block length.
    Blocks,
}

/// A tensor kept as it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CarriedTensor {
    /// Name in the source.
    pub name: String,
    /// Element type.
    pub qtype: QuantType,
    /// Shape, outermost first.
    pub shape: Vec<u64>,
}

/// Text to ids and back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokenizer {
    /// A `tokenizer.json` document: the source's own, or the converter's translation of a GGUF vocabulary.
    pub json: String,
    /// Token put in front of every sequence, if the model wants one.
    pub bos: Option<u32>,
}

/// Defaults from the source; a user's flags win.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Sampling temperature.
    pub temperature: Option<f32>,
    /// Keep the k likeliest tokens.
    pub top_k: Option<u32>,
    /// Keep the likeliest tokens up to this mass.
    pub top_p: Option<f32>,
    /// Keep tokens at least this likely relative to the best.
    pub min_p: Option<f32>,
    /// Tokens that end an answer.
    pub stop_tokens: Vec<u32>,
    /// `bos_token` of the chat template.
    pub bos_text: Option<String>,
    /// `eos_token` of the chat template.
    pub eos_text: Option<String>,
}

/// Where the weights came from. Holds no times and no absolute paths: the same source gives the same pack anywhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// `huggingface` or `gguf`.
    pub format: String,
    /// Name of the source's architecture, for people.
    pub architecture: String,
    /// `keep`, or the type asked for.
    pub quantize: String,
    /// Files read, in order.
    pub files: Vec<SourceFile>,
    /// Parts of the source that the pack leaves out: what, tensors, bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unused: Vec<Unused>,
    /// Anything a converter wants to say to a reader (seeds of synthetic packs and the like).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, String>,
}

/// A file of the source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// File name without directories.
    pub name: String,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 of the first `hashed_bytes` bytes (the header of a weights file, the whole of a small file), lower-case hex.
    pub blake3: String,
    /// How many bytes `blake3` covers.
    pub hashed_bytes: u64,
}

/// Something the source has and the pack does not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unused {
    /// What it is, for people.
    pub what: String,
    /// Number of tensors.
    pub tensors: u64,
    /// Bytes in the source.
    pub bytes: u64,
}

/// A section as it is stored, and its length before compression (`Section::raw`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// zstd bytes.
    pub bytes: Vec<u8>,
    /// Bytes after decompression.
    pub raw: u64,
}

/// The manifest section's bytes. Fails if the manifest is larger than a reader accepts, or holds a number that JSON cannot (NaN, infinity).
pub fn encode(manifest: &Manifest) -> Result<Stored, FormatError> {
    let json = serde_json::to_vec(manifest).map_err(|e| FormatError::Manifest(e.to_string()))?;
    // serde_json writes a non-finite number as null: reading it back is the check.
    parse(&json)?;
    compress(&json)
}

/// Reads a manifest section. `raw_len` is `Section::raw`; nothing larger than that or [`MAX_JSON_BYTES`] is ever allocated. Unknown fields are
/// errors: a reader that skipped one could compute something else than the writer meant.
pub fn decode(stored: &[u8], raw_len: u64) -> Result<Manifest, FormatError> {
    parse(&decompress(stored, raw_len)?)
}

fn parse(json: &[u8]) -> Result<Manifest, FormatError> {
    serde_json::from_slice(json).map_err(|e| FormatError::Manifest(e.to_string()))
}

/// Compresses a section.
pub fn compress(raw: &[u8]) -> Result<Stored, FormatError> {
    let bytes = zstd::bulk::compress(raw, ZSTD_LEVEL).map_err(|e| FormatError::Manifest(format!("cannot be compressed: {e}")))?;
    limits(bytes.len() as u64, raw.len() as u64)?;
    Ok(Stored { bytes, raw: raw.len() as u64 })
}

/// Decompresses a section of exactly `raw_len` bytes into one allocation of that size.
pub fn decompress(stored: &[u8], raw_len: u64) -> Result<Vec<u8>, FormatError> {
    limits(stored.len() as u64, raw_len)?;
    let raw = zstd::bulk::decompress(stored, raw_len as usize)
        .map_err(|e| FormatError::Manifest(format!("cannot be decompressed to the {raw_len} bytes that the superblock promises: {e}")))?;
    if raw.len() as u64 != raw_len {
        return Err(FormatError::Manifest(format!("decompresses to {} bytes, the superblock promises {raw_len}", raw.len())));
    }
    Ok(raw)
}

fn limits(stored: u64, raw: u64) -> Result<(), FormatError> {
    if stored > MAX_STORED_BYTES {
        return Err(FormatError::TooLarge { what: "compressed manifest", value: stored, limit: MAX_STORED_BYTES });
    }
    if raw > MAX_JSON_BYTES {
        return Err(FormatError::TooLarge { what: "manifest", value: raw, limit: MAX_JSON_BYTES });
    }
    Ok(())
}
