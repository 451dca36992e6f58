//! Pack to tokens: budget -> trunk and window -> forward -> logits -> text.

pub mod bench;
pub mod budget;
pub mod calibration;
pub mod chat;
pub mod cli;
pub mod disk;
pub mod doctor;
pub mod engine;
pub mod error;
pub mod ffn;
pub mod forward;
pub mod io;
pub mod kernels;
pub mod kv;
pub mod memory;
pub mod mixer;
pub mod model;
pub mod norm;
pub mod pack;
pub mod plot;
pub mod predict;
pub mod sampler;
pub mod scratch;
pub mod sidecar;
pub mod state;
pub mod store;
#[cfg(test)]
mod testing;
pub mod threads;
pub mod tokenizer;
pub mod trunk;
pub mod window;

pub use engine::{Engine, Options, Sparsity, Wanted};
pub use error::{Error, Result};
