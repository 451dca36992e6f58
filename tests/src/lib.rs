//! Shared helpers of the test suite.

pub mod programs;
pub mod toy;
