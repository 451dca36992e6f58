//! Running other programs, and saying which.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Where a release build of this workspace puts its binaries.
pub fn release_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from).join("release")
}

/// A command in the workspace's root.
pub fn command(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
    let mut c = Command::new(program);
    c.args(arguments).current_dir(root());
    c
}

/// Shows the command, runs it with this terminal, fails if it fails.
pub fn run(mut c: Command) -> Result<()> {
    eprintln!("$ {}", shown(&c));
    let status = c.status().with_context(|| format!("cannot start {}", shown(&c)))?;
    if !status.success() {
        bail!("{} ended with {status}", shown(&c));
    }
    Ok(())
}

/// Shows the command, runs it and returns what it printed on standard output and on standard error.
pub fn outputs(mut c: Command) -> Result<(String, String)> {
    eprintln!("$ {}", shown(&c));
    let done = c.output().with_context(|| format!("cannot start {}", shown(&c)))?;
    let [out, err] = [&done.stdout, &done.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    if !done.status.success() {
        bail!("{} ended with {}\n{err}", shown(&c), done.status);
    }
    Ok((out, err))
}

fn shown(c: &Command) -> String {
    let program = Path::new(c.get_program()).file_name().unwrap_or(c.get_program()).to_string_lossy().into_owned();
    c.get_args().fold(program, |line, a| {
        let a = a.to_string_lossy();
        let a = a.strip_prefix(&*root().to_string_lossy()).map(|rest| rest.trim_start_matches('/').to_string()).unwrap_or(a.into_owned());
        if a.contains(' ') { format!("{line} \"{a}\"") } else { format!("{line} {a}") }
    })
}
