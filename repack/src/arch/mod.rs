//! From names and configuration to meaning: one file per model family, one row in [`ARCHS`].

pub mod vocab;

use crate::error::Result;
use crate::source::Checkpoint;
use forebay_format::layout::manifest::{Generation, Tokenizer, Unused};
use forebay_format::model::{ModelSpec, Role};

/// Rows of a source tensor, seen as a matrix `[Tensor::rows(), Tensor::cols()]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Position in [`Checkpoint::tensors`].
    pub tensor: usize,
    /// First row.
    pub first: u64,
    /// Number of rows.
    pub count: u64,
}

/// A trunk tensor: `rows.count` rows of `cols`, taken unchanged from the source. Vectors are one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Purpose.
    pub role: Role,
    /// Where its values are.
    pub source: Rows,
    /// Rows of the tensor as the runtime sees it; `rows * cols` equals the source's element count.
    pub rows: u32,
    /// Values in a row.
    pub cols: u32,
}

/// The three matrices of one expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundExpert {
    /// `[inner, hidden]`.
    pub gate: Rows,
    /// `[inner, hidden]`.
    pub up: Rows,
    /// `[hidden, inner]`.
    pub down: Rows,
}

/// A checkpoint with its meaning: every tensor is bound, carried or listed as unused.
#[derive(Clone, Debug)]
pub struct Binding {
    /// Architecture as the source calls it.
    pub architecture: String,
    /// Mechanisms and sizes; validated.
    pub spec: ModelSpec,
    /// The embedding.
    pub embedding: Vec<Bound>,
    /// Each layer's trunk in execution order.
    pub trunk: Vec<Vec<Bound>>,
    /// Final norm, head.
    pub head: Vec<Bound>,
    /// Each layer's experts; empty for dense layers.
    pub experts: Vec<Vec<BoundExpert>>,
    /// Tensors kept but not used (multi-token prediction): positions in [`Checkpoint::tensors`].
    pub carried: Vec<usize>,
    /// Tensors left out.
    pub unused: Vec<Unused>,
    /// Tokenizer, if the source has one.
    pub tokenizer: Option<Tokenizer>,
    /// Chat template, if the source has one.
    pub chat_template: Option<String>,
    /// Sampling defaults.
    pub generation: Generation,
    /// Things the user should know, one line each ("vision tower not used: 19 tensors, 12 KB").
    pub remarks: Vec<String>,
}

/// Finds the family of a checkpoint and binds it.
pub fn bind(checkpoint: &Checkpoint) -> Result<Binding> {
    let _ = checkpoint;
    unimplemented!("arch helper")
}
