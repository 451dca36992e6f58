//! Shared helpers of the test suite.

pub mod feed;
pub mod numbers;
pub mod oracle;
pub mod packs;
pub mod programs;
pub mod shared;
pub mod toy;
