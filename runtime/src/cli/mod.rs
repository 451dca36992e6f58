//! The command line (design, section 7). Answers go to standard output, everything else to standard error.

mod bench;
mod bench_report;
mod calibrate;
mod chat;
mod doctor;
mod engine;
mod files;
mod generate;
mod interrupt;
mod logits;
mod plan;
mod ppl;
mod progress;
mod report;
mod run;
mod sampling;
mod template;
mod tokenize;

use crate::chat::sandbox;
use crate::error::{Error, Result};
use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs language models larger than RAM from a Forebay pack, inside a RAM window that it keeps
#[derive(Parser)]
#[command(name = "forebay", version, propagate_version = true, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Arguments),
    Ppl(ppl::Arguments),
    Logits(logits::Arguments),
    Bench(bench::Arguments),
    Calibrate(calibrate::Arguments),
    Doctor(doctor::Arguments),
    Plan(plan::Arguments),
    Tokenize(tokenize::Arguments),
    Template(template::Arguments),
    /// Run forebay-repack: convert, verify and inspect packs
    #[command(disable_help_flag = true)]
    Repack {
        /// Arguments of forebay-repack
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

/// The program. Returns its exit code.
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == sandbox::ARGUMENT) {
        return sandbox::child_main();
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // --help and --version are answers too.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    let outcome = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Ppl(arguments) => ppl::run(&arguments),
        Command::Logits(arguments) => logits::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Calibrate(arguments) => calibrate::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Tokenize(arguments) => tokenize::run(&arguments),
        Command::Template(arguments) => template::run(&arguments),
        Command::Repack { arguments } => repack(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has seen enough.
        Err(Failure::Run(Error::Io { error, .. })) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Run(error)) => {
            eprintln!("forebay: {error}");
            ExitCode::from(error.exit_code())
        }
        Err(Failure::Usage(text)) => {
            eprintln!("forebay: {text}");
            ExitCode::from(2)
        }
    }
}

/// Why a command stops.
enum Failure {
    /// By its own exit code.
    Run(Error),
    /// What was asked for makes no sense: exit code 2.
    Usage(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Run(error)
    }
}

/// Outcome of a command.
type Outcome<T = ()> = std::result::Result<T, Failure>;

/// Writes to standard output now; what is written is an answer or a part of one.
fn answer(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| Error::Io { file: PathBuf::from("standard output"), what: "writing the answer".into(), error })
}

/// Prints the one object of `--json`.
fn answer_json(object: &serde_json::Value) -> Result<()> {
    answer(&format!("{object}\n"))
}

/// `forebay-repack`: the one beside this program, or else the one that the shell would find.
fn sibling() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|program| program.with_file_name("forebay-repack")).filter(|path| path.exists());
    beside.unwrap_or_else(|| PathBuf::from("forebay-repack"))
}

/// Replaces this process by `forebay-repack`.
fn repack(arguments: &[OsString]) -> Outcome {
    use std::os::unix::process::CommandExt;
    let program = sibling();
    let error = std::process::Command::new(&program).args(arguments).exec();
    Err(Error::Io { file: program, what: "starting forebay-repack".into(), error }.into())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        super::Arguments::command().debug_assert();
    }
}
