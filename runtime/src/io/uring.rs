//! io_uring. A thread of its own hands pieces to the kernel and takes completions, so that the drive goes on while all others compute; it sleeps in
//! the kernel otherwise.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use io_uring::types::{Fd, Fixed};
use io_uring::{IoUring, opcode, squeue};

use super::lineup::Lineup;
use super::watch::Watch;
use super::{Completion, DEPTH, DiskIo, Piece};

/// The kernel takes registered buffers of at most this length.
const MAX_REGISTERED: usize = 1 << 30;
/// The completion that says: look for new pieces.
const WAKE: u64 = u64::MAX;
/// The thread runs system calls and short loops only.
const STACK_BYTES: usize = 64 << 10;

/// `struct iovec` of POSIX.
#[repr(C)]
struct IoVector {
    base: *mut u8,
    length: usize,
}

struct Shared {
    /// Its two queues belong to the thread; registering is anybody's.
    ring: IoUring,
    file: Arc<File>,
    file_registered: bool,
    /// Written to when the thread is to look for new pieces.
    wake: OwnedFd,
    state: Mutex<State>,
    results: Condvar,
    watch: Watch,
}

struct State {
    lineup: Lineup,
    done: VecDeque<Completion>,
    /// Registered memory, (address, length), by buffer number.
    buffers: Vec<(usize, usize)>,
    /// The ring is beyond use.
    failed: Option<io::ErrorKind>,
    stop: bool,
}

impl State {
    /// A completion, if there is one.
    fn next(&mut self) -> io::Result<Option<Completion>> {
        match (self.done.pop_front(), self.failed) {
            (Some(done), _) => Ok(Some(done)),
            (None, Some(kind)) => Err(Uring::broken(kind)),
            (None, None) => Ok(None),
        }
    }
}

impl Shared {
    /// Nobody panics while holding the lock, so a poisoned lock still guards a sound state.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) -> io::Result<()> {
        // EAGAIN: the counter is full, so the thread is about to look anyway.
        match rustix::io::write(&self.wake, &1u64.to_ne_bytes()) {
            Ok(_) | Err(rustix::io::Errno::AGAIN) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn entry(&self, piece: &Piece, buffers: &[(usize, usize)]) -> squeue::Entry {
        let length = piece.length as u32; // at most PIECE_BYTES
        let start = piece.target.addr();
        let buffer = buffers.iter().position(|&(base, size)| start >= base && start + piece.length <= base + size);
        let entry = match (buffer, self.file_registered) {
            (Some(i), true) => opcode::ReadFixed::new(Fixed(0), piece.target, length, i as u16).offset(piece.offset).build(),
            (Some(i), false) => {
                opcode::ReadFixed::new(Fd(self.file.as_raw_fd()), piece.target, length, i as u16).offset(piece.offset).build()
            }
            (None, true) => opcode::Read::new(Fixed(0), piece.target, length).offset(piece.offset).build(),
            (None, false) => opcode::Read::new(Fd(self.file.as_raw_fd()), piece.target, length).offset(piece.offset).build(),
        };
        entry.user_data(piece.tag as u64)
    }
}

/// The thread's side: the ring's queues, and what is with the kernel.
struct Server<'a> {
    shared: &'a Shared,
    /// By tag: what the kernel has, and since when.
    started: [Option<(Instant, usize)>; DEPTH],
    in_flight: usize,
    armed: bool,
}

impl Server<'_> {
    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: only this thread uses the submission queue. The memory of a read is valid and untouched until its completion (`DiskIo::submit`'s
        // contract), the file lives as long as the ring.
        unsafe { self.shared.ring.submission_shared().push(entry) }.map_err(|_| io::Error::other("more reads than the ring holds"))
    }

    /// Hands over what may go. False when there is nothing left to do.
    fn feed(&mut self) -> io::Result<bool> {
        if !self.armed {
            let poll = opcode::PollAdd::new(Fd(self.shared.wake.as_raw_fd()), rustix::event::PollFlags::IN.bits() as u32);
            self.push(&poll.build().user_data(WAKE))?;
            self.armed = true;
        }
        let mut state = self.shared.lock();
        if state.stop {
            return Ok(self.in_flight > 0);
        }
        while let Some(piece) = state.lineup.send() {
            let entry = self.shared.entry(&piece, &state.buffers);
            self.push(&entry)?;
            self.in_flight += 1;
            if let Some(cell) = self.started.get_mut(piece.tag) {
                *cell = Some((Instant::now(), piece.length));
            }
        }
        Ok(true)
    }

    fn reap(&mut self) {
        // SAFETY: only this thread uses the completion queue.
        let entries = unsafe { self.shared.ring.completion_shared() };
        for entry in entries {
            if entry.user_data() == WAKE {
                self.armed = false;
                let _ = rustix::io::read(&self.shared.wake, &mut [0u8; 8]);
                continue;
            }
            let tag = entry.user_data() as usize;
            let Some((start, length)) = self.started.get_mut(tag).and_then(Option::take) else { continue };
            self.in_flight -= 1;
            let result = entry.result();
            let result = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as usize) };
            let mut state = self.shared.lock();
            state.lineup.landed(length);
            state.done.push_back(Completion { tag, result, took: start.elapsed() });
            drop(state);
            self.shared.results.notify_one();
        }
    }

    fn run(&mut self) -> io::Result<()> {
        while self.feed()? {
            match self.shared.ring.submitter().submit_and_wait(1) {
                Ok(_) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy) => {
                    std::thread::yield_now();
                }
                Err(e) => return Err(e),
            }
            self.reap();
        }
        Ok(())
    }
}

fn serve(shared: &Shared) {
    shared.watch.allow();
    let mut server = Server { shared, started: [None; DEPTH], in_flight: 0, armed: false };
    if let Err(e) = server.run() {
        shared.lock().failed = Some(e.kind());
        shared.results.notify_all();
    }
}

/// See the module's text.
pub struct Uring {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Uring {
    /// A ring for an open file. Fails where the kernel or a container forbids io_uring.
    pub fn new(file: Arc<File>) -> io::Result<Uring> {
        let ring = IoUring::new(2 * DEPTH as u32)?;
        let file_registered = ring.submitter().register_files(&[file.as_raw_fd()]).is_ok();
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let wake = rustix::event::eventfd(0, flags)?;
        let done = VecDeque::with_capacity(DEPTH);
        let state = State { lineup: Lineup::default(), done, buffers: Vec::new(), failed: None, stop: false };
        let shared = Arc::new(Shared {
            ring,
            file,
            file_registered,
            wake,
            state: Mutex::new(state),
            results: Condvar::new(),
            watch: Watch::default(),
        });
        let servers = Arc::clone(&shared);
        let builder = std::thread::Builder::new().name("read".into()).stack_size(STACK_BYTES);
        let thread = Some(builder.spawn(move || serve(&servers))?);
        Ok(Uring { shared, thread })
    }

    fn broken(kind: io::ErrorKind) -> io::Error {
        io::Error::new(kind, "io_uring failed")
    }
}

impl DiskIo for Uring {
    fn name(&self) -> &'static str {
        "uring"
    }

    fn register(&mut self, regions: &[(*mut u8, usize)]) -> bool {
        let mut parts: Vec<(usize, usize)> = Vec::new();
        let mut vectors = Vec::new();
        for &(base, length) in regions {
            let mut at = 0;
            while at < length {
                let part = (length - at).min(MAX_REGISTERED);
                parts.push((base.addr() + at, part));
                vectors.push(IoVector { base: base.wrapping_add(at), length: part });
                at += part;
            }
        }
        let mut state = self.shared.lock();
        if !state.buffers.is_empty() || vectors.is_empty() || vectors.len() > u16::MAX as usize {
            return false;
        }
        // SAFETY: IoVector has the layout of `struct iovec`, the element type here. The kernel pins the pages itself and drops them with
        // the ring; it writes to them only for reads that were submitted, and those keep the contract of `submit`.
        let registered = unsafe {
            let vectors = std::slice::from_raw_parts(vectors.as_ptr().cast(), vectors.len());
            self.shared.ring.submitter().register_buffers(vectors)
        }
        .is_ok();
        if registered {
            state.buffers = parts;
        }
        registered
    }

    fn set_pace(&mut self, bytes: usize) {
        self.shared.lock().lineup.set_pace(bytes);
    }

    unsafe fn submit(&mut self, pieces: &[Piece]) -> io::Result<()> {
        let mut state = self.shared.lock();
        if let Some(kind) = state.failed {
            return Err(Uring::broken(kind));
        }
        state.lineup.push(pieces);
        let wake = state.lineup.may_go();
        drop(state);
        if wake { self.shared.wake() } else { Ok(()) }
    }

    fn recall(&mut self, tag: usize) -> bool {
        self.shared.lock().lineup.recall(tag)
    }

    fn poll(&mut self) -> io::Result<Option<Completion>> {
        self.shared.lock().next()
    }

    fn wait(&mut self) -> io::Result<Completion> {
        let shared = &self.shared;
        if let Some(done) = shared.watch.look(|| shared.lock().next())? {
            return Ok(done);
        }
        let mut state = shared.lock();
        loop {
            if let Some(done) = state.next()? {
                return Ok(done);
            }
            state = shared.results.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        // Without a way to wake it the thread is left to itself; it holds its own share of the ring.
        if self.shared.wake().is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}
