//! Checks on a `tokenizer.json` document before the `tokenizers` crate sees it: a byte-level or SentencePiece-style BPE
//! whose merges, ids and added tokens agree with each other and with the model. Borrows the strings of the document, so
//! that checking costs a fraction of loading.

use super::MAX_DOCUMENT_BYTES;
use crate::error::{Error, Result};
use serde::Deserialize;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;

/// Most normalizers, pre-tokenizers and decoders together.
const MAX_STEPS: usize = 64;
/// How many times longer the normalizers may make a text: each `Replace` can multiply it by the length of its content.
const MAX_GROWTH: usize = 64;

/// A token that is found in a text before anything else.
#[derive(Clone, Debug, Deserialize)]
pub struct Added {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub content: String,
    /// Whether plain text never means it.
    #[serde(default)]
    pub special: bool,
    /// Takes the white space on its left with it.
    #[serde(default)]
    pub lstrip: bool,
    /// Takes the white space on its right with it.
    #[serde(default)]
    pub rstrip: bool,
}

/// What the check found out.
#[derive(Debug)]
pub struct Checked {
    /// Added tokens, special or not.
    pub added: Vec<Added>,
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    decoder: Value,
    #[serde(borrow)]
    model: Model<'a>,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(rename = "type", default)]
    kind: Option<Cow<'a, str>>,
    #[serde(default)]
    dropout: Option<f64>,
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    end_of_word_suffix: Option<String>,
    #[serde(borrow)]
    vocab: Vocab<'a>,
    #[serde(borrow, default)]
    merges: Vec<Merge<'a>>,
}

/// Checks a document for a model of `vocab` ids.
pub fn check(json: &str, vocab: u32) -> Result<Checked> {
    if json.len() > MAX_DOCUMENT_BYTES {
        return Err(bad(format!("a document of {} bytes; at most {MAX_DOCUMENT_BYTES} are accepted", json.len())));
    }
    let document: Document<'_> = serde_json::from_str(json).map_err(|e| match e.to_string() {
        text if text.contains(NO_MAP) => Error::Unsupported(format!("tokenizer: {text}")),
        text => bad(text),
    })?;
    model(&document.model, vocab)?;
    added(&document, vocab)?;
    let mut budget = Budget { steps: 0, growth: 1 };
    for part in [&document.normalizer, &document.pre_tokenizer, &document.decoder] {
        budget.count(part)?;
    }
    Ok(Checked { added: document.added_tokens })
}

fn model(model: &Model<'_>, vocab: u32) -> Result<()> {
    if let Some(kind) = model.kind.as_deref().filter(|&kind| kind != "BPE") {
        return Err(Error::Unsupported(format!("tokenizer: the model type '{}' is not supported; BPE is", kind.escape_debug())));
    }
    let affixes = [&model.continuing_subword_prefix, &model.end_of_word_suffix];
    if affixes.iter().any(|affix| affix.as_ref().is_some_and(|affix| !affix.is_empty())) {
        return Err(Error::Unsupported("tokenizer: subword prefixes and suffixes are not supported".into()));
    }
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(Error::Unsupported("tokenizer: merges are dropped at random, which would give other ids each time".into()));
    }
    let ids = &model.vocab.0;
    let mut seen = HashSet::with_capacity(ids.len());
    for (text, &id) in ids {
        if id >= vocab {
            return Err(bad(format!("token '{}' has the id {id}, but the model has {vocab}", text.escape_debug())));
        }
        if !seen.insert(id) {
            return Err(bad(format!("two tokens have the id {id}; one is '{}'", text.escape_debug())));
        }
    }
    let mut joined = String::new();
    for (i, Merge(left, right)) in model.merges.iter().enumerate() {
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        if let Some(lacking) = [left, right, joined.as_str()].into_iter().find(|text| !ids.contains_key(*text)) {
            return Err(bad(format!("merge {i} needs the token '{}', which the vocabulary lacks", lacking.escape_debug())));
        }
    }
    Ok(())
}

fn added(document: &Document<'_>, vocab: u32) -> Result<()> {
    let mut seen = HashMap::new();
    for added in &document.added_tokens {
        let text = added.content.escape_debug();
        if added.content.is_empty() || added.id >= vocab {
            return Err(bad(format!("the added token '{text}' with id {} is empty or outside the model's {vocab} ids", added.id)));
        }
        if seen.insert(added.id, &added.content).is_some_and(|other| *other != added.content) {
            return Err(bad(format!("two added tokens have the id {}; one is '{text}'", added.id)));
        }
    }
    Ok(())
}

/// Work that the document's steps may make of a text.
struct Budget {
    steps: usize,
    growth: usize,
}

impl Budget {
    fn count(&mut self, step: &Value) -> Result<()> {
        for (key, value) in step.as_object().into_iter().flatten() {
            match key.as_str() {
                "normalizers" | "pretokenizers" | "decoders" => {
                    value.as_array().into_iter().flatten().try_for_each(|inner| self.count(inner))?;
                }
                "content" | "prepend" => {
                    self.growth = self.growth.saturating_mul(value.as_str().map_or(1, str::len).max(1));
                }
                _ => {}
            }
        }
        self.steps += 1;
        if self.steps > MAX_STEPS || self.growth > MAX_GROWTH {
            return Err(bad("more or larger replacement steps than any real tokenizer has".into()));
        }
        Ok(())
    }
}

/// `{text: id}`, each text once.
struct Vocab<'a>(HashMap<Cow<'a, str>, u32>);

/// A string that borrows from the document where it has no escapes.
struct Text<'a>(Cow<'a, str>);

/// `"left right"` or `["left", "right"]`.
struct Merge<'a>(Cow<'a, str>, Cow<'a, str>);

const NO_MAP: &str = "a vocabulary that is a map";

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> std::result::Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> std::result::Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_string())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Vocab<'a> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct VocabVisitor;
        impl<'de> Visitor<'de> for VocabVisitor {
            type Value = Vocab<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(NO_MAP)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Vocab<'de>, A::Error> {
                let mut ids = HashMap::new();
                while let Some((Text(text), id)) = map.next_entry::<Text<'de>, u32>()? {
                    if let Some(first) = ids.insert(text, id) {
                        return Err(de::Error::custom(format!("the token of the ids {first} and {id} is the same")));
                    }
                }
                Ok(Vocab(ids))
            }
        }
        deserializer.deserialize_map(VocabVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct MergeVisitor;
        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = Merge<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge: two strings, or one with a space between its parts")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> std::result::Result<Merge<'de>, E> {
                let (left, right) = split(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))?;
                Ok(Merge(left.into(), right.into()))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Merge<'de>, E> {
                let (left, right) = split(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))?;
                Ok(Merge(left.to_string().into(), right.to_string().into()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Merge<'de>, A::Error> {
                match (seq.next_element::<Text<'de>>()?, seq.next_element::<Text<'de>>()?, seq.next_element::<de::IgnoredAny>()?) {
                    (Some(Text(left)), Some(Text(right)), None) => Ok(Merge(left, right)),
                    _ => Err(de::Error::invalid_length(1, &self)),
                }
            }
        }
        deserializer.deserialize_any(MergeVisitor)
    }
}

fn split(merge: &str) -> Option<(&str, &str)> {
    merge.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '))
}

fn bad(why: String) -> Error {
    Error::Text(format!("tokenizer: {why}"))
}
