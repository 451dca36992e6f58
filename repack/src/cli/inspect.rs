//! `forebay-repack inspect`.

use super::{print, print_json};
use crate::error::{Error, Result};
use crate::inspect;
use forebay_format::reference::{ReadError, Reader};
use std::path::PathBuf;

/// Arguments of `inspect`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Pack to describe
    file: PathBuf,
    /// One line for each layer
    #[arg(long)]
    layers: bool,
    /// One line for each tensor
    #[arg(long)]
    tensors: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Describes a pack.
pub fn run(args: &Args) -> Result<()> {
    let reader = Reader::open(&args.file).map_err(|e| match e {
        ReadError::Io { error, .. } => Error::Io { path: args.file.clone(), what: "reading the pack", error },
        ReadError::Format(error) => Error::Format { file: args.file.clone(), error },
    })?;
    if args.json {
        return print_json(&inspect::to_json(&reader, args.layers, args.tensors));
    }
    let mut text = inspect::summary(&args.file.display().to_string(), &reader);
    if args.layers {
        text += &inspect::layers(&reader);
    }
    if args.tensors {
        text += &inspect::tensors(&reader);
    }
    print(&text)
}
