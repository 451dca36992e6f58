//! A Hugging Face model directory: configuration, tokenizer, and weights in one safetensors file or in shards with an index.

use super::file::{Opened, Root, quoted, read_small, source_error};
use super::index::{self, Index};
use super::{Checkpoint, MAX_TENSORS, Meta, Tensor, WeightFile, json, safetensors};
use crate::error::{Error, Result};
use serde_json::Value;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

const CONFIG_LIMIT: u64 = 4 << 20;
const TOKENIZER_CONFIG_LIMIT: u64 = 16 << 20;
const TOKENIZER_LIMIT: u64 = 256 << 20;
const TEMPLATE_LIMIT: u64 = 1 << 20;
const INDEX_LIMIT: u64 = 64 << 20;
/// Values in a configuration. A `tokenizer_config.json` with 10 000 added tokens has about 80 000.
const MAX_NODES: u32 = 500_000;

const INDEX_SUFFIX: &str = ".safetensors.index.json";
const SINGLE: &str = "model.safetensors";

/// Which files of the directory hold the weights.
enum Weights {
    Single(String),
    Indexed(String),
}

/// Opens the directory `dir`, or the model directory of the Hugging Face cache (`models--org--name`).
pub(super) fn open_dir(path: &Path, dir: &Path) -> Result<Checkpoint> {
    if let Some(snapshot) = hub_snapshot(dir)? {
        return open_dir(path, &snapshot);
    }
    let root = Root::new(dir)?;
    let weights = find_weights(&root)?;
    open(path, &root, weights)
}

/// Opens the checkpoint that has the safetensors file or index `name` in it.
pub(super) fn open_file(path: &Path, dir: &Path, name: &str) -> Result<Checkpoint> {
    let root = Root::new(dir)?;
    if name.ends_with(INDEX_SUFFIX) {
        return open(path, &root, Weights::Indexed(name.to_owned()));
    }
    // A shard stands for its checkpoint; any other file stands for itself.
    for candidate in root.names()?.into_iter().filter(|n| n.ends_with(INDEX_SUFFIX)) {
        if read_index(&root, &candidate)?.0.shards.iter().any(|s| s == name) {
            return open(path, &root, Weights::Indexed(candidate));
        }
    }
    open(path, &root, Weights::Single(name.to_owned()))
}

/// The snapshot that `refs/main` of a cache directory names.
fn hub_snapshot(dir: &Path) -> Result<Option<PathBuf>> {
    let snapshots = dir.join("snapshots");
    if !snapshots.is_dir() || !dir.join("refs").is_dir() {
        return Ok(None);
    }
    let refs = Root::new(&dir.join("refs"))?;
    let Some(bytes) = refs.read_small("main", 4096)? else {
        let revisions = Root::new(&snapshots)?.names()?;
        return match revisions.as_slice() {
            [only] => Ok(Some(snapshots.join(only))),
            _ => Err(source_error(dir, format!("has no refs/main; name one of its snapshots: {}", listed(&revisions)))),
        };
    };
    let revision = String::from_utf8_lossy(&bytes).trim().to_owned();
    let plain = revision.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) && !revision.starts_with('.');
    if revision.is_empty() || !plain {
        return Err(Error::Malformed { file: dir.join("refs/main"), why: format!("{} is not a revision", quoted(&revision)) });
    }
    let snapshot = snapshots.join(&revision);
    if snapshot.is_dir() {
        Ok(Some(snapshot))
    } else {
        Err(source_error(&snapshot, "is not in the cache, though refs/main names it: download it again"))
    }
}

/// At most ten names, for a message.
fn listed(names: &[String]) -> String {
    let mut text = names.iter().take(10).map(|n| quoted(n)).collect::<Vec<_>>().join(", ");
    if names.is_empty() {
        text.push_str("(none)");
    } else if names.len() > 10 {
        text.push_str(", ...");
    }
    text
}

/// The index decides if there is one; else `model.safetensors`; else the only safetensors file.
fn find_weights(root: &Root) -> Result<Weights> {
    let names = root.names()?;
    let with = |suffix: &str| names.iter().filter(|n| n.ends_with(suffix)).cloned().collect::<Vec<_>>();
    let (mut indexes, mut files) = (with(INDEX_SUFFIX), with(".safetensors"));
    let preferred = format!("model{INDEX_SUFFIX}");
    if indexes.contains(&preferred) {
        return Ok(Weights::Indexed(preferred));
    }
    if files.iter().any(|n| n == SINGLE) {
        return Ok(Weights::Single(SINGLE.into()));
    }
    match (indexes.len(), files.len()) {
        (1, _) => return Ok(Weights::Indexed(indexes.remove(0))),
        (0, 1) => return Ok(Weights::Single(files.remove(0))),
        (0, 0) => {}
        (0, _) => {
            let why = format!(
                "holds the safetensors files {} but no model{INDEX_SUFFIX}: download it too, or name one file that is a whole model",
                listed(&files)
            );
            return Err(source_error(&root.shown, why));
        }
        _ => return Err(source_error(&root.shown, format!("holds several indexes: name one of {}", listed(&indexes)))),
    }
    Err(no_weights(root, &names))
}

/// Why a directory without safetensors is no source.
fn no_weights(root: &Root, names: &[String]) -> Error {
    let with = |suffixes: &[&str]| names.iter().filter(|n| suffixes.iter().any(|s| n.ends_with(s))).cloned().collect::<Vec<_>>();
    let (gguf, pickles) = (with(&[".gguf"]), with(&[".bin", ".pt", ".pth", ".ckpt", ".pkl"]));
    let partial = with(&[".incomplete", ".part", ".crdownload", ".aria2"]);
    if !gguf.is_empty() {
        return source_error(&root.shown, format!("holds GGUF files: name one of {}", listed(&gguf)));
    }
    if !pickles.is_empty() {
        return Error::Unsupported {
            what: format!("{}: a checkpoint of pickle files ({})", root.shown.display(), listed(&pickles)),
            hint: "unpickling can run any code, so this program never does; download the safetensors version of the model".into(),
        };
    }
    if !partial.is_empty() {
        return source_error(&root.shown, format!("holds an unfinished download ({}): finish it first", listed(&partial)));
    }
    source_error(&root.shown, "holds no .safetensors and no .gguf file; get the model with `hf download ORG/NAME --local-dir DIR`")
}

fn read_index(root: &Root, name: &str) -> Result<(Index, Vec<u8>)> {
    let Some(opened) = root.open(name)? else { return Err(source_error(&root.shown.join(name), "does not exist")) };
    let bytes = read_small(&opened, INDEX_LIMIT)?;
    Ok((index::parse(&opened, &bytes)?, bytes))
}

fn open(path: &Path, root: &Root, weights: Weights) -> Result<Checkpoint> {
    let mut small_files = Vec::new();
    let meta = read_meta(root, &mut small_files)?;
    let (shards, index) = match weights {
        Weights::Single(name) => (vec![name], None),
        Weights::Indexed(name) => {
            let (mut index, bytes) = read_index(root, &name)?;
            small_files.push((name.clone(), bytes));
            check_unlisted(root, &name, &index)?;
            (std::mem::take(&mut index.shards), Some((name, index)))
        }
    };
    let (mut files, mut tensors) = (Vec::with_capacity(shards.len()), Vec::new());
    for shard in shards {
        let Some(opened) = root.open(&shard)? else {
            let from = index.as_ref().map(|(name, _)| format!(", though {name} lists it")).unwrap_or_default();
            return Err(source_error(&root.shown.join(&shard), format!("is missing{from}: download the rest of the model")));
        };
        files.push(read_shard(&opened, shard, files.len(), &mut tensors)?);
    }
    let by_name = name_table(root, &files, &tensors)?;
    if let Some((name, index)) = &index {
        check_index(&root.shown.join(name), index, &files, &tensors, &by_name)?;
    }
    Ok(Checkpoint { path: path.to_path_buf(), files, tensors, by_name, meta, small_files })
}

fn read_shard(opened: &Opened, name: String, position: usize, tensors: &mut Vec<Tensor>) -> Result<WeightFile> {
    let header = safetensors::read_header(opened, MAX_TENSORS.saturating_sub(tensors.len()))?;
    let first = tensors.len();
    tensors.extend(header.tensors);
    tensors.iter_mut().skip(first).for_each(|t| t.file = position);
    Ok(WeightFile {
        path: opened.resolved.clone(),
        name,
        fingerprint: opened.fingerprint,
        header_bytes: header.bytes,
        header_blake3: header.blake3,
    })
}

/// Position of each tensor; a name that two tensors have is an error.
fn name_table(root: &Root, files: &[WeightFile], tensors: &[Tensor]) -> Result<HashMap<String, usize>> {
    let mut by_name = HashMap::with_capacity(tensors.len());
    for (position, tensor) in tensors.iter().enumerate() {
        match by_name.entry(tensor.name.clone()) {
            Entry::Vacant(entry) => entry.insert(position),
            Entry::Occupied(entry) => {
                let file = |i: usize| tensors.get(i).and_then(|t| files.get(t.file)).map_or("", |f| f.name.as_str());
                let (first, second) = (file(*entry.get()), file(position));
                let why = if first == second {
                    format!("the header has tensor {} twice", quoted(&tensor.name))
                } else {
                    format!("tensor {} is also in {first}", quoted(&tensor.name))
                };
                return Err(Error::Malformed { file: root.shown.join(second), why });
            }
        };
    }
    Ok(by_name)
}

/// The index and the shards' headers agree about every tensor.
fn check_index(path: &Path, index: &Index, files: &[WeightFile], tensors: &[Tensor], by_name: &HashMap<String, usize>) -> Result<()> {
    let malformed = |why: String| Err(Error::Malformed { file: path.to_path_buf(), why });
    let file_name = |i: usize| files.get(i).map_or("", |f| f.name.as_str());
    // Sorted, so that of several disagreements the same one is always reported.
    let mut listed: Vec<_> = index.weight_map.iter().collect();
    listed.sort_unstable();
    for (name, &shard) in listed {
        match by_name.get(name).and_then(|&i| tensors.get(i)) {
            None => return malformed(format!("says that tensor {} is in {}, which does not have it", quoted(name), file_name(shard))),
            Some(tensor) if tensor.file != shard => {
                let why = format!("says that tensor {} is in {}, but it is in {}", quoted(name), file_name(shard), file_name(tensor.file));
                return malformed(why);
            }
            Some(_) => {}
        }
    }
    match tensors.iter().find(|t| !index.weight_map.contains_key(&t.name)) {
        Some(tensor) => malformed(format!("does not list tensor {} of {}", quoted(&tensor.name), file_name(tensor.file))),
        None => Ok(()),
    }
}

/// `a-00003-of-00003.safetensors` as `("a-", "00003.safetensors")`.
fn numbered(name: &str) -> Option<(&str, &str)> {
    let (start, total) = name.rsplit_once("-of-")?;
    let digits = start.bytes().rev().take_while(u8::is_ascii_digit).count();
    let prefix = start.get(..start.len().checked_sub(digits)?)?;
    (digits > 0).then_some((prefix, total))
}

/// A file numbered like the listed shards but not among them belongs to another version of the index.
fn check_unlisted(root: &Root, index_name: &str, index: &Index) -> Result<()> {
    for name in root.names()? {
        let Some(pattern) = numbered(&name).filter(|_| name.ends_with(".safetensors")) else { continue };
        if index.shards.binary_search(&name).is_err() && index.shards.iter().any(|s| numbered(s) == Some(pattern)) {
            let why = format!("does not list the shard {}, which is in the directory: the two are of different versions", quoted(&name));
            return Err(Error::Malformed { file: root.shown.join(index_name), why });
        }
    }
    Ok(())
}

fn read_meta(root: &Root, small_files: &mut Vec<(String, Vec<u8>)>) -> Result<Meta> {
    let Some(config) = read_object(root, "config.json", CONFIG_LIMIT, small_files)? else {
        return Err(source_error(&root.shown.join("config.json"), "is missing: download the whole model, not only its weights"));
    };
    let tokenizer = match root.open("tokenizer.json")? {
        None => None,
        Some(opened) => {
            let bytes = read_small(&opened, TOKENIZER_LIMIT)?;
            json::check_object(&opened, &bytes, "model")?;
            small_files.push(("tokenizer.json".into(), bytes.clone()));
            Some(String::from_utf8(bytes).map_err(|e| opened.malformed(format!("is not UTF-8 at byte {}", e.utf8_error().valid_up_to())))?)
        }
    };
    let tokenizer_config = read_object(root, "tokenizer_config.json", TOKENIZER_CONFIG_LIMIT, small_files)?;
    let generation_config = read_object(root, "generation_config.json", CONFIG_LIMIT, small_files)?;
    let chat_template = read_template(root, tokenizer_config.as_ref(), small_files)?;
    Ok(Meta::HuggingFace { config, tokenizer, tokenizer_config, generation_config, chat_template })
}

fn read_object(root: &Root, name: &str, limit: u64, small_files: &mut Vec<(String, Vec<u8>)>) -> Result<Option<Value>> {
    let Some(opened) = root.open(name)? else { return Ok(None) };
    let bytes = read_small(&opened, limit)?;
    let value = json::parse_object(&opened, &bytes, MAX_NODES)?;
    small_files.push((name.to_owned(), bytes));
    Ok(Some(value))
}

/// The template for conversations: a file of its own, else the one in `tokenizer_config.json` (the order `transformers` has), else `chat_template.json`.
fn read_template(root: &Root, tokenizer_config: Option<&Value>, small_files: &mut Vec<(String, Vec<u8>)>) -> Result<Option<String>> {
    const FILE: &str = "chat_template.jinja";
    if let Some(opened) = root.open(FILE)? {
        let bytes = read_small(&opened, TEMPLATE_LIMIT)?;
        small_files.push((FILE.into(), bytes.clone()));
        let text =
            String::from_utf8(bytes).map_err(|e| opened.malformed(format!("is not UTF-8 at byte {}", e.utf8_error().valid_up_to())))?;
        return Ok(Some(text));
    }
    if let Some(value) = tokenizer_config.and_then(|c| c.get("chat_template")).filter(|v| !v.is_null()) {
        return template_of(&root.shown.join("tokenizer_config.json"), value);
    }
    match read_object(root, "chat_template.json", TEMPLATE_LIMIT, small_files)? {
        Some(object) => object.get("chat_template").map_or(Ok(None), |v| template_of(&root.shown.join("chat_template.json"), v)),
        None => Ok(None),
    }
}

/// A template, or the one named "default" of a list of `{name, template}`.
fn template_of(file: &Path, value: &Value) -> Result<Option<String>> {
    let malformed = |why: &str| Err(Error::Malformed { file: file.to_path_buf(), why: why.into() });
    let text = match value {
        Value::String(text) => Some(text),
        Value::Array(list) => {
            let mut default = None;
            for entry in list {
                let (Some(Value::String(name)), Some(Value::String(text))) = (entry.get("name"), entry.get("template")) else {
                    return malformed("chat_template is a list with an entry that is not {name, template}");
                };
                if name == "default" {
                    default = Some(text);
                }
            }
            default
        }
        _ => return malformed("chat_template is neither a string nor a list"),
    };
    match text {
        Some(text) if text.len() as u64 > TEMPLATE_LIMIT => malformed("chat_template is longer than 1 MiB"),
        text => Ok(text.cloned()),
    }
}

#[cfg(test)]
mod tests {
    use super::numbered;

    #[test]
    fn numbered_names() {
        assert_eq!(numbered("model-00001-of-00002.safetensors"), Some(("model-", "00002.safetensors")));
        assert_eq!(numbered("model.safetensors-00001-of-00003.safetensors"), Some(("model.safetensors-", "00003.safetensors")));
        assert_eq!(numbered("model-x-of-00002.safetensors"), None);
        assert_eq!(numbered("model.safetensors"), None);
    }
}
