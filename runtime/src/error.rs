//! Why a run stops, and with which exit code.

use forebay_format::FormatError;
use std::path::PathBuf;

/// Result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A run that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pack cannot be read.
    #[error("{}: {error}", file.display())]
    Format {
        /// Pack.
        file: PathBuf,
        /// Why.
        error: FormatError,
    },
    /// The operating system refused.
    #[error("{}: {what}: {error}", file.display())]
    Io {
        /// File.
        file: PathBuf,
        /// What was being done, with the bundle if there is one.
        what: String,
        /// Why not.
        error: std::io::Error,
    },
    /// The limit is too low; the text has the breakdown and the smallest limit that works.
    #[error("{0}")]
    Budget(String),
    /// The pack is fine, but the request does not fit it.
    #[error("{0}")]
    Request(String),
    /// The pack needs something that this build lacks.
    #[error("{0}")]
    Unsupported(String),
    /// Tokenizer or template.
    #[error("{0}")]
    Text(String),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// Exit code of the command line (design, section 7).
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Format { error: FormatError::ChecksumMismatch { .. } | FormatError::Truncated { .. }, .. } => 3,
            Error::Format { .. } | Error::Unsupported(_) => 4,
            Error::Io { .. } => 6,
            Error::Budget(_) => 5,
            Error::Request(_) | Error::Text(_) => 1,
            Error::Interrupted => 130,
        }
    }
}
