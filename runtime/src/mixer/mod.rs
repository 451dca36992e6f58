//! Token mixing: one file per mechanism.

pub mod attend;
pub mod attention;
pub mod conv;
pub mod gated_delta;
pub mod rope;
