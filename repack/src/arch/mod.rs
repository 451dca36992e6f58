//! From names and configuration to meaning: one file per model family, one row in [`ARCHS`].

pub mod vocab;

mod arcee;
mod assemble;
mod config;
mod draft;
mod gguf;
mod head;
mod hf;
mod imagine;
mod llama;
mod metadata;
mod mixtral;
mod names;
mod olmoe;
mod opt;
mod qwen2;
mod qwen3;
mod qwen3_5;
mod qwen3_moe;
mod speech;

use self::assemble::Assembly;
use self::config::Config;
use self::draft::{Draft, unsupported};
use self::metadata::Metadata;
use self::speech::Speech;
use crate::error::Result;
use crate::source::{Checkpoint, GgufValue, Meta};
use forebay_format::layout::manifest::{Generation, Tokenizer, Unused};
use forebay_format::model::{ModelSpec, Role};
pub use imagine::imagine;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Rows of a source tensor, seen as a matrix `[Tensor::rows(), Tensor::cols()]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Position in [`Checkpoint::tensors`].
    pub tensor: usize,
    /// First row.
    pub first: u64,
    /// Number of rows.
    pub count: u64,
}

/// A trunk tensor: `rows.count` rows of `cols`, taken unchanged from the source. Vectors are one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Purpose.
    pub role: Role,
    /// Where its values are.
    pub source: Rows,
    /// Rows of the tensor as the runtime sees it; `rows * cols` equals the source's element count.
    pub rows: u32,
    /// Values in a row.
    pub cols: u32,
}

/// The three matrices of one expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundExpert {
    /// `[inner, hidden]`.
    pub gate: Rows,
    /// `[inner, hidden]`.
    pub up: Rows,
    /// `[hidden, inner]`.
    pub down: Rows,
}

/// A checkpoint with its meaning: every tensor is bound, carried or listed as unused.
#[derive(Clone, Debug)]
pub struct Binding {
    /// Architecture as the source calls it.
    pub architecture: String,
    /// Mechanisms and sizes; validated.
    pub spec: ModelSpec,
    /// The embedding.
    pub embedding: Vec<Bound>,
    /// Each layer's trunk in execution order.
    pub trunk: Vec<Vec<Bound>>,
    /// Final norm, head.
    pub head: Vec<Bound>,
    /// Each layer's experts; empty for dense layers.
    pub experts: Vec<Vec<BoundExpert>>,
    /// Tensors kept but not used (multi-token prediction): positions in [`Checkpoint::tensors`].
    pub carried: Vec<usize>,
    /// Tensors left out.
    pub unused: Vec<Unused>,
    /// Tokenizer, if the source has one.
    pub tokenizer: Option<Tokenizer>,
    /// Chat template, if the source has one.
    pub chat_template: Option<String>,
    /// Sampling defaults.
    pub generation: Generation,
    /// Things the user should know, one line each ("vision tower not used: 19 tensors, 12 KB").
    pub remarks: Vec<String>,
}

/// A model family: how its sources are recognised and read.
struct Arch {
    /// `model_type` of `config.json`.
    model_types: &'static [&'static str],
    /// `architectures` of `config.json`: other classes of the same type have other heads.
    classes: &'static [&'static str],
    /// `general.architecture` of GGUF files.
    gguf: &'static [&'static str],
    from_hf: fn(&Config, &Checkpoint) -> Result<Draft>,
    from_gguf: Option<fn(&Metadata, &Checkpoint) -> Result<Draft>>,
}

/// Every family that can be converted.
const ARCHS: &[Arch] = &[
    llama::LLAMA,
    llama::SPARSE_LLAMA,
    llama::MISTRAL,
    mixtral::MIXTRAL,
    olmoe::OLMOE,
    opt::OPT,
    qwen2::QWEN2,
    qwen3::QWEN3,
    qwen3_moe::QWEN3_MOE,
    qwen3_5::DENSE,
    qwen3_5::MOE,
    arcee::ARCEE,
];

/// Finds the family of a checkpoint and binds it.
///
/// # Errors
/// [`crate::Error::Unsupported`] for families, mechanisms and weight types that are not known; [`crate::Error::Malformed`] when configuration and
/// tensors contradict themselves or each other.
pub fn bind(checkpoint: &Checkpoint) -> Result<Binding> {
    match &checkpoint.meta {
        Meta::HuggingFace { config, .. } => bind_hf(checkpoint, config),
        Meta::Gguf(pairs) => bind_gguf(checkpoint, pairs),
    }
}

fn bind_hf(checkpoint: &Checkpoint, document: &Value) -> Result<Binding> {
    let file = config_file(&checkpoint.path);
    let config = Config::new(&file, document)?;
    let (architecture, arch) = family(&config)?;
    refuse_quantized(&config)?;
    let draft = (arch.from_hf)(&config, checkpoint)?;
    let (spec, mut assembly) = assemble::assemble(checkpoint, draft, &file)?;
    if config.outer.contains_key("auto_map") {
        assembly.remarks.push("the checkpoint brings its own code (auto_map), which is not run".into());
    }
    let speech = speech::from_hf(checkpoint, &config, spec.vocab)?;
    Ok(binding(architecture, spec, assembly, speech))
}

fn bind_gguf(checkpoint: &Checkpoint, pairs: &[(String, GgufValue)]) -> Result<Binding> {
    let file = checkpoint.files.first().map_or(checkpoint.path.as_path(), |f| f.path.as_path());
    let meta = Metadata::new(file, pairs)?;
    let arch = ARCHS.iter().find(|a| a.gguf.contains(&meta.arch));
    let Some(from_gguf) = arch.and_then(|a| a.from_gguf) else {
        let known: Vec<&str> = ARCHS.iter().flat_map(|a| a.gguf).copied().collect();
        let name: String = meta.arch.chars().take(60).collect();
        return Err(unsupported(format!("architecture {name:?}"), format!("supported are {}", known.join(", "))));
    };
    let draft = from_gguf(&meta, checkpoint)?;
    let (spec, mut assembly) = assemble::assemble(checkpoint, draft, file)?;
    let unread = meta.unread();
    if !unread.is_empty() {
        let shown: Vec<String> = unread.iter().take(6).map(|key| key.chars().take(60).collect()).collect();
        let more = if unread.len() > shown.len() { ", ..." } else { "" };
        assembly.remarks.push(format!("metadata without a meaning for this architecture, ignored: {}{more}", shown.join(", ")));
    }
    let speech = speech::from_gguf(pairs, &meta, spec.vocab)?;
    Ok(binding(meta.arch.to_owned(), spec, assembly, speech))
}

fn binding(architecture: String, spec: ModelSpec, assembly: Assembly, speech: Speech) -> Binding {
    let mut remarks = assembly.remarks;
    remarks.extend(speech.remarks);
    Binding {
        architecture,
        spec,
        embedding: assembly.embedding,
        trunk: assembly.trunk,
        head: assembly.head,
        experts: assembly.experts,
        carried: assembly.carried,
        unused: assembly.unused,
        tokenizer: speech.tokenizer,
        chat_template: speech.chat_template,
        generation: speech.generation,
        remarks,
    }
}

/// `config.json` of the directory that the user named, or that holds the file the user named.
fn config_file(named: &Path) -> PathBuf {
    match named.extension() {
        _ if named.is_dir() => named.join("config.json"),
        Some(ext) if ext == "safetensors" || named.to_string_lossy().ends_with(".index.json") => named.with_file_name("config.json"),
        // An imagined checkpoint is its configuration.
        Some(ext) if ext == "json" => named.to_path_buf(),
        _ => named.join("config.json"),
    }
}

/// The family by `model_type`; the class, if stated, must be one that predicts tokens.
fn family(config: &Config) -> Result<(String, &'static Arch)> {
    let text = |key: &str| config.outer.get(key).and_then(Value::as_str);
    let class = config.outer.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    let arch = match (text("model_type"), class) {
        (Some(kind), _) => ARCHS.iter().find(|a| a.model_types.contains(&kind)),
        (None, Some(class)) => ARCHS.iter().find(|a| a.classes.contains(&class)),
        (None, None) => return Err(config.malformed("model_type is missing")),
    };
    let name = text("model_type").or(class).unwrap_or_default();
    let Some(arch) = arch else {
        let known: Vec<&str> = ARCHS.iter().filter_map(|a| a.model_types.first()).copied().collect();
        let name: String = name.chars().take(60).collect();
        return Err(unsupported(format!("model type {name:?}"), format!("supported are {}", known.join(", "))));
    };
    if let Some(class) = class
        && !arch.classes.contains(&class)
    {
        let class: String = class.chars().take(80).collect();
        return Err(unsupported(format!("model class {class:?}"), format!("of this family only {} is", arch.classes.join(" or "))));
    }
    Ok((name.to_owned(), arch))
}

/// Weights in a quantised form of their own (fp8, gptq, awq, ...) need their scales, which no family here reads.
fn refuse_quantized(config: &Config) -> Result<()> {
    let stated = ["quantization_config", "compression_config"]
        .iter()
        .find_map(|key| config.get(key).or_else(|| config.outer.get(*key).filter(|v| !v.is_null())));
    let Some(quantization) = stated else { return Ok(()) };
    let method: String = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("unnamed").chars().take(40).collect();
    let hint = "convert the original bf16 or f16 checkpoint, or a GGUF file of the model";
    Err(unsupported(format!("quantisation {method:?} of a Hugging Face checkpoint"), hint))
}
