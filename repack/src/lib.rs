//! Checkpoint to pack.
#![forbid(unsafe_code)]
