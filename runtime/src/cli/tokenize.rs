//! `forebay tokenize`.

use super::{Outcome, answer, answer_json, files};
use crate::error::{Error, Result};
use crate::pack::Pack;
use crate::tokenizer::{MAX_TEXT_BYTES, Specials, Tokenizer};
use forebay_format::Manifest;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Print the token ids of a text, special tokens parsed, without the BOS that a prompt gets
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Pack
    file: PathBuf,
    /// Text; standard input if absent
    text: Option<String>,
    /// File with the text
    #[arg(short, long = "file", value_name = "PATH", conflicts_with = "text")]
    from: Option<PathBuf>,
    /// Put the model's BOS in front, as run does
    #[arg(long)]
    bos: bool,
    /// Print one JSON object: tokens, pieces, bos
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let pack = Pack::open(&arguments.file)?;
    let tokenizer = load(&arguments.file, &pack.manifest)?;
    let text = match (&arguments.text, &arguments.from) {
        (Some(text), _) => text.clone(),
        (None, Some(path)) => files::read_text(path, MAX_TEXT_BYTES as u64)?,
        (None, None) => files::read_text(Path::new("-"), MAX_TEXT_BYTES as u64)?,
    };
    let mut ids = tokenizer.encode(&text, Specials::Parse)?;
    if arguments.bos {
        put_bos(&tokenizer, &mut ids);
    }
    if arguments.json {
        // Together they are the text; bytes of a character come with its last token.
        let mut stream = tokenizer.stream(false);
        let pieces: Vec<String> = ids.iter().map(|&id| stream.push(id)).collect();
        answer_json(&json!({"tokens": ids, "pieces": pieces, "bos": tokenizer.bos()}))?;
    } else {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        answer(&format!("{}\n", ids.join(" ")))?;
    }
    Ok(())
}

/// The tokenizer of a pack.
pub(super) fn load(file: &Path, manifest: &Manifest) -> Result<Tokenizer> {
    match &manifest.tokenizer {
        Some(tokenizer) => Tokenizer::new(tokenizer, manifest.spec.vocab),
        None => Err(Error::Request(format!("{}: the pack has no tokenizer; its source had none", file.display()))),
    }
}

/// Puts the model's beginning-of-sequence token in front, unless it is there.
pub(super) fn put_bos(tokenizer: &Tokenizer, ids: &mut Vec<u32>) {
    if let Some(bos) = tokenizer.bos().filter(|bos| ids.first() != Some(bos)) {
        ids.insert(0, bos);
    }
}
