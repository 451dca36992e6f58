//! Opening a file of a download: regular files only, inside the directory that was named, recognised when they are not what they should be.

use super::{Fingerprint, sniff};
use crate::error::{Error, Result};
use rustix::fs::{Mode, OFlags};
use std::fs::{File, FileType, Metadata};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// An open file of the checkpoint.
#[derive(Debug)]
pub(super) struct Opened {
    /// The file; regular.
    pub file: File,
    /// Path as the user would write it, for messages.
    pub shown: PathBuf,
    /// Path with symlinks resolved, for opening it again.
    pub resolved: PathBuf,
    /// Identity when it was opened.
    pub fingerprint: Fingerprint,
    /// Only what the header says is of interest: what it describes need not be there.
    pub header_only: bool,
}

impl Opened {
    /// Length when it was opened.
    pub fn len(&self) -> u64 {
        self.fingerprint.bytes
    }

    /// An error about the content of this file.
    pub fn malformed(&self, why: impl Into<String>) -> Error {
        Error::Malformed { file: self.shown.clone(), why: printable(why.into()) }
    }

    /// An error about an operation on this file; the end of the file is a sign that somebody cut it.
    pub fn io(&self, what: &'static str, error: std::io::Error) -> Error {
        io_error(&self.shown, what, error)
    }
}

/// An I/O error with its file. A file that ends early after its length was checked has changed.
pub(super) fn io_error(path: &Path, what: &'static str, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::UnexpectedEof {
        return Error::SourceChanged { file: path.to_path_buf() };
    }
    Error::Io { path: path.to_path_buf(), what, error }
}

/// An error about a path rather than about content.
pub(super) fn source_error(path: &Path, why: impl Into<String>) -> Error {
    Error::Source { path: path.to_path_buf(), why: why.into() }
}

/// Identity of a file.
pub(super) fn fingerprint(meta: &Metadata) -> Fingerprint {
    let ns = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    Fingerprint {
        dev: meta.dev(),
        ino: meta.ino(),
        bytes: meta.size(),
        mtime_ns: ns(meta.mtime(), meta.mtime_nsec()),
        ctime_ns: ns(meta.ctime(), meta.ctime_nsec()),
    }
}

fn kind_name(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a named pipe"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_block_device() || kind.is_char_device() {
        "a device"
    } else {
        "not a regular file"
    }
}

/// Opens the regular file at `resolved` (which must not be a symlink any more) for reading, never blocking.
pub(super) fn open_resolved(resolved: &Path, shown: &Path) -> Result<Opened> {
    // Look before opening: opening a device can have effects, opening a socket gives an error that says nothing.
    let before = std::fs::symlink_metadata(resolved).map_err(|e| io_error(shown, "looking at the file", e))?;
    refuse_irregular(&before, shown)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
    let descriptor = rustix::fs::open(resolved, flags, Mode::empty()).map_err(|e| io_error(shown, "opening the file", e.into()))?;
    let file = File::from(descriptor);
    let meta = file.metadata().map_err(|e| io_error(shown, "looking at the open file", e))?;
    refuse_irregular(&meta, shown)?;
    Ok(Opened { file, shown: shown.to_path_buf(), resolved: resolved.to_path_buf(), fingerprint: fingerprint(&meta), header_only: false })
}

fn refuse_irregular(meta: &Metadata, shown: &Path) -> Result<()> {
    if meta.is_file() { Ok(()) } else { Err(source_error(shown, format!("is {}, not a regular file", kind_name(meta.file_type())))) }
}

/// A directory whose files may be read, and nothing outside it.
#[derive(Debug)]
pub(super) struct Root {
    /// As the user named it.
    pub shown: PathBuf,
    resolved: PathBuf,
    /// `models--org--name/blobs`, when the directory is a snapshot of the Hugging Face cache, whose files are links into it.
    blobs: Option<PathBuf>,
}

impl Root {
    /// The directory `dir`.
    pub fn new(dir: &Path) -> Result<Self> {
        let resolved = std::fs::canonicalize(dir).map_err(|e| io_error(dir, "resolving the directory", e))?;
        let blobs = hub_blobs(&resolved);
        Ok(Self { shown: dir.to_path_buf(), resolved, blobs })
    }

    /// Opens the file `name`, a plain file name; `None` if there is none.
    pub fn open(&self, name: &str) -> Result<Option<Opened>> {
        let shown = self.shown.join(name);
        let resolved = match std::fs::canonicalize(self.resolved.join(name)) {
            Ok(path) => path,
            Err(error) => return self.unresolved(name, &shown, error),
        };
        let inside = |dir: &Path| resolved.parent().is_some_and(|p| p.starts_with(dir));
        if !inside(&self.resolved) && !self.blobs.as_deref().is_some_and(inside) {
            let why = format!(
                "is a symbolic link that leads out of the directory, to {}; put the file itself there, or name the directory it is in",
                resolved.display()
            );
            return Err(source_error(&shown, why));
        }
        open_resolved(&resolved, &shown).map(Some)
    }

    /// A name that leads nowhere: absent, or a link that is broken or goes in circles.
    fn unresolved(&self, name: &str, shown: &Path, error: std::io::Error) -> Result<Option<Opened>> {
        let link = std::fs::symlink_metadata(self.resolved.join(name)).is_ok_and(|m| m.file_type().is_symlink());
        match (link, error.kind()) {
            (true, std::io::ErrorKind::NotFound) => {
                let hint = if self.blobs.is_some() { "the download into the cache is incomplete" } else { "restore the file" };
                Err(source_error(shown, format!("is a symbolic link to a file that does not exist; {hint}")))
            }
            (true, _) => Err(source_error(shown, format!("is a symbolic link that cannot be followed: {error}"))),
            (false, std::io::ErrorKind::NotFound) => Ok(None),
            (false, _) => Err(io_error(shown, "resolving the path", error)),
        }
    }

    /// Names in the directory that are valid UTF-8, sorted. A directory of a million entries is not a checkpoint.
    pub fn names(&self) -> Result<Vec<String>> {
        const LIMIT: usize = 100_000;
        let mut names = Vec::new();
        let entries = std::fs::read_dir(&self.resolved).map_err(|e| io_error(&self.shown, "listing the directory", e))?;
        for entry in entries {
            let entry = entry.map_err(|e| io_error(&self.shown, "listing the directory", e))?;
            if names.len() == LIMIT {
                return Err(source_error(&self.shown, format!("holds more than {LIMIT} files; name the checkpoint's own directory")));
            }
            names.extend(entry.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Reads the small file `name` whole; `None` if there is none.
    pub fn read_small(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        self.open(name)?.map(|opened| read_small(&opened, limit)).transpose()
    }
}

/// `X/blobs` for `X/snapshots/<revision>` with `X` = `models--...`, the layout of the Hugging Face cache.
fn hub_blobs(snapshot: &Path) -> Option<PathBuf> {
    let snapshots = snapshot.parent()?;
    let model = snapshots.parent()?;
    let is_hub = snapshots.file_name()? == "snapshots" && model.file_name()?.to_str()?.starts_with("models--");
    is_hub.then(|| model.join("blobs"))
}

/// Reads a whole file of at most `limit` bytes.
pub(super) fn read_small(opened: &Opened, limit: u64) -> Result<Vec<u8>> {
    if opened.len() > limit {
        return Err(opened.malformed(format!("is {} bytes long; at most {limit} are read", opened.len())));
    }
    let length = usize::try_from(opened.len()).map_err(|_| opened.malformed("does not fit in memory"))?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| opened.malformed(format!("needs {length} bytes of memory, which are not there")))?;
    // One byte more than the length: a file that grows meanwhile is noticed and does not grow the buffer.
    (&opened.file).take(opened.len().saturating_add(1)).read_to_end(&mut bytes).map_err(|e| opened.io("reading the file", e))?;
    if bytes.len() != length {
        return Err(Error::SourceChanged { file: opened.shown.clone() });
    }
    if let Some(what) = sniff::recognise(&bytes) {
        return Err(what.error(&opened.shown));
    }
    Ok(bytes)
}

/// Keeps a message to one printable line of bounded length: parsers quote what they read.
fn printable(why: String) -> String {
    const LIMIT: usize = 1000;
    if why.len() <= LIMIT && !why.chars().any(char::is_control) {
        return why;
    }
    let mut line: String = why.chars().take(LIMIT).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if line.len() < why.len() {
        line.push_str("...");
    }
    line
}

/// Name of a tensor, key or file for a message: control characters escaped, cut at 120 characters.
pub(super) fn quoted(name: &str) -> String {
    const LIMIT: usize = 120;
    match name.char_indices().nth(LIMIT) {
        Some((end, _)) => format!("{:?}... ({} bytes)", name.get(..end).unwrap_or_default(), name.len()),
        None => format!("{name:?}"),
    }
}

/// Refuses a name that no tensor should have: empty, longer than `limit` bytes, or with control characters.
pub(super) fn check_name(opened: &Opened, what: &str, name: &str, limit: usize) -> Result<()> {
    let why = if name.is_empty() {
        format!("{what} has an empty name")
    } else if name.len() > limit {
        format!("{what} {} has a name longer than {limit} bytes", quoted(name))
    } else if name.chars().any(char::is_control) {
        format!("{what} {} has control characters in its name", quoted(name))
    } else {
        return Ok(());
    };
    Err(opened.malformed(why))
}
