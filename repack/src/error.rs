//! Why a conversion stops, and with which exit code.

use std::path::PathBuf;

/// Result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A conversion, inspection or verification that cannot go on. Messages name file, tensor and offset where there are any.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something in the source is malformed.
    #[error("{}: {why}", file.display())]
    Malformed {
        /// File.
        file: PathBuf,
        /// What is wrong, with tensor and offset.
        why: String,
    },
    /// The source is fine, but this program does not support it.
    #[error("{what} is not supported: {hint}")]
    Unsupported {
        /// What.
        what: String,
        /// What to do instead.
        hint: String,
    },
    /// The source cannot be found or is not what its name says.
    #[error("{}: {why}", path.display())]
    Source {
        /// Path.
        path: PathBuf,
        /// What is wrong and what to do.
        why: String,
    },
    /// The source changed while it was read.
    #[error("{}: the source changed while it was being converted; start again when it is complete", file.display())]
    SourceChanged {
        /// File.
        file: PathBuf,
    },
    /// The pack is damaged.
    #[error("{0}")]
    Integrity(String),
    /// The pack cannot be read.
    #[error("{}: {error}", file.display())]
    Format {
        /// File.
        file: PathBuf,
        /// Why.
        error: forebay_format::FormatError,
    },
    /// The operating system refused.
    #[error("{}: {what}: {error}", path.display())]
    Io {
        /// File.
        path: PathBuf,
        /// What was being done.
        what: &'static str,
        /// Why not.
        error: std::io::Error,
    },
    /// Not enough room on the disk.
    #[error("not enough space in {}: {need} bytes are needed, {have} are free", dir.display())]
    NoSpace {
        /// Directory of the output.
        dir: PathBuf,
        /// Bytes needed.
        need: u64,
        /// Bytes free.
        have: u64,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The pack is there, but `forebay calibrate` failed on it and has said why.
    #[error("{} is complete, but calibrating it failed", pack.display())]
    Calibration {
        /// The pack.
        pack: PathBuf,
        /// Exit code of `forebay calibrate`.
        code: u8,
    },
    /// Ctrl-C.
    #[error("interrupted; run the same command with --resume to go on")]
    Interrupted,
    /// Ctrl-C, and there is nothing to go on with.
    #[error("interrupted")]
    Stopped,
}

impl Error {
    /// Exit code of the command line (design, section 7).
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Malformed { .. } | Error::Source { .. } | Error::SourceChanged { .. } => 1,
            Error::Usage(_) => 2,
            Error::Integrity(_) => 3,
            Error::Format {
                error: forebay_format::FormatError::ChecksumMismatch { .. } | forebay_format::FormatError::Truncated { .. },
                ..
            } => 3,
            Error::Format { .. } | Error::Unsupported { .. } => 4,
            Error::NoSpace { .. } => 5,
            Error::Io { .. } => 6,
            Error::Calibration { code, .. } => *code,
            Error::Interrupted | Error::Stopped => 130,
        }
    }
}
