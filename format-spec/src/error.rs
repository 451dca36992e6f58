//! Why a pack is refused.

use crate::layout::index::BundleId;

/// A pack that cannot be read, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The file is shorter than what it must hold.
    #[error("{what} needs {need} bytes, but only {have} are there (truncated file?)")]
    Truncated {
        /// Part of the file.
        what: &'static str,
        /// Bytes needed.
        need: u64,
        /// Bytes there.
        have: u64,
    },
    /// The first bytes are not a pack's.
    #[error("not a Forebay pack (the first bytes are not its magic number)")]
    BadMagic,
    /// A version that this program does not read.
    #[error("pack format version {major}.{minor} is not supported; this program reads {}.x", crate::layout::VERSION_MAJOR)]
    UnsupportedVersion {
        /// Major version found.
        major: u16,
        /// Minor version found.
        minor: u16,
    },
    /// A required feature that this program does not know.
    #[error("the pack needs a feature this program does not know: {0}")]
    UnknownFeature(String),
    /// A hash does not match.
    #[error("checksum of {what} does not match (stored {stored}, computed {computed}): the file is damaged")]
    ChecksumMismatch {
        /// Part of the file.
        what: String,
        /// Hash in the file, hex.
        stored: String,
        /// Hash of the bytes, hex.
        computed: String,
    },
    /// A field holds a value it must not.
    #[error("{what} is invalid: {why}")]
    Invalid {
        /// Field or part of the file.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// A bundle that the index does not have.
    #[error("the index has no {0}")]
    NoSuchBundle(BundleId),
    /// JSON that does not parse or does not fit.
    #[error("manifest: {0}")]
    Manifest(String),
    /// Something grows past a limit.
    #[error("{what} is {value}, the limit is {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Its size.
        value: u64,
        /// The limit.
        limit: u64,
    },
}

impl FormatError {
    /// Shorthand for [`FormatError::Invalid`].
    pub fn invalid(what: impl Into<String>, why: impl Into<String>) -> Self {
        FormatError::Invalid { what: what.into(), why: why.into() }
    }
}
