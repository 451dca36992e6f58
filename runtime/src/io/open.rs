//! Choosing a backend: what the user asked for, what the file system takes, what the kernel allows.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use super::buffered::buffered;
use super::pread::PreadPool;
use super::{DiskIo, IO_ALIGNMENT, Queue, Urgency};
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
    choose(pack, wanted, &|| open_direct(path, pack))
}

fn choose(pack: &Arc<File>, wanted: IoBackend, open_direct: &dyn Fn() -> io::Result<Arc<File>>) -> io::Result<Opened> {
    let mut direct: Option<io::Result<Arc<File>>> = None;
    let mut warning = None;
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for backend in BACKENDS.iter().filter(|b| wanted == IoBackend::Auto || wanted == b.id) {
        let file = match backend.direct {
            false => Ok(Arc::clone(pack)),
            true => match direct.get_or_insert_with(open_direct) {
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
    queue.read(0, 0, IO_ALIGNMENT, lease, Urgency::Demand);
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
pub(crate) fn direct_alignment(file: &File) -> Option<u32> {
    use rustix::fs::{AtFlags, StatxFlags, statx};
    let s = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    (s.stx_mask & StatxFlags::DIOALIGN.bits() != 0).then(|| match (s.stx_dio_mem_align, s.stx_dio_offset_align) {
        (0, _) | (_, 0) => 0,
        (memory, offset) => memory.max(offset),
    })
}

/// Other systems have no such question.
#[cfg(not(target_os = "linux"))]
pub(crate) fn direct_alignment(_file: &File) -> Option<u32> {
    None
}

/// Direct I/O is only implemented for Linux.
#[cfg(not(target_os = "linux"))]
fn open_direct(_path: &Path, _pack: &File) -> io::Result<Arc<File>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "not on this system"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::PIECE_BYTES;
    use crate::testing::Random;
    use std::io::Write;

    /// A file of 40 pieces and a page, on the file system of the temporary directory.
    fn file() -> (tempfile::NamedTempFile, Vec<u8>) {
        let bytes = Random(4).bytes(40 * PIECE_BYTES + IO_ALIGNMENT);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        file.as_file().sync_all().unwrap();
        (file, bytes)
    }

    #[test]
    fn backends_agree_on_runs_of_many_pieces_with_and_without_registered_memory() {
        let (file, bytes) = file();
        let pack = Arc::new(File::open(file.path()).unwrap());
        for backend in BACKENDS {
            for register in [false, true] {
                let mut opened = match open(file.path(), &pack, backend.id) {
                    Ok(opened) => opened,
                    Err(e) => {
                        drop(std::io::Write::write_fmt(
                            &mut std::io::stderr(),
                            format_args!("SKIP: backend {} does not start here: {e}\n", backend.name),
                        ));
                        continue;
                    }
                };
                assert_eq!(opened.queue.backend(), backend.name);
                // More pieces than the depth in one run, many small runs, and one that ends with the file.
                let mut runs =
                    vec![(0, 36 * PIECE_BYTES), (IO_ALIGNMENT, IO_ALIGNMENT), (35 * PIECE_BYTES, 5 * PIECE_BYTES + IO_ALIGNMENT)];
                runs.extend((0..50).map(|i| (i * 3 * IO_ALIGNMENT, 2 * IO_ALIGNMENT)));
                let mut arena = Arena::new(runs.iter().map(|r| r.1)).unwrap();
                if register {
                    let registered = opened.queue.register(&[arena.region().unwrap()]);
                    eprintln!("{}: memory registered: {registered}", backend.name);
                }
                for (i, &(offset, length)) in runs.iter().enumerate() {
                    opened.queue.read(i as u64, offset as u64, length, arena.lease(i).unwrap(), Urgency::Demand);
                }
                while let Some(done) = opened.queue.wait().unwrap() {
                    done.result.unwrap();
                    arena.restore(done.lease);
                }
                for (i, &(offset, length)) in runs.iter().enumerate() {
                    assert!(arena.bytes(i).unwrap() == &bytes[offset..offset + length], "{} run {i}", backend.name);
                }
                let wanted: usize = runs.iter().map(|r| r.1).sum();
                assert_eq!(opened.queue.stats().bytes, wanted as u64 + IO_ALIGNMENT as u64, "and the probe");
            }
        }
    }

    #[test]
    fn a_queue_dropped_while_reading_is_harmless() {
        let (file, _) = file();
        let pack = Arc::new(File::open(file.path()).unwrap());
        for backend in BACKENDS {
            let Ok(mut opened) = open(file.path(), &pack, backend.id) else {
                drop(std::io::Write::write_fmt(
                    &mut std::io::stderr(),
                    format_args!("SKIP: backend {} does not start here\n", backend.name),
                ));
                continue;
            };
            let mut arena = Arena::new([40 * PIECE_BYTES]).unwrap();
            opened.queue.read(0, 0, 40 * PIECE_BYTES, arena.lease(0).unwrap(), Urgency::Demand);
            opened.queue.start().unwrap();
            drop(arena);
            drop(opened);
        }
    }

    #[test]
    fn names() {
        assert_eq!(IoBackend::from_name("auto"), Some(IoBackend::Auto));
        assert_eq!(IoBackend::from_name("mmap"), None);
        for b in BACKENDS {
            assert_eq!(IoBackend::from_name(b.name), Some(b.id));
        }
    }

    #[test]
    fn a_file_that_was_replaced_is_not_read_for_the_old_one() {
        let (a, _) = file();
        let (b, _) = file();
        let pack = Arc::new(File::open(a.path()).unwrap());
        let error = open(b.path(), &pack, IoBackend::Pread).err().map(|e| e.to_string());
        if cfg!(target_os = "linux") {
            assert!(error.unwrap().contains("replaced"));
        }
    }

    #[test]
    fn where_direct_io_is_refused_auto_reads_through_the_cache_and_says_so() {
        let (file, _) = file();
        let pack = Arc::new(File::open(file.path()).unwrap());
        let refuse = || Err(io::Error::new(io::ErrorKind::InvalidInput, "no such flag here"));
        assert!(choose(&pack, IoBackend::Pread, &refuse).is_err());
        let opened = choose(&pack, IoBackend::Auto, &refuse).unwrap();
        assert_eq!(opened.queue.backend(), "buffered");
        let warning = opened.warning.unwrap();
        assert!(warning.contains("page cache") && warning.contains("no such flag here"), "{warning}");
    }

    #[test]
    fn a_backend_that_reads_other_bytes_is_not_taken() {
        let (file, _) = file();
        let (other, bytes) = file_of(b'x');
        let pack = Arc::new(File::open(file.path()).unwrap());
        let liar = || File::open(other.path()).map(Arc::new);
        assert!(bytes.iter().all(|&b| b == b'x'));
        let error = choose(&pack, IoBackend::Pread, &liar).err().unwrap();
        assert!(error.to_string().contains("other bytes"), "{error}");
        assert_eq!(choose(&pack, IoBackend::Auto, &liar).unwrap().queue.backend(), "buffered");
    }

    fn file_of(byte: u8) -> (tempfile::NamedTempFile, Vec<u8>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes = vec![byte; IO_ALIGNMENT];
        std::fs::write(file.path(), &bytes).unwrap();
        (file, bytes)
    }
}
