//! What this machine can do for a model larger than its memory: processor, memory, limits, and the disk's curve; and what to do about each finding.

mod findings;
mod machine;
mod storage;

pub use findings::{Finding, Level, findings};
pub use machine::Machine;
pub use storage::{Effort, Storage, Watch};
