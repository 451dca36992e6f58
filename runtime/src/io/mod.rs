//! Reading the pack: a few backends that do raw, asynchronous reads ([`DiskIo`]), and one queue over them ([`Queue`]) that
//! cuts runs into pieces, keeps the drive busy, and deals with short reads, interruptions and errors.

pub mod buffered;
pub mod fake;
pub mod histogram;
pub mod lineup;
pub mod open;
pub mod pread;
pub mod queue;
#[cfg(target_os = "linux")]
mod short_slice;
#[cfg(target_os = "linux")]
pub mod uring;
mod watch;

use std::io;
use std::time::Duration;

pub use histogram::Histogram;
pub use open::{IoBackend, Opened, open};
pub use queue::{Done, Queue, ReadError, Urgency, Verdict};

/// Most bytes of one request to the kernel. One or two saturate a fast drive, and a virtual one that serves requests one after the other loses a tenth
/// or more with requests of a quarter MiB.
pub const PIECE_BYTES: usize = 2 << 20;
/// Most pieces that a backend has at once: what a drive reads while the mixer of a long prompt runs and nobody adds any. How many of them the drive has is
/// the pace's business ([`DiskIo::set_pace`]).
pub const DEPTH: usize = 512;
/// Threads of the backends that read with threads. They sleep in the kernel, so this is the queue depth the drive sees, not a load on the CPU.
pub const READERS: usize = 8;
/// Offsets, lengths and addresses of all pieces are multiples of this; every pack is aligned to at least as much.
pub const IO_ALIGNMENT: usize = 4096;

/// One read of at most [`PIECE_BYTES`], as a backend sees it.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Comes back in the [`Completion`].
    pub tag: usize,
    /// Offset in the file, a multiple of [`IO_ALIGNMENT`].
    pub offset: u64,
    /// Where the bytes go, a multiple of [`IO_ALIGNMENT`].
    pub target: *mut u8,
    /// Bytes wanted, a multiple of [`IO_ALIGNMENT`], not 0.
    pub length: usize,
    /// Who goes first.
    pub urgency: Urgency,
}

// SAFETY: `target` is only an address; whoever submits a piece vouches for it (see `DiskIo::submit`).
unsafe impl Send for Piece {}

/// The raw result of a piece: what the kernel said, short reads and all.
#[derive(Debug)]
pub struct Completion {
    /// Tag of the piece.
    pub tag: usize,
    /// Bytes read (0 at the end of the file), or the error.
    pub result: io::Result<usize>,
    /// Time that the drive had it.
    pub took: Duration,
}

/// Raw asynchronous reads from one file. [`fake::FakeDisk`] is the deterministic one for tests.
pub trait DiskIo: Send {
    /// Name for statistics and messages.
    fn name(&self) -> &'static str;

    /// Tells the kernel about memory that pieces will go to, which makes each read cheaper. Best effort; true if it was done.
    fn register(&mut self, regions: &[(*mut u8, usize)]) -> bool;

    /// At most `bytes` are with the drive at once from here on, but always one piece. Without a call there is no bound.
    fn set_pace(&mut self, bytes: usize);

    /// Takes `pieces` over: each goes to the drive as soon as the pace allows, the more urgent first, then the older. The caller keeps at most [`DEPTH`] there,
    /// with tags below it. After an error the backend is beyond use.
    ///
    /// # Safety
    /// Each piece's memory is initialised and valid for writes, and nobody else reads or writes it, until its completion was returned by
    /// [`DiskIo::wait`]; for ever, if that fails.
    unsafe fn submit(&mut self, pieces: &[Piece]) -> io::Result<()>;

    /// Takes back a piece that has not gone to the drive yet: it will never complete. False if it is too late for that.
    fn recall(&mut self, tag: usize) -> bool;

    /// Waits for one piece; pieces complete in any order. Must not be called with nothing in flight. An error is the backend's, not a read's.
    fn wait(&mut self) -> io::Result<Completion>;

    /// As [`DiskIo::wait`] if a piece is complete already; `None` if not.
    fn poll(&mut self) -> io::Result<Option<Completion>>;
}
