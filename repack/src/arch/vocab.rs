//! GGUF vocabularies, translated into the one tokenizer form of a pack: a `tokenizer.json` document.
//!
//! Two kinds exist in GGUF files of the supported families: byte-level BPE (`tokenizer.ggml.model` = `gpt2`), whose splitting
//! rule is only *named* in the file ([`pretokenizer`]), and SentencePiece BPE (`llama`), whose merges are implied by the
//! scores of the pieces ([`spm`]).

pub mod pretokenizer;
pub mod spm;

use crate::error::{Error, Result};
use crate::source::GgufValue;
use forebay_format::layout::manifest::Tokenizer;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;

/// Most tokens accepted; the largest public vocabularies have about 262 000.
const MAX_TOKENS: usize = 4 << 20;
/// Most merges accepted.
const MAX_MERGES: usize = 16 << 20;

/// Names of tokens that end a turn or a text, whatever the metadata says about them.
const END_NAMES: [&str; 16] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    "</s>",
];

/// `tokenizer.ggml.token_type` of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The vocabulary arrays of a GGUF file, checked against each other.
struct Vocabulary<'a> {
    /// Text by id; an empty text has been given a name.
    texts: Vec<std::borrow::Cow<'a, str>>,
    /// Kind by id.
    kinds: Vec<Kind>,
    /// Id by text.
    ids: HashMap<String, u32>,
}

/// Translates `tokenizer.ggml.*` into a `tokenizer.json` document. `None` when the file has no vocabulary.
///
/// # Errors
/// [`Error::Malformed`] for arrays that contradict each other, [`Error::Unsupported`] for a tokenizer model or a splitting
/// rule that this version does not know.
pub fn tokenizer_from_gguf(kvs: &[(String, GgufValue)]) -> Result<Option<Tokenizer>> {
    let meta = Meta(kvs);
    let Some(model) = meta.text("tokenizer.ggml.model")? else {
        return Ok(None);
    };
    if matches!(model, "none" | "no_vocab") {
        return Ok(None);
    }
    let vocabulary = Vocabulary::read(&meta)?;
    let (document, bos_by_default, bos_default_id) = match model {
        "gpt2" => {
            let rule = pretokenizer::find(meta.text("tokenizer.ggml.pre")?)?;
            (byte_level_bpe(&meta, &vocabulary, rule)?, rule.add_bos, None)
        }
        "llama" => (spm::document(&meta, &vocabulary)?, true, Some(1)),
        other => {
            return Err(Error::Unsupported {
                what: format!("tokenizer.ggml.model '{}'", other.escape_debug()),
                hint: "gpt2 (byte-level BPE) and llama (SentencePiece) are; convert from the Hugging Face checkpoint instead".into(),
            });
        }
    };
    let add_bos = meta.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(bos_by_default);
    let bos = match (add_bos, meta.id("tokenizer.ggml.bos_token_id", &vocabulary)?.or(bos_default_id)) {
        (true, Some(id)) if (id as usize) < vocabulary.texts.len() => Some(id),
        (true, _) => return Err(malformed("tokenizer.ggml.add_bos_token is set, but there is no tokenizer.ggml.bos_token_id")),
        (false, _) => None,
    };
    let json = serde_json::to_string(&document).map_err(|e| malformed(format!("the vocabulary cannot be written as JSON: {e}")))?;
    Ok(Some(Tokenizer { json, bos }))
}

/// Tokens that end an answer: `eos`, `eot` and `eom` of the metadata, and control tokens with a well-known name of that
/// meaning (files often name only one of several). Ascending, without repetition.
///
/// # Errors
/// As [`tokenizer_from_gguf`].
pub fn stop_tokens_from_gguf(kvs: &[(String, GgufValue)]) -> Result<Vec<u32>> {
    let meta = Meta(kvs);
    if meta.get("tokenizer.ggml.tokens").is_none() {
        return Ok(Vec::new());
    }
    let vocabulary = Vocabulary::read(&meta)?;
    let mut stops = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        stops.extend(meta.id(&format!("tokenizer.ggml.{key}"), &vocabulary)?);
    }
    let special = |id: u32| matches!(vocabulary.kinds.get(id as usize), Some(Kind::Control | Kind::UserDefined));
    let named = END_NAMES.iter().filter_map(|name| vocabulary.ids.get(*name).copied()).filter(|&id| special(id));
    stops.extend(named);
    // Harmony-style formats use <|end|> between the parts of one answer and <|return|> or <|call|> at its end.
    let has = |name: &str| vocabulary.ids.get(name).is_some_and(|id| stops.contains(id));
    if has("<|return|>") && has("<|call|>") {
        let end = vocabulary.ids.get("<|end|>").copied();
        stops.retain(|id| Some(*id) != end);
    }
    stops.sort_unstable();
    stops.dedup();
    Ok(stops)
}

/// Text of a special token named by a metadata key such as `tokenizer.ggml.eos_token_id`, for the chat template.
///
/// # Errors
/// As [`tokenizer_from_gguf`].
pub fn special_text_from_gguf(kvs: &[(String, GgufValue)], key: &str) -> Result<Option<String>> {
    let meta = Meta(kvs);
    let Some(GgufValue::Array(texts)) = meta.get("tokenizer.ggml.tokens") else {
        return Ok(None);
    };
    let id = match meta.get(key) {
        Some(value) => unsigned(value).ok_or_else(|| malformed(format!("{key} is not an unsigned integer")))?,
        None => return Ok(None),
    };
    match usize::try_from(id).ok().and_then(|i| texts.get(i)) {
        Some(GgufValue::Text(text)) => Ok(Some(text.clone())),
        Some(_) => Err(malformed("tokenizer.ggml.tokens holds something that is not a string")),
        None => Ok(None),
    }
}

/// Token that a Hugging Face tokenizer puts in front of a text: what the post-processor's template says, or else
/// `add_bos_token` with `bos_token` of `tokenizer_config.json`.
pub fn bos_from_huggingface(tokenizer: &Value, config: Option<&Value>) -> Option<u32> {
    fn from_template(processor: &Value) -> Option<u32> {
        match processor.get("type")?.as_str()? {
            "TemplateProcessing" => {
                let name = processor.get("single")?.get(0)?.get("SpecialToken")?.get("id")?.as_str()?;
                u32::try_from(processor.get("special_tokens")?.get(name)?.get("ids")?.get(0)?.as_u64()?).ok()
            }
            "Sequence" => processor.get("processors")?.as_array()?.iter().find_map(from_template),
            _ => None,
        }
    }
    let processor = tokenizer.get("post_processor").filter(|p| !p.is_null());
    if let Some(bos) = processor.and_then(from_template) {
        return Some(bos);
    }
    let config = config?;
    if config.get("add_bos_token")?.as_bool() != Some(true) {
        return None;
    }
    let bos = config.get("bos_token")?;
    let text = bos.as_str().or_else(|| bos.get("content")?.as_str())?;
    let added = tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    let id = added
        .filter(|t| t.get("content").and_then(Value::as_str) == Some(text))
        .find_map(|t| t.get("id")?.as_u64())
        .or_else(|| tokenizer.get("model")?.get("vocab")?.get(text)?.as_u64());
    id.and_then(|id| u32::try_from(id).ok())
}

/// The document of a byte-level BPE vocabulary.
fn byte_level_bpe(meta: &Meta<'_>, vocabulary: &Vocabulary<'_>, rule: &pretokenizer::Rule) -> Result<Value> {
    let mut merges = Vec::new();
    let stored = meta.array("tokenizer.ggml.merges")?.ok_or_else(|| malformed("tokenizer.ggml.merges is missing"))?;
    if stored.len() > MAX_MERGES {
        return Err(malformed(format!("{} merges; at most {MAX_MERGES} are accepted", stored.len())));
    }
    for (i, merge) in stored.iter().enumerate() {
        let GgufValue::Text(merge) = merge else {
            return Err(malformed(format!("merge {i} is not a string")));
        };
        // The left part is never empty, so a leading space belongs to it.
        let space = merge.char_indices().skip(1).find(|&(_, c)| c == ' ').map(|(at, _)| at);
        let (left, right) = space.map(|at| (&merge[..at], &merge[at + 1..])).unwrap_or((merge, ""));
        let known = |text: &str| vocabulary.ids.contains_key(text);
        if right.is_empty() || !known(left) || !known(right) || !known(&format!("{left}{right}")) {
            return Err(malformed(format!("merge {i} ('{}') names a token that the vocabulary lacks", merge.escape_debug())));
        }
        merges.push(json!([left, right]));
    }
    let mut steps: Vec<Value> = rule
        .splits
        .iter()
        .map(|regex| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}))
        .collect();
    steps.push(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}));
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added_tokens(),
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": rule.ignore_merges,
            "vocab": vocabulary.as_json(),
            "merges": merges,
        },
    }))
}

impl<'a> Vocabulary<'a> {
    fn read(meta: &Meta<'a>) -> Result<Self> {
        let stored = meta.array("tokenizer.ggml.tokens")?.ok_or_else(|| malformed("tokenizer.ggml.tokens is missing"))?;
        if stored.is_empty() || stored.len() > MAX_TOKENS {
            return Err(malformed(format!("{} tokens; 1 to {MAX_TOKENS} are accepted", stored.len())));
        }
        let mut texts = Vec::with_capacity(stored.len());
        let mut ids = HashMap::with_capacity(stored.len());
        for (i, token) in stored.iter().enumerate() {
            let GgufValue::Text(text) = token else {
                return Err(malformed(format!("token {i} is not a string")));
            };
            let text = if text.is_empty() { format!("[EMPTY_{i}]").into() } else { std::borrow::Cow::Borrowed(text.as_str()) };
            if let Some(first) = ids.insert(text.to_string(), i as u32) {
                return Err(malformed(format!("tokens {first} and {i} are both '{}'", text.escape_debug())));
            }
            texts.push(text);
        }
        let kinds = match meta.array("tokenizer.ggml.token_type")? {
            None => vec![Kind::Normal; texts.len()],
            Some(kinds) if kinds.len() < texts.len() => {
                return Err(malformed(format!("{} token types for {} tokens", kinds.len(), texts.len())));
            }
            Some(kinds) => kinds.iter().take(texts.len()).enumerate().map(|(i, kind)| Kind::read(i, kind)).collect::<Result<_>>()?,
        };
        Ok(Vocabulary { texts, kinds, ids })
    }

    /// Control tokens (special) and user-defined ones (matched in any text).
    fn added_tokens(&self) -> Vec<Value> {
        let added = self.texts.iter().zip(&self.kinds).enumerate().filter_map(|(id, (text, kind))| {
            let special = match kind {
                Kind::Control | Kind::Unknown => true,
                Kind::UserDefined => false,
                Kind::Normal | Kind::Unused | Kind::Byte => return None,
            };
            Some(json!({
                "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special,
            }))
        });
        added.collect()
    }

    fn as_json(&self) -> Value {
        Value::Object(self.texts.iter().enumerate().map(|(id, text)| (text.to_string(), id.into())).collect())
    }
}

impl Kind {
    fn read(token: usize, value: &GgufValue) -> Result<Kind> {
        match unsigned(value) {
            Some(1) => Ok(Kind::Normal),
            Some(2) => Ok(Kind::Unknown),
            Some(3) => Ok(Kind::Control),
            Some(4) => Ok(Kind::UserDefined),
            Some(5) => Ok(Kind::Unused),
            Some(6) => Ok(Kind::Byte),
            // 0 is "undefined": a token like any other.
            Some(0) => Ok(Kind::Normal),
            _ => Err(malformed(format!("token {token} has the unknown type {value:?}"))),
        }
    }
}

/// Typed look-up in the key-value pairs. Their number is small, so a walk is enough.
struct Meta<'a>(&'a [(String, GgufValue)]);

impl<'a> Meta<'a> {
    fn get(&self, key: &str) -> Option<&'a GgufValue> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Text(text)) => Ok(Some(text)),
            Some(_) => Err(malformed(format!("{key} is not a string"))),
        }
    }

    fn array(&self, key: &str) -> Result<Option<&'a [GgufValue]>> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Array(values)) => Ok(Some(values)),
            Some(_) => Err(malformed(format!("{key} is not an array"))),
        }
    }

    fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Bool(flag)) => Ok(Some(*flag)),
            Some(value) => match unsigned(value) {
                Some(0) => Ok(Some(false)),
                Some(1) => Ok(Some(true)),
                _ => Err(malformed(format!("{key} is not a bool"))),
            },
        }
    }

    /// A token id. One outside the vocabulary counts as absent: files carry such leftovers.
    fn id(&self, key: &str, vocabulary: &Vocabulary<'_>) -> Result<Option<u32>> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => match unsigned(value) {
                Some(id) => Ok(u32::try_from(id).ok().filter(|&id| (id as usize) < vocabulary.texts.len())),
                None if matches!(value, GgufValue::Int(_)) => Ok(None),
                None => Err(malformed(format!("{key} is not a token id"))),
            },
        }
    }
}

fn unsigned(value: &GgufValue) -> Option<u64> {
    match value {
        GgufValue::Uint(v) => Some(*v),
        GgufValue::Int(v) => u64::try_from(*v).ok(),
        _ => None,
    }
}

fn malformed(why: impl Into<String>) -> Error {
    Error::Malformed { file: PathBuf::from("GGUF metadata"), why: why.into() }
}

#[cfg(test)]
mod tests;
