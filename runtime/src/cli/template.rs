//! `forebay template`.

use super::{Failure, Outcome, answer, files};
use crate::chat::{MAX_OUTPUT_BYTES, MAX_TEMPLATE_BYTES, sandbox};
use crate::error::{Error, Result};
use crate::pack::Pack;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Print the prompt that a chat template makes of a conversation
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Pack whose template is used
    #[arg(required_unless_present = "template_file")]
    file: Option<PathBuf>,
    /// Template instead of a pack's
    #[arg(long, value_name = "T.jinja", conflicts_with = "file")]
    template_file: Option<PathBuf>,
    /// JSON array of messages
    #[arg(long, value_name = "M.json")]
    messages: PathBuf,
    /// JSON array of tools
    #[arg(long, value_name = "T.json")]
    tools: Option<PathBuf>,
    /// Variable of the template, such as enable_thinking=false or add_generation_prompt=false
    #[arg(long = "set", value_name = "NAME=JSON", value_parser = assignment)]
    set: Vec<(String, Value)>,
}

fn assignment(text: &str) -> std::result::Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=JSON")?;
    let value = serde_json::from_str(value).map_err(|e| format!("the value is not JSON ({e}); a string needs quotes"))?;
    Ok((name.to_string(), value))
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let mut variables = Map::new();
    let template = match (&arguments.file, &arguments.template_file) {
        (_, Some(path)) => files::read_text(path, MAX_TEMPLATE_BYTES as u64)?,
        (Some(path), None) => {
            let manifest = Pack::open(path)?.manifest;
            variables = special_texts(&manifest.generation);
            let none = || Error::Request(format!("{}: the pack has no chat template", path.display()));
            manifest.chat_template.ok_or_else(none)?
        }
        (None, None) => return Err(Failure::Usage("name a pack or a --template-file".into())),
    };
    variables.insert("messages".into(), array(&arguments.messages)?);
    variables.insert("tools".into(), arguments.tools.as_deref().map(array).transpose()?.unwrap_or(Value::Null));
    variables.insert("add_generation_prompt".into(), true.into());
    variables.extend(arguments.set.iter().cloned());
    answer(&sandbox::render(&template, &variables)?)?;
    Ok(())
}

/// `bos_token` and `eos_token`, which templates put into the prompt.
pub(super) fn special_texts(generation: &forebay_format::layout::manifest::Generation) -> Map<String, Value> {
    let texts = [("bos_token", &generation.bos_text), ("eos_token", &generation.eos_text)];
    texts.into_iter().filter_map(|(name, text)| Some((name.to_string(), Value::from(text.clone()?)))).collect()
}

fn array(path: &Path) -> Result<Value> {
    let text = files::read_text(path, MAX_OUTPUT_BYTES as u64)?;
    match serde_json::from_str(&text) {
        Ok(value @ Value::Array(_)) => Ok(value),
        Ok(_) => Err(Error::Request(format!("{}: not a JSON array", path.display()))),
        Err(error) => Err(Error::Request(format!("{}: {error}", path.display()))),
    }
}
