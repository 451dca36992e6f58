//! Checkpoint to pack: source -> arch -> plan -> write, and the other way round: verify, inspect.

#![forbid(unsafe_code)]

pub mod arch;
pub mod cli;
pub mod encode;
pub mod error;
pub mod inspect;
pub mod plan;
pub mod progress;
pub mod source;
pub mod synth;
pub mod verify;
pub mod write;

pub use error::{Error, Result};
