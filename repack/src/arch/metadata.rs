//! Typed access to the key-value pairs of a GGUF file: a missing or mistyped key is an error that names it.

use super::draft::{malformed, unsupported};
use crate::error::{Error, Result};
use crate::source::GgufValue;
use std::cell::RefCell;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// Key-value pairs of one architecture.
#[derive(Clone, Debug)]
pub(super) struct Metadata<'a> {
    /// The file, for messages.
    pub file: PathBuf,
    /// `general.architecture`.
    pub arch: &'a str,
    pairs: &'a [(String, GgufValue)],
    /// Full keys that were asked for.
    asked: RefCell<HashSet<String>>,
}

impl<'a> Metadata<'a> {
    /// The pairs of `file`.
    pub fn new(file: &Path, pairs: &'a [(String, GgufValue)]) -> Result<Self> {
        let mut meta = Metadata { file: file.to_path_buf(), arch: "", pairs, asked: RefCell::default() };
        let missing = || malformed(file, "general.architecture is missing");
        meta.arch = meta.maybe_text("general.architecture")?.ok_or_else(missing)?;
        Ok(meta)
    }

    /// An error about this file.
    pub fn malformed(&self, why: impl Into<String>) -> Error {
        malformed(&self.file, why)
    }

    /// The value of a full key.
    pub fn global(&self, key: &str) -> Option<&'a GgufValue> {
        if !self.asked.borrow().contains(key) {
            self.asked.borrow_mut().insert(key.to_owned());
        }
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// The full name of an architecture's key.
    pub fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    /// The value of an architecture's key.
    pub fn get(&self, key: &str) -> Option<&'a GgufValue> {
        self.global(&self.key(key))
    }

    fn mistyped(&self, key: &str, value: &GgufValue, needed: &str) -> Error {
        self.malformed(format!("{key} is {}; {needed} is needed", shown(value)))
    }

    /// A whole number under a full key.
    pub fn global_size(&self, key: &str) -> Result<Option<u32>> {
        let Some(value) = self.global(key) else { return Ok(None) };
        let n = whole(value).ok_or_else(|| self.mistyped(key, value, "a whole number of at least 0"))?;
        u32::try_from(n).map(Some).map_err(|_| self.malformed(format!("{key} is {n}; the limit is {}", u32::MAX)))
    }

    /// A text under a full key.
    pub fn maybe_text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.global(key) {
            None => Ok(None),
            Some(GgufValue::Text(text)) => Ok(Some(text)),
            Some(value) => Err(self.mistyped(key, value, "a text")),
        }
    }

    /// A number under a full key.
    pub fn global_number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.global(key) else { return Ok(None) };
        number(value).map(Some).ok_or_else(|| self.mistyped(key, value, "a number"))
    }

    /// A whole number that must be there.
    pub fn size(&self, key: &str) -> Result<u32> {
        self.maybe_size(key)?.ok_or_else(|| self.malformed(format!("{} is missing", self.key(key))))
    }

    /// A whole number. A list with one entry a layer counts as one number if its entries other than 0 are equal (0 stands for
    /// layers that have no such thing).
    pub fn maybe_size(&self, key: &str) -> Result<Option<u32>> {
        let Some(GgufValue::Array(list)) = self.get(key) else { return self.global_size(&self.key(key)) };
        let name = self.key(key);
        let mut common = None;
        for value in list {
            let n = whole(value).and_then(|n| u32::try_from(n).ok());
            let n = n.ok_or_else(|| self.malformed(format!("{name} holds something other than whole numbers")))?;
            match (n, common) {
                (0, _) => {}
                (n, None) => common = Some(n),
                (n, Some(c)) if n == c => {}
                _ => return Err(unsupported(format!("{name} with different values per layer"), "this program does not know such a model")),
            }
        }
        Ok(Some(common.unwrap_or(0)))
    }

    /// A number of this architecture.
    pub fn maybe_number(&self, key: &str) -> Result<Option<f64>> {
        self.global_number(&self.key(key))
    }

    /// A list of bools, if the key is there.
    pub fn maybe_flags(&self, key: &str) -> Result<Option<Vec<bool>>> {
        let name = self.key(key);
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Array(list)) => {
                let flags: Option<Vec<bool>> = list.iter().map(flag).collect();
                flags.map(Some).ok_or_else(|| self.malformed(format!("{name} holds something other than bools")))
            }
            Some(value) => Err(self.mistyped(&name, value, "a list of bools")),
        }
    }

    /// A bool of this architecture.
    pub fn maybe_flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        flag(value).map(Some).ok_or_else(|| self.mistyped(&self.key(key), value, "a bool"))
    }

    /// Keys of this architecture that nothing has asked for and that are not known to say nothing new.
    pub fn unread(&self) -> Vec<&'a str> {
        let asked = self.asked.borrow();
        let of_arch = |key: &str| key.strip_prefix(self.arch).and_then(|rest| rest.strip_prefix('.')).map(str::to_owned);
        let unread = self
            .pairs
            .iter()
            .filter(|(key, _)| !asked.contains(key) && of_arch(key).is_some_and(|rest| !REDUNDANT.contains(&rest.as_str())));
        unread.map(|(key, _)| key.as_str()).collect()
    }

    /// Refuses keys that change the computation in a way this program does not know.
    pub fn refuse_unknown_mechanisms(&self) -> Result<()> {
        for &(key, neutral) in CHANGES {
            if let Some(found) = self.get(key)
                && !neutral.iter().any(|&n| number(found).or_else(|| flag(found).map(|b| f64::from(u8::from(b)))) == Some(n))
            {
                let what = format!("{} = {}", self.key(key), shown(found));
                return Err(unsupported(what, "this program does not know a model of this family with it"));
            }
        }
        Ok(())
    }
}

/// Keys that repeat what others or the tensors say, or that concern images or training.
const REDUNDANT: &[&str] = &[
    "attention.key_length",
    "attention.value_length",
    "expert_feed_forward_length",
    "expert_shared_count",
    "feed_forward_length",
    "full_attention_interval",
    "nextn_predict_layers",
    "rope.dimension_sections",
    "rope.scaling.finetuned",
    "tensor_data_layout",
    "vocab_size",
];

/// Keys that change what is computed, with the values that mean "as usual".
const CHANGES: &[(&str, &[f64])] = &[
    ("attention.causal", &[1.0]),
    ("attention.clamp_kqv", &[0.0]),
    ("attention.max_alibi_bias", &[0.0]),
    ("attention.scale", &[0.0]),
    ("attention.q_lora_rank", &[0.0]),
    ("attention.kv_lora_rank", &[0.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("final_logit_softcapping", &[0.0]),
    ("logit_scale", &[0.0, 1.0]),
    ("embedding_scale", &[0.0, 1.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("expert_gating_func", &[0.0, 1.0]), // 1 is softmax
    ("expert_group_count", &[0.0, 1.0]),
    ("expert_group_used_count", &[0.0, 1.0]),
    ("expert_weights_scale", &[0.0, 1.0]),
    ("leading_dense_block_count", &[0.0]),
    ("moe_every_n_layers", &[0.0, 1.0]),
    ("interleave_moe_layer_step", &[0.0, 1.0]),
    ("use_parallel_residual", &[0.0]),
];

/// The value as a whole number of at least 0.
pub(super) fn whole(value: &GgufValue) -> Option<u64> {
    match value {
        GgufValue::Uint(n) => Some(*n),
        GgufValue::Int(n) => u64::try_from(*n).ok(),
        _ => None,
    }
}

fn number(value: &GgufValue) -> Option<f64> {
    match value {
        GgufValue::Float(x) => Some(*x),
        GgufValue::Uint(n) => u32::try_from(*n).ok().map(f64::from),
        GgufValue::Int(n) => i32::try_from(*n).ok().map(f64::from),
        _ => None,
    }
}

fn flag(value: &GgufValue) -> Option<bool> {
    match value {
        GgufValue::Bool(b) => Some(*b),
        GgufValue::Uint(0) | GgufValue::Int(0) => Some(false),
        GgufValue::Uint(1) | GgufValue::Int(1) => Some(true),
        _ => None,
    }
}

/// A value in a message, cut to a line.
fn shown(value: &GgufValue) -> String {
    match value {
        GgufValue::Uint(n) => n.to_string(),
        GgufValue::Int(n) => n.to_string(),
        GgufValue::Float(x) => x.to_string(),
        GgufValue::Bool(b) => b.to_string(),
        GgufValue::Text(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
        GgufValue::Array(list) => format!("a list of {}", list.len()),
    }
}
