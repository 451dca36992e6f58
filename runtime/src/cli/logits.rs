//! `forebay logits`: what the model computes for given tokens, for comparisons with other programs.

use super::interrupt::Interrupt;
use super::{Outcome, engine};
use crate::engine::{Engine, Wanted};
use crate::error::{Error, Result};
use forebay_format::Manifest;
use forebay_format::model::Ffn;
use serde_json::{Map, json};
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Write the logits of every token, and the routers' choices, to a safetensors file
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Pack
    file: PathBuf,
    /// Token ids, separated by commas or spaces; none is added
    #[arg(long, value_name = "1,2,3", value_parser = list)]
    tokens: Ids,
    /// File to write: logits [tokens, vocab] f32; router.N [tokens, top_k] i32 and router_weights.N f32 for each layer N with experts
    #[arg(short, long, value_name = "OUT.safetensors")]
    output: PathBuf,
    /// Tokens of the context [default: as many as are given]
    #[arg(short, long = "ctx-size", value_name = "CTX", value_parser = engine::tokens)]
    context: Option<u32>,
    #[command(flatten)]
    engine: engine::Flags,
}

#[derive(Clone)]
struct Ids(Vec<u32>);

fn list(text: &str) -> std::result::Result<Ids, String> {
    let parts = text.split([',', ' ', '\n', '\t']).filter(|part| !part.is_empty());
    let ids: std::result::Result<Vec<u32>, _> = parts.map(str::parse).collect();
    match ids {
        Ok(ids) if !ids.is_empty() => Ok(Ids(ids)),
        Ok(_) => Err("no token ids".into()),
        Err(error) => Err(format!("expected token ids: {error}")),
    }
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let interrupt = Interrupt::install();
    let ids = &arguments.tokens.0;
    let count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    let mut engine = arguments.engine.open(&arguments.file, Some(arguments.context.unwrap_or(count)), &interrupt.cancel)?;
    let partial = partial_path(&arguments.output);
    let written = write(&mut engine, ids, &partial, &interrupt);
    let finished = written.and_then(|()| {
        let io = |error| Error::Io { file: arguments.output.clone(), what: "giving the file its name".into(), error };
        std::fs::rename(&partial, &arguments.output).map_err(io)
    });
    if finished.is_err() {
        // The half-written file is of no use; that it may not exist is fine.
        let _ = std::fs::remove_file(&partial);
    }
    Ok(finished?)
}

fn partial_path(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_os_string();
    name.push(".partial");
    PathBuf::from(name)
}

fn write(engine: &mut Engine, ids: &[u32], path: &Path, interrupt: &Interrupt) -> Result<()> {
    let layout = Layout::new(engine.manifest(), ids.len())?;
    let io = |error| Error::Io { file: path.to_path_buf(), what: "creating the file".into(), error };
    let file = File::create(path).map_err(io)?;
    let writer = Rc::new(Writer { file, path: path.to_path_buf(), failed: RefCell::new(None) });
    writer.put(0, &layout.header);
    let layout = Rc::new(layout);
    let (routed, routers) = (Rc::clone(&writer), Rc::clone(&layout));
    engine.set_router_sink(Some(Box::new(move |layer, position, chosen| {
        if let Some(&(offset, top_k)) = routers.routers.get(layer as usize).and_then(Option::as_ref) {
            let row = (position as u64) * top_k * 4;
            let ids: Vec<u8> = chosen.iter().flat_map(|(id, _)| id.to_le_bytes()).collect();
            let weights: Vec<u8> = chosen.iter().flat_map(|(_, weight)| weight.to_le_bytes()).collect();
            routed.put(offset + row, &ids);
            routed.put(offset + routers.tokens * top_k * 4 + row, &weights);
        }
    })));
    interrupt.prompt();
    let fed = engine.feed(ids, Wanted::All, &mut |position, logits| {
        let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
        writer.put(layout.logits + (position as u64) * layout.vocab * 4, &bytes);
    });
    engine.set_router_sink(None);
    fed?;
    match writer.failed.borrow_mut().take() {
        Some(error) => Err(Error::Io { file: writer.path.clone(), what: "writing logits".into(), error }),
        None => writer.file.sync_all().map_err(|error| Error::Io { file: path.to_path_buf(), what: "writing logits".into(), error }),
    }
}

/// Where each tensor is in the file. All sizes are known before the first logit is, so nothing is kept in memory.
struct Layout {
    /// The length and the JSON text.
    header: Vec<u8>,
    tokens: u64,
    vocab: u64,
    /// Offset of `logits` in the file.
    logits: u64,
    /// By layer: offset of `router.N` in the file and its top-k. `router_weights.N` follows at once.
    routers: Vec<Option<(u64, u64)>>,
}

impl Layout {
    fn new(manifest: &Manifest, tokens: usize) -> Result<Self> {
        let (tokens, vocab) = (tokens as u64, u64::from(manifest.spec.vocab));
        let mut entries = Map::new();
        let mut end = 0_u64;
        let mut place = |name: String, dtype: &str, cols: u64| {
            let start = end;
            end += tokens * cols * 4;
            entries.insert(name, json!({"dtype": dtype, "shape": [tokens, cols], "data_offsets": [start, end]}));
            start
        };
        let logits = place("logits".into(), "F32", vocab);
        let mut routers = Vec::new();
        for (layer, spec) in manifest.spec.layers.iter().enumerate() {
            let Ffn::Routed(routed) = &spec.ffn else {
                routers.push(None);
                continue;
            };
            let top_k = u64::from(routed.top_k);
            routers.push(Some((place(format!("router.{layer}"), "I32", top_k), top_k)));
            place(format!("router_weights.{layer}"), "F32", top_k);
        }
        let mut json = serde_json::to_vec(&entries).map_err(|e| Error::Request(format!("the header cannot be written: {e}")))?;
        json.resize(json.len().next_multiple_of(8), b' ');
        let mut header = (json.len() as u64).to_le_bytes().to_vec();
        header.append(&mut json);
        let data = header.len() as u64;
        for router in routers.iter_mut().flatten() {
            router.0 += data;
        }
        Ok(Layout { header, tokens, vocab, logits: data + logits, routers })
    }
}

/// Writes at offsets and remembers the first error: callbacks of the engine cannot return one.
struct Writer {
    file: File,
    path: PathBuf,
    failed: RefCell<Option<std::io::Error>>,
}

impl Writer {
    fn put(&self, offset: u64, bytes: &[u8]) {
        let mut failed = self.failed.borrow_mut();
        if failed.is_none() {
            *failed = self.file.write_all_at(bytes, offset).err();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::list;

    #[test]
    fn token_lists() {
        assert_eq!(list("1,2, 3\n4").unwrap().0, [1, 2, 3, 4]);
        for bad in ["", ",", "1,x", "-1", "4294967296"] {
            assert!(list(bad).is_err(), "{bad:?}");
        }
    }
}
