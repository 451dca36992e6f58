//! Everything about text rather than weights: tokenizer, chat template, sampling defaults, end tokens.

use super::config::{Config, shown};
use super::draft::malformed;
use super::metadata::Metadata;
use super::vocab;
use crate::error::Result;
use crate::source::{Checkpoint, GgufValue, Meta};
use forebay_format::layout::manifest::{Generation, Tokenizer};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Tokens that end a turn. Where the chat template writes one of them, generation must stop at it whatever the configuration says.
const END_OF_TURN: &[&str] =
    &["<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "<end_of_turn>", "<|end|>", "<|eot|>", "<|endoftext|>"];

/// What a source says about text.
#[derive(Debug, Default)]
pub(super) struct Speech {
    pub tokenizer: Option<Tokenizer>,
    pub chat_template: Option<String>,
    pub generation: Generation,
    pub remarks: Vec<String>,
}

/// Reads it from the files of a Hugging Face directory.
pub(super) fn from_hf(checkpoint: &Checkpoint, config: &Config, vocab: u32) -> Result<Speech> {
    let Meta::HuggingFace { tokenizer, tokenizer_config, generation_config, chat_template, .. } = &checkpoint.meta else {
        return Ok(Speech::default());
    };
    let beside = |name: &str| config.file.with_file_name(name);
    let mut speech = Speech::default();
    let document: Option<Value> = match tokenizer {
        None => {
            speech.remarks.push("no tokenizer.json: the pack can be run on token ids only".into());
            None
        }
        Some(text) => {
            let parsed = serde_json::from_str(text).map_err(|e| malformed(&beside("tokenizer.json"), e.to_string()))?;
            Some(parsed)
        }
    };
    let texts = Texts { file: beside("tokenizer_config.json"), config: tokenizer_config.as_ref(), document: document.as_ref() };
    speech.chat_template = chat_template.clone();
    // The runtime never runs the post-processor, so a token that its template adds must be named like any other.
    let bos = document.as_ref().and_then(|document| vocab::bos_from_huggingface(document, tokenizer_config.as_ref()));
    let generation = &mut speech.generation;
    let sampling = Section { file: beside("generation_config.json"), value: generation_config.as_ref() };
    generation.temperature = sampling.number("temperature")?;
    generation.top_p = sampling.number("top_p")?;
    generation.min_p = sampling.number("min_p")?;
    generation.top_k = sampling.count("top_k")?.filter(|&k| k > 0);
    generation.bos_text = texts.special("bos_token")?;
    generation.eos_text = texts.special("eos_token")?;
    let mut stops = ids(&sampling.file, "eos_token_id", sampling.get("eos_token_id"))?;
    stops.extend(ids(&config.file, &config.name("eos_token_id"), config.get("eos_token_id"))?);
    stops.extend(ids(&config.file, "eos_token_id", config.outer.get("eos_token_id"))?);
    stops.extend(generation.eos_text.as_deref().and_then(|text| texts.id(text)));
    let template = speech.chat_template.as_deref().unwrap_or_default();
    stops.extend(END_OF_TURN.iter().filter(|name| template.contains(**name)).filter_map(|name| texts.id(name)));
    generation.stop_tokens = tidy(stops, vocab, &config.file)?;
    if let Some(text) = tokenizer {
        let file = beside("tokenizer.json");
        check_id(bos, vocab, &file, "the token in front of a text")?;
        speech.tokenizer = Some(Tokenizer { json: text.clone(), bos });
    }
    Ok(speech)
}

/// Reads it from the metadata of a GGUF file.
pub(super) fn from_gguf(pairs: &[(String, GgufValue)], meta: &Metadata, vocab: u32) -> Result<Speech> {
    let mut speech = Speech { tokenizer: vocab::tokenizer_from_gguf(pairs)?, ..Speech::default() };
    if speech.tokenizer.is_none() {
        speech.remarks.push("no vocabulary: the pack can be run on token ids only".into());
    }
    check_id(speech.tokenizer.as_ref().and_then(|t| t.bos), vocab, &meta.file, "tokenizer.ggml.bos_token_id")?;
    speech.chat_template = meta.maybe_text("tokenizer.chat_template")?.map(str::to_owned);
    let number = |key: &str| Ok::<_, crate::error::Error>(meta.global_number(key)?.map(|x| x as f32));
    let generation = &mut speech.generation;
    generation.temperature = number("general.sampling.temp")?;
    generation.top_p = number("general.sampling.top_p")?;
    generation.min_p = number("general.sampling.min_p")?;
    generation.top_k = meta.global_size("general.sampling.top_k")?.filter(|&k| k > 0);
    generation.bos_text = vocab::special_text_from_gguf(pairs, "tokenizer.ggml.bos_token_id")?;
    generation.eos_text = vocab::special_text_from_gguf(pairs, "tokenizer.ggml.eos_token_id")?;
    let mut stops = vocab::stop_tokens_from_gguf(pairs)?;
    if stops.is_empty() {
        stops.extend(meta.global_size("tokenizer.ggml.eos_token_id")?);
    }
    generation.stop_tokens = tidy(stops, vocab, &meta.file)?;
    Ok(speech)
}

/// `tokenizer_config.json` beside the tokenizer itself.
struct Texts<'a> {
    file: PathBuf,
    config: Option<&'a Value>,
    document: Option<&'a Value>,
}

impl Texts<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.config?.get(key).filter(|v| !v.is_null())
    }

    /// A special token's text: a text, or an object with `content`.
    fn special(&self, key: &str) -> Result<Option<String>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = value.as_str().or_else(|| value.get("content")?.as_str());
        let Some(text) = text else {
            return Err(malformed(&self.file, format!("{key} is {}; a text or an object with content is needed", shown(value))));
        };
        Ok(Some(text.to_owned()))
    }

    /// Id of an added token.
    fn id(&self, text: &str) -> Option<u32> {
        let added = self.document?.get("added_tokens")?.as_array()?;
        let token = added.iter().find(|t| t.get("content").and_then(Value::as_str) == Some(text))?;
        u32::try_from(token.get("id")?.as_u64()?).ok()
    }
}

/// `generation_config.json`.
struct Section<'a> {
    file: PathBuf,
    value: Option<&'a Value>,
}

impl Section<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.value?.get(key).filter(|v| !v.is_null())
    }

    fn number(&self, key: &str) -> Result<Option<f32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(x) if x >= 0.0 => Ok(Some(x as f32)),
            _ => Err(malformed(&self.file, format!("{key} is {}; a number of at least 0 is needed", shown(value)))),
        }
    }

    fn count(&self, key: &str) -> Result<Option<u32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_i64() {
            Some(-1) => Ok(None), // some configurations switch top-k off so
            Some(n) if u32::try_from(n).is_ok() => Ok(u32::try_from(n).ok()),
            _ => Err(malformed(&self.file, format!("{key} is {}; a whole number is needed", shown(value)))),
        }
    }
}

/// An id or a list of ids.
fn ids(file: &Path, key: &str, value: Option<&Value>) -> Result<Vec<u32>> {
    let one = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
    let list = match value {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(one).collect(),
        Some(value) => one(value).map(|id| vec![id]),
    };
    list.ok_or_else(|| {
        malformed(file, format!("{key} is {}; a token id or a list of them is needed", value.map(shown).unwrap_or_default()))
    })
}

fn check_id(id: Option<u32>, vocab: u32, file: &Path, what: &str) -> Result<()> {
    match id {
        Some(id) if id >= vocab => Err(malformed(file, format!("{what} is {id}, but the vocabulary has {vocab} rows"))),
        _ => Ok(()),
    }
}

/// Ascending, without repetition, all inside the vocabulary.
fn tidy(mut stops: Vec<u32>, vocab: u32, file: &Path) -> Result<Vec<u32>> {
    stops.sort_unstable();
    stops.dedup();
    check_id(stops.last().copied(), vocab, file, "an end token")?;
    Ok(stops)
}
