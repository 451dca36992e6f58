//! Where test material is.

use std::path::{Path, PathBuf};

/// The folder beside the repository with models and oracles too big to commit: `FOREBAY_SHARED`, or `../shared`. `None` if it is absent, said
/// aloud: a test that skips without a word is a test that nobody runs.
pub fn shared() -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let path = std::env::var_os("FOREBAY_SHARED").map_or_else(beside, PathBuf::from);
    if path.is_dir() {
        return Some(path);
    }
    // Not `eprintln!`: the test harness swallows what that prints in a test that passes.
    drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("SKIP: {} is not there (set FOREBAY_SHARED)\n", path.display())));
    None
}

/// Small checkpoints with expected values that a clone has by itself.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// The bundled model.
pub fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/pocket-moe-10m-q8_0.gguf")
}
