//! The product on one screen: convert, verify, generate inside a window smaller than the experts.

use crate::shell::{self, command, outputs, release_dir, root};
use anyhow::{Context, Result};
use serde_json::Value;

const PROMPT: &str = "It was a dark evening in London, and";

/// Runs the demo in `target/demo`.
pub fn run() -> Result<()> {
    shell::run(command("cargo", &["build", "--release", "--locked", "--package", "forebay", "--package", "forebay-repack"]))?;
    let (repack, forebay) = (release_dir().join("forebay-repack"), release_dir().join("forebay"));
    let dir = root().join("target/demo");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let pack = dir.join("pocket-moe-10m.fby").to_string_lossy().into_owned();
    shell::run(command(&repack, &["convert", "demo/pocket-moe-10m-q8_0.gguf", "-o", &pack, "--force"]))?;
    shell::run(command(&repack, &["verify", &pack, "--source", "demo/pocket-moe-10m-q8_0.gguf"]))?;
    let limit = limit_for_half_the_experts(&forebay, &pack)?;
    shell::run(command(&forebay, &["run", &pack, PROMPT, "--raw", "-n", "48", "--temp", "0", "-c", "256", "--ram", &limit]))
}

/// A limit under which about half of the experts find a place: the smallest one that works, which the program itself reports, and half
/// of the window on top.
fn limit_for_half_the_experts(forebay: &std::path::Path, pack: &str) -> Result<String> {
    let (all, _) =
        outputs(command(forebay, &["run", pack, PROMPT, "--raw", "-n", "1", "--temp", "0", "-c", "256", "--ram", "1G", "--json"]))?;
    let report: Value = serde_json::from_str(&all).context("forebay run --json did not print one JSON object")?;
    let bytes = |key: &str| report["memory"][key].as_u64().with_context(|| format!("the report has no memory.{key}"));
    Ok((bytes("floor")? + bytes("experts")? / 2 * bytes("slot_bytes")?).to_string())
}
