//! A checkpoint that nobody has: the tensors that a configuration describes, by the same code that binds real ones. Nothing of it can be read.

use super::config::Config;
use super::draft::malformed;
use super::{Draft, family};
use crate::encode::WeightClass;
use crate::error::{Error, Result};
use crate::source::{Checkpoint, Dtype, Meta, Tensor};
use forebay_format::QuantType;
use forebay_format::model::{Ffn, ModelSpec, Role};
use forebay_format::shapes::TensorShape;
use serde_json::Value;
use std::collections::HashMap;
use std::path::Path;

/// Bytes of a `config.json` that is read.
const CONFIG_LIMIT: u64 = 4 << 20;
/// Tensors of a checkpoint; an expert may have three.
const MAX_TENSORS: usize = 500_000;

/// The checkpoint that the `config.json` at `path` describes: matrices in bf16, everything small in f32. `tokenizer` gets the number of tokens and returns a
/// `tokenizer.json`, or nothing.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; otherwise as [`super::bind`].
pub fn imagine(path: &Path, tokenizer: impl Fn(u32) -> Option<String>) -> Result<Checkpoint> {
    let io = |what| move |error| Error::Io { path: path.to_owned(), what, error };
    let length = std::fs::metadata(path).map_err(io("looking at the configuration"))?.len();
    if length > CONFIG_LIMIT {
        return Err(malformed(path, format!("has {length} bytes; a configuration has at most {CONFIG_LIMIT}")));
    }
    let bytes = std::fs::read(path).map_err(io("reading the configuration"))?;
    let document: Value = serde_json::from_slice(&bytes).map_err(|e| malformed(path, format!("is not JSON: {e}")))?;
    let mut checkpoint = Checkpoint {
        path: path.to_owned(),
        files: Vec::new(),
        tensors: Vec::new(),
        by_name: HashMap::new(),
        meta: Meta::HuggingFace {
            config: document.clone(),
            tokenizer: None,
            tokenizer_config: None,
            generation_config: None,
            chat_template: None,
        },
        small_files: vec![("config.json".into(), bytes)],
    };
    let config = Config::new(path, &document)?;
    let (_, arch) = family(&config)?;
    // Families look for optional tensors only, and there is none yet: what comes without saying is in the draft.
    let draft = (arch.from_hf)(&config, &checkpoint)?;
    draft.spec.validate().map_err(|e| malformed(path, e.to_string()))?;
    add_tensors(&mut checkpoint, &draft)?;
    if let Meta::HuggingFace { tokenizer: text, .. } = &mut checkpoint.meta {
        *text = tokenizer(draft.spec.vocab);
    }
    Ok(checkpoint)
}

fn add_tensors(checkpoint: &mut Checkpoint, draft: &Draft) -> Result<()> {
    let (spec, names) = (&draft.spec, &draft.names);
    let count: u64 = spec.layers.iter().map(|l| if let Ffn::Routed(r) = &l.ffn { u64::from(r.experts) * 3 + 64 } else { 64 }).sum();
    if count > MAX_TENSORS as u64 {
        return Err(malformed(&checkpoint.path, format!("describes about {count} tensors; the limit is {MAX_TENSORS}")));
    }
    let path = checkpoint.path.clone();
    let mut add = |name: String, shape: &[u32], role: Option<Role>| {
        let qtype = role.map_or(QuantType::BF16, |role| source_type(role, spec));
        let shape: Vec<u64> = shape.iter().map(|&n| u64::from(n)).collect();
        let start = checkpoint.tensors.last().map_or(0, |t| t.range.end);
        let end = Dtype::Weight(qtype).bytes_of(&shape).and_then(|n| n.checked_add(start));
        let end = end.ok_or_else(|| malformed(&path, format!("tensor {name} would have too many values")))?;
        checkpoint.by_name.insert(name.clone(), checkpoint.tensors.len());
        checkpoint.tensors.push(Tensor { name, dtype: Dtype::Weight(qtype), shape, file: 0, range: start..end });
        Ok::<(), Error>(())
    };
    let of = |s: &TensorShape| if s.rows == 1 { vec![s.cols] } else { vec![s.rows, s.cols] };
    for s in spec.embedding_tensors().into_iter().chain(spec.head_tensors()) {
        if let Some(name) = names.global(s.role) {
            add(name.to_owned(), &of(&s), Some(s.role))?;
        }
    }
    for (i, layer) in spec.layers.iter().enumerate() {
        for s in layer.tensors(spec.hidden).map_err(|e| malformed(&path, e.to_string()))? {
            // A role without a name is the binder's error to report.
            if let Some(name) = names.role(i, s.role) {
                add(name, &of(&s), Some(s.role))?;
            }
        }
        if let Ffn::Routed(routed) = &layer.ffn {
            for (name, shape) in names.expert_tensors(i, routed.experts, routed.expert.inner, spec.hidden) {
                add(name, &shape, None)?;
            }
        }
    }
    Ok(())
}

/// What converters to other formats store: small tensors in f32, matrices as trained.
fn source_type(role: Role, spec: &ModelSpec) -> QuantType {
    match WeightClass::of(role, 0, spec.layers.len(), spec.tied_head) {
        WeightClass::Small => QuantType::F32,
        _ => QuantType::BF16,
    }
}
