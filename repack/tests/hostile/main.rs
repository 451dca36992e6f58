//! Malformed checkpoints: each class of `Case` gives its own typed error, quickly, and leaves nothing behind.

mod build;
mod directory_cases;
mod gguf_cases;
mod mutations;
mod safetensors_cases;
mod unusual;

use forebay_repack::{Error, source};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Which variant of the error is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The content is damaged.
    Malformed,
    /// The files are not what they should be.
    Source,
    /// Fine, but not for this program.
    Unsupported,
}

/// Writes a checkpoint into the directory it gets; the result is the path to open.
type Make = Box<dyn Fn(&Path) -> PathBuf>;

/// One malformed checkpoint and what must be said about it.
pub struct Case {
    /// Class, as the survey of hazards numbers it, and what is wrong.
    name: &'static str,
    kind: Kind,
    /// Part of the message.
    expect: &'static str,
    make: Make,
}

impl Case {
    /// A case; see the fields.
    pub fn new(name: &'static str, kind: Kind, expect: &'static str, make: impl Fn(&Path) -> PathBuf + 'static) -> Self {
        Self { name, kind, expect, make: Box::new(make) }
    }
}

fn all_cases() -> Vec<Case> {
    let mut cases = safetensors_cases::cases();
    cases.extend(gguf_cases::cases());
    cases.extend(directory_cases::cases());
    cases
}

/// Every path under `dir` with its size.
fn listing(dir: &Path) -> BTreeSet<(PathBuf, u64)> {
    let mut found = BTreeSet::new();
    let mut rest = vec![dir.to_path_buf()];
    while let Some(dir) = rest.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap()) {
            let meta = entry.metadata().unwrap();
            found.insert((entry.path(), meta.len()));
            if meta.is_dir() {
                rest.push(entry.path());
            }
        }
    }
    found
}

/// What is wrong with the answer to `case`, if anything.
fn judge(case: &Case) -> Result<(), String> {
    let dir = tempfile::tempdir().unwrap();
    let path = (case.make)(dir.path());
    let before = listing(dir.path());
    let start = Instant::now();
    let result = source::open(&path);
    let took = start.elapsed();
    let error = match result {
        Ok(_) => return Err("it was accepted".into()),
        Err(error) => error,
    };
    let kind = match error {
        Error::Malformed { .. } => Kind::Malformed,
        Error::Source { .. } => Kind::Source,
        Error::Unsupported { .. } => Kind::Unsupported,
        other => return Err(format!("an error of another kind: {other}")),
    };
    let message = error.to_string();
    if kind != case.kind || !message.contains(case.expect) {
        return Err(format!("{kind:?}: {message}\n      expected {:?}: ...{}...", case.kind, case.expect));
    }
    if !message.contains(dir.path().to_str().unwrap()) && !message.starts_with("/dev/") {
        return Err(format!("the message names no file: {message}"));
    }
    if message.chars().any(char::is_control) || message.len() > 2000 {
        return Err(format!("the message is no line of text: {message:?}"));
    }
    if took > Duration::from_secs(1) {
        return Err(format!("it took {took:?}"));
    }
    if listing(dir.path()) != before {
        return Err("the directory was changed".into());
    }
    Ok(())
}

#[test]
fn every_class_gives_its_error() {
    let cases = all_cases();
    let failures: Vec<_> = cases.iter().filter_map(|case| judge(case).err().map(|why| format!("  {}: {why}", case.name))).collect();
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// The table keeps its breadth: distinct names, and at least 45 distinct errors.
#[test]
fn the_table_is_broad() {
    let cases = all_cases();
    let names: BTreeSet<_> = cases.iter().map(|c| c.name).collect();
    let errors: BTreeSet<_> = cases.iter().map(|c| (c.name.split(' ').next(), c.expect)).collect();
    assert_eq!(names.len(), cases.len(), "two cases have the same name");
    assert!(errors.len() >= 45, "only {} distinct errors", errors.len());
}
