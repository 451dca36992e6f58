//! `cargo x COMMAND`: the project's own commands. `demo` shows the product, `test` is everything CI runs, `compare` repeats the README's numbers.

mod compare;
mod demo;
mod shell;
mod test;

use anyhow::{Result, bail};
use std::process::ExitCode;

const USAGE: &str = "cargo x COMMAND

  demo                 build, convert the bundled model, verify it, generate text inside a window smaller than its experts
  test                 everything CI runs: formatting, clippy, all tests
  compare GGUF --llama-bench PATH [--limit 8G] [--tokens 48] [--runs 3]
                       decode speed of forebay and of llama.cpp on the same file under the same memory limit (needs root)
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo x: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = arguments.split_first().map(|(c, r)| (c.as_str(), r)).unwrap_or(("", &[]));
    match command {
        "demo" if rest.is_empty() => demo::run(),
        "test" if rest.is_empty() => test::run(),
        "compare" => compare::run(rest),
        "" | "help" | "-h" | "--help" => {
            print!("{USAGE}");
            Ok(())
        }
        other => bail!("unknown command or arguments: {other} {}\n\n{USAGE}", rest.join(" ")),
    }
}
