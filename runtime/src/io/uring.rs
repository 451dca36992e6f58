//! io_uring: one system call starts a whole batch, none of our threads sleeps in it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use io_uring::types::{Fd, Fixed};
use io_uring::{IoUring, opcode, squeue};

use super::{Completion, DEPTH, DiskIo, Piece};

/// The kernel takes registered buffers of at most this length.
const MAX_REGISTERED: usize = 1 << 30;

/// `struct iovec` of POSIX.
#[repr(C)]
struct IoVector {
    base: *mut u8,
    length: usize,
}

/// See the module's text.
pub struct Uring {
    ring: IoUring,
    file: Arc<File>,
    file_registered: bool,
    /// Registered memory, (address, length), by buffer number.
    buffers: Vec<(usize, usize)>,
}

impl Uring {
    /// A ring for an open file. Fails where the kernel or a container forbids io_uring.
    pub fn new(file: Arc<File>) -> io::Result<Uring> {
        let ring = IoUring::new(DEPTH as u32)?;
        let file_registered = ring.submitter().register_files(&[file.as_raw_fd()]).is_ok();
        Ok(Uring { ring, file, file_registered, buffers: Vec::new() })
    }

    fn entry(&self, piece: &Piece) -> squeue::Entry {
        let length = piece.length as u32; // at most PIECE_BYTES
        let start = piece.target.addr();
        let buffer = self.buffers.iter().position(|&(base, size)| start >= base && start + piece.length <= base + size);
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
        if !self.buffers.is_empty() || vectors.is_empty() || vectors.len() > u16::MAX as usize {
            return false;
        }
        // SAFETY: IoVector has the layout of `struct iovec`, the element type here. The kernel pins the pages itself and drops them with
        // the ring; it writes to them only for reads that were submitted, and those keep the contract of `submit`.
        let registered = unsafe {
            let vectors = std::slice::from_raw_parts(vectors.as_ptr().cast(), vectors.len());
            self.ring.submitter().register_buffers(vectors)
        }
        .is_ok();
        if registered {
            self.buffers = parts;
        }
        registered
    }

    unsafe fn submit(&mut self, pieces: &[Piece]) -> io::Result<()> {
        for piece in pieces {
            let entry = self.entry(piece);
            // SAFETY: the caller keeps the memory valid and untouched until the completion; the file outlives the ring's use of it.
            unsafe { self.ring.submission().push(&entry) }.map_err(|_| io::Error::other("more reads than the ring holds"))?;
        }
        loop {
            match self.ring.submit() {
                Ok(_) if self.ring.submission().is_empty() => return Ok(()),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy) => {
                    std::thread::yield_now();
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn poll(&mut self) -> io::Result<Option<Completion>> {
        Ok(self.ring.completion().next().map(|entry| {
            let result = entry.result();
            let result = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result as usize) };
            Completion { tag: entry.user_data() as usize, result }
        }))
    }

    fn wait(&mut self) -> io::Result<Completion> {
        loop {
            if let Some(completion) = self.poll()? {
                return Ok(completion);
            }
            match self.ring.submit_and_wait(1) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}
