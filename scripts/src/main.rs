//! `cargo x COMMAND`: the project's own commands. `demo` shows the product, `test` is everything CI runs, `aarch64` tests for another processor. The others repeat
//! measurements: `compare`, `ablation` and `drive` the README's, `kernels` those of `docs/kernels.md`, `plan-check` holds predictions against them, `cache-sim`
//! compares cache policies, `neurons` the steps that save reading of neuron groups.

mod aarch64;
mod ablation;
#[cfg(feature = "cache-sim")]
mod cache_sim;
mod compare;
mod demo;
mod drive;
mod kernels;
mod measure;
#[cfg(feature = "cache-sim")]
mod neurons;
mod plan_check;
mod shell;
mod test;

use anyhow::{Result, bail};
use std::process::ExitCode;

const USAGE: &str = "cargo x COMMAND

  demo                 build, convert the bundled model, verify it, generate text inside a window smaller than its experts
  test                 everything CI runs: formatting, clippy, all tests
  aarch64 [CARGO TEST ARGUMENTS]
                       build for aarch64 and run tests in an emulator: the format's own and the kernels of both ARM sets, or what is given
  compare GGUF --llama-bench PATH [--limits 8G,4G] [--prompts 64,256,512] [--tokens 48] [--runs 3] [--no-mmap]
                       speed of forebay and of llama.cpp on the same file under the same memory limits, and of fio (needs root)
  ablation PACK [--limit 4G] [--tokens 560] [--runs 3]
                       what each step of overlapping reading and computing brings (needs root)
  drive PACK [--limit 4G] [--tokens 24] [--warmup 32] [--runs 3] [--sequential]
                       share of what fio reads that decoding reads, at the same read size and depth (needs root and fio)
  kernels --llama-bench PATH [--dir DIR] [--prompt 512] [--tokens 64] [--runs 3] [--keep] [TYPE]...
                       decode and prompt speed of forebay and of llama.cpp on dense models of each type, everything in memory
  plan-check [--case NAME] [--limit 8G] [--dir DIR] [--pack FILE] [--keep] [--json OUT]
                       what `forebay plan` predicts beside what `forebay bench` measures, for made-up packs of real shapes (made in DIR and removed
                       again, one at a time; up to 20 GB) and a trained model (needs root)
  cache-sim [--svg OUT] [TRACE]...
                       hit rates of cache policies on traces that `forebay bench --trace` wrote and on two made up ones
  neurons PACK --limit 6500M [--tokens 4] [--warmup 4] [--svg OUT]
                       what selection, windowing and bundling of neurons bring, under a memory limit (needs root)
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
        "aarch64" => aarch64::run(rest),
        "compare" => compare::run(rest),
        "ablation" => ablation::run(rest),
        "drive" => drive::run(rest),
        "kernels" => kernels::run(rest),
        "plan-check" => plan_check::run(rest),
        "cache-sim" | "neurons" => with_runtime(command, rest),
        "" | "help" | "-h" | "--help" => {
            print!("{USAGE}");
            Ok(())
        }
        other => bail!("unknown command or arguments: {other} {}\n\n{USAGE}", rest.join(" ")),
    }
}

#[cfg(feature = "cache-sim")]
fn with_runtime(name: &str, arguments: &[String]) -> Result<()> {
    if name == "neurons" { neurons::run(arguments) } else { cache_sim::run(arguments) }
}

/// These need the runtime, which the other commands do not wait for: build it in and start again.
#[cfg(not(feature = "cache-sim"))]
fn with_runtime(name: &str, arguments: &[String]) -> Result<()> {
    let start = ["run", "--quiet", "--package", "forebay-scripts", "--features", "cache-sim", "--", name];
    let line: Vec<&str> = start.into_iter().chain(arguments.iter().map(String::as_str)).collect();
    let mut command = shell::command("cargo", &line);
    // File names are relative to where the user is.
    command.current_dir(std::env::current_dir()?);
    shell::run(command)
}
