//! Checkpoint to pack: source -> arch -> plan -> write, and the other way round: verify, inspect.

#![forbid(unsafe_code)]

pub mod arch;
pub mod encode;
pub mod error;
pub mod source;

pub use error::{Error, Result};
