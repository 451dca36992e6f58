//! The real programs, as a user starts them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// One of the workspace's programs, built beside the tests.
///
/// # Panics
/// If it is not there: `cargo x test` builds it first.
pub fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("the test's own path");
    let path = tests.parent().and_then(Path::parent).expect("target/PROFILE/deps").join(name);
    assert!(path.is_file(), "{} is not built: run `cargo build --workspace --bins` first", path.display());
    path
}

/// What a finished program left.
pub struct Done {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Done {
    fn from(o: Output) -> Self {
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        Done { code: o.status.code(), out: text(&o.stdout), err: text(&o.stderr) }
    }
}

impl Done {
    /// Checks the exit code and hands itself on.
    #[track_caller]
    pub fn expect(self, code: i32) -> Done {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    /// Standard output as the one object that `--json` prints.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("not one JSON object ({e}): {}\nstderr: {}", self.out, self.err))
    }
}

/// Runs a program to its end, without input.
pub fn run(name: &str, arguments: &[&str]) -> Done {
    let output = Command::new(program(name)).args(arguments).stdin(Stdio::null()).output();
    output.unwrap_or_else(|e| panic!("{name}: {e}")).into()
}

/// The model that the repository carries.
pub fn demo_model() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/pocket-moe-10m-q8_0.gguf").to_string()
}
