//! Pack to tokens: budget -> trunk and window -> forward -> logits -> text.

pub mod error;
pub mod kernels;

pub use error::{Error, Result};
