//! A GGUF checkpoint: one file, or the parts of a split (`NAME-00001-of-00003.gguf`), whichever part was named.

use super::file::{Opened, Root, quoted, source_error};
use super::gguf::{self, Header, get, get_uint};
use super::{Checkpoint, GgufValue, MAX_TENSORS, Meta, Tensor, WeightFile};
use crate::error::{Error, Result};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// Opens the checkpoint that the GGUF file `name` in `dir`, already open, is or belongs to.
pub(super) fn open(path: &Path, dir: &Path, name: &str, opened: Opened) -> Result<Checkpoint> {
    let header = gguf::read_header(&opened, MAX_TENSORS)?;
    let count = get_uint(&opened, &header.pairs, COUNT)?.unwrap_or(0);
    let mut builder = Builder::default();
    // A merged file keeps the key with the value 0.
    if count <= 1 {
        check_architecture(&opened, &header)?;
        builder.add(&opened, name.to_owned(), header)?;
        return Ok(builder.finish(path));
    }
    let number = get_uint(&opened, &header.pairs, NO)?;
    let Some(number) = number.filter(|&n| n < count) else {
        return Err(opened.malformed(format!("is part {number:?} (counted from 0) of {count}: {NO} is missing or too large")));
    };
    let pattern = Pattern::of(name).filter(|p| p.number == number + 1 && p.count == count).ok_or_else(|| {
        let why = format!(
            "is part {} of {count}, but its name does not end with -{:05}-of-{count:05}.gguf: give the parts their names back",
            number + 1,
            number + 1
        );
        source_error(path, why)
    })?;
    let root = Root::new(dir)?;
    let mut named = Some((opened, header));
    let mut expected = 0;
    for part in 0..count {
        let part_name = pattern.name(part + 1);
        let (opened, header) = match named.take() {
            Some(named) if part == number => named,
            other => {
                named = other;
                open_part(&root, &part_name, count, &builder)?
            }
        };
        if part == 0 {
            check_architecture(&opened, &header)?;
            expected =
                get_uint(&opened, &header.pairs, TENSORS)?.ok_or_else(|| opened.malformed(format!("the key {TENSORS} is missing")))?;
        }
        check_part(&opened, &header, part, count, &builder)?;
        builder.add(&opened, part_name, header)?;
    }
    if builder.tensors.len() as u64 != expected {
        let why = format!("{TENSORS} is {expected}, but the {count} parts have {}: they are of different models", builder.tensors.len());
        return Err(Error::Malformed { file: path.to_path_buf(), why });
    }
    Ok(builder.finish(path))
}

/// `PREFIX-NNNNN-of-MMMMM.gguf`.
struct Pattern<'a> {
    prefix: &'a str,
    number: u64,
    count: u64,
}

impl<'a> Pattern<'a> {
    fn of(name: &'a str) -> Option<Self> {
        let number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (prefix, part) = rest.rsplit_once('-')?;
        let pattern = Self { prefix, number: number(part)?, count: number(count)? };
        (pattern.name(pattern.number) == name).then_some(pattern)
    }

    fn name(&self, number: u64) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.prefix, self.count)
    }
}

fn open_part(root: &Root, name: &str, count: u64, builder: &Builder) -> Result<(Opened, Header)> {
    let Some(opened) = root.open(name)? else {
        return Err(source_error(&root.shown.join(name), format!("is missing: the model has {count} parts, download them all")));
    };
    let header = gguf::read_header(&opened, MAX_TENSORS.saturating_sub(builder.tensors.len()))?;
    Ok((opened, header))
}

/// A part says which it is, and says nothing that the first part contradicts.
fn check_part(opened: &Opened, header: &Header, part: u64, count: u64, builder: &Builder) -> Result<()> {
    let (no, of) = (get_uint(opened, &header.pairs, NO)?, get_uint(opened, &header.pairs, COUNT)?);
    if no != Some(part) || of != Some(count) {
        let shown = |n: Option<u64>| n.map_or("unknown".into(), |n| n.to_string());
        let why = format!("says that it is part {} of {}, but its name says {part} (counted from 0) of {count}", shown(no), shown(of));
        return Err(opened.malformed(why));
    }
    for (key, value) in header.pairs.iter().filter(|(key, _)| key != NO) {
        if get(&builder.pairs, key).is_some_and(|first| first != value) {
            return Err(opened.malformed(format!("{} differs from that of the first part: they are of different models", quoted(key))));
        }
    }
    Ok(())
}

/// `general.architecture` is what every other key depends on.
fn check_architecture(opened: &Opened, header: &Header) -> Result<()> {
    const KEY: &str = "general.architecture";
    match get(&header.pairs, KEY) {
        None => Err(opened.malformed(format!("the key {KEY} is missing"))),
        Some(GgufValue::Text(name)) => {
            let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'));
            if plain && (1..=64).contains(&name.len()) {
                Ok(())
            } else {
                Err(opened.malformed(format!("{KEY} is {}, which is no name", quoted(name))))
            }
        }
        Some(_) => Err(opened.malformed(format!("{KEY} is not a string"))),
    }
}

/// The checkpoint as its parts come in.
#[derive(Default)]
struct Builder {
    files: Vec<WeightFile>,
    tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
    pairs: Vec<(String, GgufValue)>,
}

impl Builder {
    fn add(&mut self, opened: &Opened, name: String, header: Header) -> Result<()> {
        for mut tensor in header.tensors {
            tensor.file = self.files.len();
            match self.by_name.entry(tensor.name.clone()) {
                Entry::Vacant(entry) => entry.insert(self.tensors.len()),
                Entry::Occupied(entry) => {
                    let first = self.tensors.get(*entry.get()).and_then(|t| self.files.get(t.file));
                    let place = first.map(|f| format!(", first in {}", f.name)).unwrap_or_default();
                    return Err(opened.malformed(format!("tensor {} appears twice{place}", quoted(&tensor.name))));
                }
            };
            self.tensors.push(tensor);
        }
        if self.files.is_empty() {
            self.pairs = header.pairs;
        }
        self.files.push(WeightFile {
            path: opened.resolved.clone(),
            name,
            fingerprint: opened.fingerprint,
            header_bytes: header.bytes,
            header_blake3: header.blake3,
        });
        Ok(())
    }

    fn finish(self, path: &Path) -> Checkpoint {
        let Self { files, tensors, by_name, pairs } = self;
        Checkpoint { path: path.to_path_buf(), files, tensors, by_name, meta: Meta::Gguf(pairs), small_files: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn patterns() {
        let p = Pattern::of("a-b-00002-of-00003.gguf").unwrap();
        assert_eq!((p.prefix, p.number, p.count), ("a-b", 2, 3));
        assert_eq!(p.name(1), "a-b-00001-of-00003.gguf");
        for bad in ["a-2-of-3.gguf", "a-00002-of-00003", "a.gguf", "-of-.gguf", "a-+0002-of-00003.gguf"] {
            assert!(Pattern::of(bad).is_none(), "{bad}");
        }
    }
}
