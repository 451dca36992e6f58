//! Tests for aarch64 on a machine of another kind: cross-compiled with whatever Rust has the target, run in qemu's user mode.

use crate::shell;
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;

/// The target.
const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Processors to pretend to be: one with the dot product instruction and one without.
const PROCESSORS: [&str; 2] = ["max", "cortex-a72"];
/// Where Debian's cross compiler keeps the target's C library.
const SYSROOT: &str = "/usr/aarch64-linux-gnu";

/// Runs `cargo test` with `arguments` for both processors; without any, the kernels and the format.
pub fn run(arguments: &[String]) -> Result<()> {
    if cfg!(all(target_arch = "aarch64", target_os = "linux")) {
        bail!("this machine is aarch64 itself: `cargo x test` runs these tests, and faster");
    }
    let linker = variable("LINKER").or_else(|| on_path(&["aarch64-linux-gnu-gcc"]));
    let emulator = on_path(&["qemu-aarch64", "qemu-aarch64-static"]);
    let missing = missing(has_target()?, linker.is_some(), emulator.is_some());
    let (Some(linker), Some(emulator), true) = (linker, emulator, missing.is_empty()) else {
        bail!("what is missing:\n{}", missing.join("\n"));
    };
    let chosen: Vec<Vec<&str>> = if arguments.is_empty() {
        vec![vec!["-p", "forebay-format"], vec!["-p", "forebay", "--lib", "kernels::"]]
    } else {
        vec![arguments.iter().map(String::as_str).collect()]
    };
    for processor in PROCESSORS {
        eprintln!("== as {processor}");
        let sysroot = if Path::new(SYSROOT).is_dir() { format!(" -L {SYSROOT}") } else { String::new() };
        for arguments in &chosen {
            let mut command = shell::command("cargo", &[&["test", "--locked", "--target", TARGET], &arguments[..]].concat());
            command.env(name("LINKER"), &linker).env(name("RUNNER"), format!("{emulator} -cpu {processor}{sysroot}"));
            shell::run(command)?;
        }
    }
    Ok(())
}

/// Cargo's variable for a setting of the target.
fn name(setting: &str) -> String {
    format!("CARGO_TARGET_{}_{setting}", TARGET.to_uppercase().replace('-', "_"))
}

fn variable(setting: &str) -> Option<String> {
    std::env::var(name(setting)).ok()
}

/// The first of these programs that is there.
fn on_path(programs: &[&str]) -> Option<String> {
    let path = std::env::var_os("PATH")?;
    let there = |program: &&&str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
    programs.iter().find(there).map(|program| program.to_string())
}

/// The compiler has a standard library for the target.
fn has_target() -> Result<bool> {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.args(["--print", "target-libdir", "--target", TARGET]).current_dir(shell::root());
    Ok(Path::new(shell::outputs(command)?.0.trim()).is_dir())
}

/// How to get what is not there.
fn missing(target: bool, linker: bool, emulator: bool) -> Vec<&'static str> {
    [
        (target, "  the standard library: rustup target add aarch64-unknown-linux-gnu (Debian's Rust: libstd-rust-dev:arm64)"),
        (linker, "  a linker and C library: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
        (emulator, "  an emulator: apt-get install qemu-user"),
    ]
    .into_iter()
    .filter_map(|(there, how)| (!there).then_some(how))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert!(missing(true, true, true).is_empty());
        assert!(missing(false, true, true)[0].contains("rustup target add"));
        assert!(missing(true, false, false)[1].contains("qemu-user"));
        assert_eq!(name("RUNNER"), "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER");
    }
}
