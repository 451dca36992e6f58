//! Everything CI runs.

use crate::shell;
use anyhow::Result;

/// Formatting, lints, tests: stops at the first that fails.
fn run_all(steps: &[&[&str]]) -> Result<()> {
    steps.iter().try_for_each(|step| shell::run(shell::command("cargo", step)))
}

/// The whole suite.
pub fn run() -> Result<()> {
    run_all(&[
        &["fmt", "--all", "--check"],
        &["clippy", "--workspace", "--all-targets", "--locked", "--features", "forebay-scripts/cache-sim", "--", "-D", "warnings"],
        // The end-to-end tests start the real binaries, so these must be there and fresh.
        &["build", "--workspace", "--bins", "--locked"],
        &["test", "--workspace", "--locked", "--features", "forebay-scripts/cache-sim"],
    ])
}
