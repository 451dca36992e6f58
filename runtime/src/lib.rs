//! Pack to tokens: budget -> trunk and window -> forward -> logits -> text.

pub mod budget;
pub mod chat;
pub mod error;
mod expert;
pub mod io;
pub mod kernels;
pub mod memory;
pub mod pack;
mod reader;
pub mod store;
#[cfg(test)]
mod testing;
pub mod tokenizer;
pub mod trunk;
pub mod window;

pub use error::{Error, Result};
