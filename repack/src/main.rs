//! `forebay-repack`: see [`forebay_repack::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    forebay_repack::cli::main()
}
