//! A head that is said to be tied but is there: the same bytes as the embedding, or a contradiction.

use super::assemble::file_of;
use super::draft::malformed;
use crate::error::{Error, Result};
use crate::source::{Checkpoint, Tensor};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const STEP: u64 = 1 << 20;

/// Whether the head can be left out: it is absent, or a copy of the embedding (files saved by some versions of `transformers` have
/// both). A head that differs is an error, because `transformers` would ignore it and others would not.
pub(super) fn is_tied(checkpoint: &Checkpoint, embedding: &str, head: &str, described: &Path) -> Result<bool> {
    let (Some(embedding), Some(head)) = (checkpoint.tensor(embedding), checkpoint.tensor(head)) else { return Ok(true) };
    if embedding.dtype == head.dtype && embedding.shape == head.shape && same_bytes(checkpoint, embedding, head)? {
        return Ok(true);
    }
    let says = described.file_name().unwrap_or_default().to_string_lossy();
    let why = format!("tensor {} differs from {}, but {says} says that they are tied (tie_word_embeddings)", head.name, embedding.name);
    Err(malformed(file_of(checkpoint, head), why))
}

fn same_bytes(checkpoint: &Checkpoint, a: &Tensor, b: &Tensor) -> Result<bool> {
    let length = a.range.end.saturating_sub(a.range.start);
    if b.range.end.saturating_sub(b.range.start) != length {
        return Ok(false);
    }
    let open = |t: &Tensor| {
        let path = file_of(checkpoint, t);
        File::open(path).map_err(|error| Error::Io { path: path.to_path_buf(), what: "comparing head and embedding", error })
    };
    let (file_a, file_b) = (open(a)?, open(b)?);
    let (mut left, mut right) = (vec![0u8; STEP as usize], vec![0u8; STEP as usize]);
    let mut at = 0;
    while at < length {
        let n = STEP.min(length - at) as usize;
        for (file, tensor, buffer) in [(&file_a, a, &mut left), (&file_b, b, &mut right)] {
            let part = buffer.get_mut(..n).unwrap_or_default();
            file.read_exact_at(part, tensor.range.start + at).map_err(|error| Error::Io {
                path: file_of(checkpoint, tensor).to_path_buf(),
                what: "comparing head and embedding",
                error,
            })?;
        }
        if left.get(..n) != right.get(..n) {
            return Ok(false);
        }
        at += n as u64;
    }
    Ok(true)
}
