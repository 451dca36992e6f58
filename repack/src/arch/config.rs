//! Typed access to `config.json`: a missing or mistyped key is an error that names it.

use super::draft::{malformed, unsupported};
use crate::error::Result;
use forebay_format::model::Activation;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A configuration, or the text part of a multimodal one.
#[derive(Clone, Debug)]
pub(super) struct Config<'a> {
    /// `config.json`, for messages.
    pub file: PathBuf,
    /// The object that describes the text model.
    map: &'a Map<String, Value>,
    /// The whole document.
    pub outer: &'a Map<String, Value>,
    /// What to put before a key in messages: `text_config.` or nothing.
    section: &'static str,
}

impl<'a> Config<'a> {
    /// The text part of the document `config`.
    pub fn new(file: &Path, config: &'a Value) -> Result<Self> {
        let Value::Object(outer) = config else { return Err(malformed(file, "is not a JSON object")) };
        let (map, section) = match outer.get("text_config") {
            None | Some(Value::Null) => (outer, ""),
            Some(Value::Object(text)) => (text, "text_config."),
            Some(other) => return Err(malformed(file, format!("text_config is {}; an object is needed", shown(other)))),
        };
        Ok(Config { file: file.to_path_buf(), map, outer, section })
    }

    /// The value of `key`; null counts as missing.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// The key is there, be it null.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// An error about this file.
    pub fn malformed(&self, why: impl Into<String>) -> crate::error::Error {
        malformed(&self.file, why)
    }

    /// The name of `key` in messages.
    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.section)
    }

    fn mistyped(&self, key: &str, value: &Value, needed: &str) -> crate::error::Error {
        self.malformed(format!("{} is {}; {needed} is needed", self.name(key), shown(value)))
    }

    /// A whole number that must be there.
    pub fn size(&self, key: &str) -> Result<u32> {
        self.maybe_size(key)?.ok_or_else(|| self.malformed(format!("{} is missing", self.name(key))))
    }

    /// A whole number.
    pub fn maybe_size(&self, key: &str) -> Result<Option<u32>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64() {
            Some(n) => match u32::try_from(n) {
                Ok(n) => Ok(Some(n)),
                Err(_) => Err(self.malformed(format!("{} is {n}; the limit is {}", self.name(key), u32::MAX))),
            },
            None => Err(self.mistyped(key, value, "a whole number of at least 0")),
        }
    }

    /// A whole number with a default.
    pub fn size_or(&self, key: &str, default: u32) -> Result<u32> {
        Ok(self.maybe_size(key)?.unwrap_or(default))
    }

    /// A number.
    pub fn maybe_number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.mistyped(key, value, "a number"))
    }

    /// A bool with a default.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.mistyped(key, value, "true or false"))
    }

    /// A text.
    pub fn maybe_text(&self, key: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.mistyped(key, value, "a text"))
    }

    /// A list.
    pub fn maybe_list(&self, key: &str) -> Result<Option<&'a [Value]>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_array().map(|v| Some(v.as_slice())).ok_or_else(|| self.mistyped(key, value, "a list"))
    }

    /// An object, as a configuration of its own.
    pub fn maybe_section(&self, key: &'static str) -> Result<Option<Config<'a>>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let Value::Object(map) = value else { return Err(self.mistyped(key, value, "an object")) };
        let section = match key {
            "rope_parameters" => "rope_parameters.",
            "rope_scaling" => "rope_scaling.",
            _ => "",
        };
        Ok(Some(Config { file: self.file.clone(), map, outer: self.outer, section }))
    }

    /// Both sections say the same.
    pub fn same(&self, other: &Config) -> bool {
        self.map == other.map
    }

    /// The names of a layer's kind (`layer_types`), one a layer.
    pub fn layer_types(&self, layers: u32) -> Result<Option<Vec<&'a str>>> {
        let Some(list) = self.maybe_list("layer_types")? else { return Ok(None) };
        if list.len() as u64 != u64::from(layers) {
            let why = format!("{} has {} entries, but there are {layers} layers", self.name("layer_types"), list.len());
            return Err(self.malformed(why));
        }
        let names: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
        names.map(Some).ok_or_else(|| self.malformed(format!("{} holds something other than texts", self.name("layer_types"))))
    }

    /// `hidden_act`.
    pub fn activation(&self) -> Result<Activation> {
        self.activation_named(self.maybe_text("hidden_act")?.unwrap_or("silu"))
    }

    /// The activation with this name.
    pub fn activation_named(&self, name: &str) -> Result<Activation> {
        match name {
            "silu" | "swish" => Ok(Activation::Silu),
            "relu" => Ok(Activation::Relu),
            "relu2" => Ok(Activation::SquaredRelu),
            "fatrelu" => {
                let threshold = self.maybe_number("hidden_act_param")?;
                let threshold = threshold.ok_or_else(|| self.malformed(format!("{} is missing", self.name("hidden_act_param"))))?;
                if !(threshold.is_finite() && threshold >= 0.0) {
                    return Err(self.malformed(format!("{} is {threshold}; it must be at least 0", self.name("hidden_act_param"))));
                }
                Ok(Activation::FatRelu { threshold: threshold as f32 })
            }
            "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
            other => Err(unsupported(format!("activation {other:?}"), "known are silu, relu, relu2, fatrelu and gelu_pytorch_tanh")),
        }
    }

    /// Refuses a key that would change the computation, unless it is missing, null or `neutral`.
    pub fn refuse_unless(&self, key: &str, neutral: &Value) -> Result<()> {
        match self.get(key) {
            None => Ok(()),
            Some(value) if value == neutral => Ok(()),
            Some(value) => {
                let what = format!("{} = {}", self.name(key), shown(value));
                Err(unsupported(what, "this program does not know a model of this family with it"))
            }
        }
    }
}

/// A JSON value in a message, cut to a line.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        None => text,
        Some((cut, _)) => format!("{}...", &text[..cut]),
    }
}
