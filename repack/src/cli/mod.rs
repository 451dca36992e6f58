//! The command line (design, section 7): answers on stdout, everything else on stderr.

mod convert;
mod inspect;
mod synth;
mod verify;

use crate::error::{Error, Result};
use clap::{Parser, Subcommand};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Convert a checkpoint to a Forebay pack (.fby), and check and describe packs.
#[derive(Parser, Debug)]
#[command(name = "forebay-repack", version, arg_required_else_help = true, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Rewrite a Hugging Face directory or GGUF file as one .fby pack
    Convert(convert::Args),
    /// Describe a pack
    Inspect(inspect::Args),
    /// Check a pack, and that it equals its source
    Verify(verify::Args),
    /// Write a pack of random weights with the shape of a model, to measure a machine with
    Synth(synth::Args),
}

/// Parses the process's arguments, runs, and says how it went.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let usage = e.use_stderr();
            // Nothing to be done if even this cannot be printed.
            let _ = e.print();
            return ExitCode::from(if usage { 2 } else { 0 });
        }
    };
    let cancel = Arc::new(AtomicBool::new(false));
    let flag = cancel.clone();
    let handler = ctrlc::set_handler(move || {
        // The second Ctrl-C does not wait for the pieces under way.
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    });
    if let Err(e) = handler {
        eprintln!("forebay-repack: Ctrl-C will not leave a resumable file: {e}");
    }
    let outcome = match cli.command {
        Command::Convert(args) => convert::run(&args, &cancel),
        Command::Inspect(args) => inspect::run(&args),
        Command::Verify(args) => verify::run(&args, &cancel),
        Command::Synth(args) => synth::run(&args, &cancel),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("forebay-repack: {e}");
            ExitCode::from(e.exit_code())
        }
    }
}

/// Prints an answer. A closed pipe (`| head`) is not an error.
fn print(text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::Io { path: "standard output".into(), what: "printing", error: e })
        }
        _ => Ok(()),
    }
}

/// Prints one JSON object.
fn print_json(value: &serde_json::Value) -> Result<()> {
    print(&format!("{value:#}\n"))
}

/// `5%`, `0.5%` or `5`: percent of the bundles.
fn parse_share(text: &str) -> std::result::Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    match number.parse::<f64>() {
        Ok(n) if n > 0.0 && n <= 100.0 => Ok(n / 100.0),
        _ => Err("a percentage above 0 and up to 100 is needed, such as 5%".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::parse_share;

    #[test]
    fn shares() {
        assert_eq!(parse_share("5%"), Ok(0.05));
        assert_eq!(parse_share("0.5 %"), Ok(0.005));
        assert_eq!(parse_share("100"), Ok(1.0));
        for bad in ["0", "-1%", "101%", "x", "", "NaN%", "inf"] {
            assert!(parse_share(bad).is_err(), "{bad}");
        }
    }
}
