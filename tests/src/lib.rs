//! Shared helpers of the test suite.

pub mod programs;
pub mod numbers;
pub mod oracle;
pub mod packs;
pub mod shared;
pub mod toy;
