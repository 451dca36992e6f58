//! The files of an unfinished conversion: `OUT.partial` and `OUT.journal`, locked.

use crate::error::{Error, Result};
use crate::source::Checkpoint;
use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, flock, statvfs};
use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Paths of a conversion.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The pack.
    pub out: PathBuf,
    /// The unfinished pack.
    pub partial: PathBuf,
    /// What of it is done.
    pub journal: PathBuf,
    /// Directory of all three.
    pub dir: PathBuf,
}

impl Paths {
    /// Paths for an output file.
    pub fn new(out: &Path) -> Result<Paths> {
        let name = out.file_name().ok_or_else(|| Error::Usage(format!("{} is not a file name", out.display())))?;
        if out.is_dir() {
            return Err(Error::Usage(format!("{} is a directory; name the file to write", out.display())));
        }
        let with = |suffix: &str| {
            let mut n = name.to_owned();
            n.push(suffix);
            out.with_file_name(n)
        };
        let dir = match out.parent() {
            Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
            _ => PathBuf::from("."),
        };
        Ok(Paths { out: out.to_owned(), partial: with(".partial"), journal: with(".journal"), dir })
    }

    /// Refuses to write over a file of the source, by any name that leads to it.
    pub fn refuse_source(&self, checkpoint: &Checkpoint) -> Result<()> {
        let folder = if checkpoint.path.is_dir() { Some(checkpoint.path.as_path()) } else { checkpoint.path.parent() };
        let small = checkpoint.small_files.iter().filter_map(|(name, _)| folder.map(|f| f.join(name)));
        let sources: Vec<_> = checkpoint.files.iter().map(|f| f.path.clone()).chain(small).collect();
        let identity = |path: &PathBuf| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
        for path in [&self.out, &self.partial, &self.journal] {
            let Some(target) = identity(path) else { continue };
            if let Some(source) = sources.iter().find(|s| identity(s) == Some(target)) {
                let (path, source) = (path.display(), source.display());
                return Err(Error::Usage(format!("{path} is the source file {source}; a conversion never writes to its source")));
            }
        }
        Ok(())
    }
}

/// The unfinished pack, open and locked.
pub struct Partial {
    /// For everything.
    pub file: File,
    /// The same file with O_DIRECT, where the file system has it: for payload, which must not wash out the page cache.
    pub direct: Option<File>,
}

impl Partial {
    /// Opens or creates it and takes the lock that keeps a second writer away.
    pub fn open(paths: &Paths) -> Result<Partial> {
        let io = |what| move |error| Error::Io { path: paths.partial.clone(), what, error };
        loop {
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&paths.partial);
            let file = file.map_err(io("creating the unfinished pack"))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(Error::Usage(format!("another conversion is writing {}", paths.partial.display())));
                }
                // Not every file system has locks; without them there is nothing to wait for.
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOLCK | rustix::io::Errno::NOSYS) | Ok(()) => {}
                Err(e) => return Err(io("locking the unfinished pack")(e.into())),
            }
            // The conversion that held the lock may have renamed the file away meanwhile.
            let mine = file.metadata().map_err(io("looking at the unfinished pack"))?;
            if std::fs::metadata(&paths.partial).is_ok_and(|m| (m.dev(), m.ino()) == (mine.dev(), mine.ino())) {
                let direct = File::options().write(true).custom_flags(OFlags::DIRECT.bits() as i32).open(&paths.partial).ok();
                return Ok(Partial { file, direct });
            }
        }
    }

    /// Sets room aside for `payload` bytes, so that a full disk shows now and not in an hour. The whole file takes at most `bound`.
    pub fn reserve(&self, paths: &Paths, payload: u64, bound: u64) -> Result<()> {
        let metadata = self.file.metadata();
        let m = metadata.map_err(|error| Error::Io { path: paths.partial.clone(), what: "looking at the unfinished pack", error })?;
        let have = free_bytes(&paths.dir)?.saturating_add(m.blocks().saturating_mul(512));
        let full = Error::NoSpace { dir: paths.dir.clone(), need: bound, have };
        if have < bound {
            return Err(full);
        }
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, payload) {
            Err(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => Err(full),
            // Best effort: some file systems cannot, and the writes themselves will tell.
            _ => Ok(()),
        }
    }
}

/// Bytes that an unprivileged user may still write to a directory's file system.
pub fn free_bytes(dir: &Path) -> Result<u64> {
    let s = statvfs(dir).map_err(|e| Error::Io { path: dir.to_owned(), what: "asking for free space", error: e.into() })?;
    Ok(s.f_bavail.saturating_mul(s.f_frsize))
}

/// An I/O error of the output as this crate's error: a full disk is not a broken one.
pub fn output_error(paths: &Paths, what: &'static str, need: u64, error: io::Error) -> Error {
    match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => {
            Error::NoSpace { dir: paths.dir.clone(), need, have: free_bytes(&paths.dir).unwrap_or(0) }
        }
        _ => Error::Io { path: paths.partial.clone(), what, error },
    }
}
