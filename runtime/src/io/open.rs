//! Choosing a backend: what the user asked for, what the file system takes, what the kernel allows.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use super::buffered::buffered;
use super::pread::PreadPool;
use super::{DiskIo, IO_ALIGNMENT, Queue};
use crate::window::arena::Arena;

/// Which backend reads the pack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoBackend {
    /// The first of the others that works here.
    #[default]
    Auto,
    /// io_uring with direct I/O.
    Uring,
    /// A thread pool with direct I/O.
    Pread,
    /// A thread pool through the page cache, which is emptied behind it.
    Buffered,
}

/// One backend of the table.
pub struct Backend {
    /// Which one.
    pub id: IoBackend,
    /// Name in flags and messages.
    pub name: &'static str,
    /// Needs a file in direct mode.
    pub direct: bool,
    start: fn(Arc<File>) -> io::Result<Box<dyn DiskIo>>,
}

/// All backends, best first: [`IoBackend::Auto`] takes the first that starts.
pub const BACKENDS: &[Backend] = &[
    #[cfg(target_os = "linux")]
    Backend { id: IoBackend::Uring, name: "uring", direct: true, start: |f| Ok(Box::new(super::uring::Uring::new(f)?)) },
    Backend { id: IoBackend::Pread, name: "pread", direct: true, start: |f| Ok(Box::new(PreadPool::new(f)?)) },
    Backend { id: IoBackend::Buffered, name: "buffered", direct: false, start: |f| Ok(Box::new(buffered(f)?)) },
];

impl IoBackend {
    /// The backend with this name; `auto` too.
    pub fn from_name(name: &str) -> Option<IoBackend> {
        if name == "auto" { Some(IoBackend::Auto) } else { BACKENDS.iter().find(|b| b.name == name).map(|b| b.id) }
    }
}

/// A started backend.
pub struct Opened {
    /// A queue over it.
    pub queue: Queue,
    /// One line to show the user: why a worse backend was taken.
    pub warning: Option<String>,
}

/// Starts a backend on the pack at `path`; `pack` is the same file, already open in buffered mode. A named backend works or fails; `Auto`
/// falls back, with a warning if direct I/O is refused.
pub fn open(path: &Path, pack: &Arc<File>, wanted: IoBackend) -> io::Result<Opened> {
    let mut direct: Option<io::Result<Arc<File>>> = None;
    let mut warning = None;
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for backend in BACKENDS.iter().filter(|b| wanted == IoBackend::Auto || wanted == b.id) {
        let file = match backend.direct {
            false => Ok(Arc::clone(pack)),
            true => match direct.get_or_insert_with(|| open_direct(path, pack)) {
                Ok(file) => Ok(Arc::clone(file)),
                Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
            },
        };
        match file.and_then(|f| probed(backend, f, pack)) {
            Ok(queue) => return Ok(Opened { queue, warning: warning.filter(|_| !backend.direct) }),
            Err(e) => last = e,
        }
        if matches!(direct, Some(Err(_))) {
            warning =
                Some(format!("direct I/O is not possible on this file ({last}): reading through the page cache, which is emptied behind"));
        }
    }
    Err(last)
}

/// Starts a backend and compares what it reads from the head of the file with what a plain read says: some stacks accept O_DIRECT
/// and return other bytes, and io_uring may be there and refuse reads.
fn probed(backend: &Backend, file: Arc<File>, pack: &File) -> io::Result<Queue> {
    let mut expected = vec![0u8; IO_ALIGNMENT];
    pack.read_exact_at(&mut expected, 0)?;
    super::buffered::forget(pack, 0, IO_ALIGNMENT);
    let mut arena = Arena::new([IO_ALIGNMENT])?;
    let lease = arena.lease(0).ok_or(io::ErrorKind::OutOfMemory)?;
    let mut queue = Queue::new((backend.start)(file)?, 1);
    queue.read(0, 0, IO_ALIGNMENT, lease);
    let done = queue.wait()?.ok_or(io::ErrorKind::UnexpectedEof)?;
    done.result.map_err(|e| e.error)?;
    if done.lease.bytes() != expected {
        return Err(io::Error::other(format!("{} reads other bytes than a plain read", backend.name)));
    }
    Ok(queue)
}

/// Opens the file again in direct mode and makes sure that it is the same file and that the pack's alignment is enough.
#[cfg(target_os = "linux")]
fn open_direct(path: &Path, pack: &File) -> io::Result<Arc<File>> {
    use rustix::fs::{Mode, OFlags};
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECT, Mode::empty())?;
    let file = File::from(fd);
    let (a, b) = (file.metadata()?, pack.metadata()?);
    if (a.dev(), a.ino()) != (b.dev(), b.ino()) {
        return Err(io::Error::other("the file was replaced while it was being opened"));
    }
    if let Some(needed) = direct_alignment(&file) {
        if needed == 0 {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the file system says so"));
        }
        if needed > IO_ALIGNMENT as u32 {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("it needs an alignment of {needed}, packs have {IO_ALIGNMENT}"),
            ));
        }
    }
    Ok(Arc::new(file))
}

/// The alignment the file system asks for; 0: it takes no direct I/O; `None`: the kernel does not tell (before 6.1).
#[cfg(target_os = "linux")]
fn direct_alignment(file: &File) -> Option<u32> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let s = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    (s.stx_mask & StatxFlags::DIOALIGN.bits() != 0).then(|| match (s.stx_dio_mem_align, s.stx_dio_offset_align) {
        (0, _) | (_, 0) => 0,
        (memory, offset) => memory.max(offset),
    })
}

/// Direct I/O is only implemented for Linux.
#[cfg(not(target_os = "linux"))]
fn open_direct(_path: &Path, _pack: &File) -> io::Result<Arc<File>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "not on this system"))
}
