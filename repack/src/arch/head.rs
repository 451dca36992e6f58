//! A head that is said to be tied but is there: the same bytes as the embedding, or a contradiction.

use super::assemble::file_of;
use super::draft::malformed;
use crate::error::Result;
use crate::source::{Checkpoint, Reader, Tensor};
use std::path::Path;

/// Bytes compared at a time.
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
    if a.bytes() != b.bytes() {
        return Ok(false);
    }
    let reader = Reader::open(checkpoint)?;
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < a.bytes() {
        let step = STEP.min(a.bytes() - at);
        for (tensor, buffer) in [(a, &mut left), (b, &mut right)] {
            buffer.resize(step as usize, 0u8);
            reader.read_exact_at(tensor, at, buffer)?;
        }
        if left != right {
            return Ok(false);
        }
        at += step;
    }
    Ok(true)
}
