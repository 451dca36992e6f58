//! Measuring an engine: the same seeded tokens through the same code that answers prompts, with counters and clocks around it.
//!
//! A run has up to three phases. *Prompt*: a prompt from an empty window. *Cold*: single tokens from an empty window and an empty sequence. *Warm*: the
//! single tokens after those. All runs feed the same tokens, so medians compare like with like.
//!
//! After the prompt and after the warm tokens the same work is done again in two halves, computing with every expert in memory and reading without
//! computing: the slower of the two over the measured time is the efficiency of the overlap.
//!
//! Or the warm tokens are decoded in different ways in turn ([`turns`]).

pub mod measure;
pub mod stats;
pub mod tokens;
pub mod trace;
pub mod turns;

pub use measure::{Bounds, Feed, Phase, Watch, compute_only, io_only};
