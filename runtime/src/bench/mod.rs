//! Measuring an engine: the same seeded tokens through the same code that answers prompts, with counters and clocks around it.
//!
//! A run has up to three phases. *Prompt*: a prompt from an empty window. *Cold*: single tokens from an empty window and an empty sequence. *Warm*: the
//! single tokens after those. All runs feed the same tokens, so medians compare like with like.

pub mod measure;
pub mod stats;
pub mod tokens;
pub mod trace;

pub use measure::{Phase, decode, prompt};
