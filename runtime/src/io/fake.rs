//! A disk in memory that misbehaves on demand, the same way for the same seed.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use super::{Completion, DiskIo, IO_ALIGNMENT, Piece};

/// What goes wrong, each with a chance in 1000 per piece.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Fewer bytes than asked for.
    pub short: u32,
    /// EINTR or EAGAIN.
    pub interrupted: u32,
    /// EIO.
    pub error: u32,
    /// One bit of the piece is wrong.
    pub flip: u32,
    /// EIO whenever a piece covers this byte of the file.
    pub bad_sector: Option<u64>,
    /// The bit at this byte is wrong whenever a piece covers it.
    pub bad_bit: Option<u64>,
    /// At most this many random faults in all.
    pub budget: u32,
    /// A piece takes a random number of polls up to this many until it is complete. Time is counted in polls, so that a run repeats exactly.
    pub delay: u32,
}

/// See the module's text. Pieces complete in a random order, after random delays.
pub struct FakeDisk {
    content: Vec<u8>,
    faults: Faults,
    state: u64,
    /// Pieces and the time at which each is complete.
    in_flight: VecDeque<(Piece, u64)>,
    /// Polls so far.
    now: u64,
    /// Random faults made so far.
    pub made: u32,
}

// SAFETY: the pointers in `in_flight` are addresses that the submitter vouches for (see `DiskIo::submit`), on whatever thread.
unsafe impl Send for FakeDisk {}

impl FakeDisk {
    /// A disk that holds `content`.
    pub fn new(content: Vec<u8>, faults: Faults, seed: u64) -> FakeDisk {
        FakeDisk { content, faults, state: seed.wrapping_mul(2).wrapping_add(1), in_flight: VecDeque::new(), now: 0, made: 0 }
    }

    /// SplitMix64 (Steele et al. 2014).
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn strikes(&mut self, chance: u32) -> bool {
        let hit = self.random() % 1000 < chance as u64 && self.made < self.faults.budget;
        self.made += hit as u32;
        hit
    }

    fn run(&mut self, piece: &Piece) -> io::Result<usize> {
        let covers = |at: Option<u64>| at.filter(|&at| at >= piece.offset && at - piece.offset < piece.length as u64);
        if self.strikes(self.faults.interrupted) {
            let kind = if self.random() & 1 == 0 { io::ErrorKind::Interrupted } else { io::ErrorKind::WouldBlock };
            return Err(kind.into());
        }
        if covers(self.faults.bad_sector).is_some() || self.strikes(self.faults.error) {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error()));
        }
        let start = (piece.offset as usize).min(self.content.len());
        let mut length = piece.length.min(self.content.len() - start);
        if length > IO_ALIGNMENT && self.strikes(self.faults.short) {
            length = 1 + (self.random() as usize) % (length - 1);
        }
        // SAFETY: by the contract of `submit` the memory is valid, initialised and ours until the completion is returned.
        let target = unsafe { std::slice::from_raw_parts_mut(piece.target, length) };
        target.copy_from_slice(&self.content[start..start + length]);
        if length > 0 && self.strikes(self.faults.flip) {
            let bit = self.random();
            target[(bit >> 3) as usize % length] ^= 1 << (bit & 7);
        }
        if let Some(byte) = covers(self.faults.bad_bit).and_then(|at| target.get_mut((at - piece.offset) as usize)) {
            *byte ^= 1;
        }
        Ok(length)
    }
}

impl DiskIo for FakeDisk {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn register(&mut self, _regions: &[(*mut u8, usize)]) -> bool {
        false
    }

    fn set_pace(&mut self, _bytes: usize) {}

    unsafe fn submit(&mut self, pieces: &[Piece]) -> io::Result<()> {
        for &piece in pieces {
            let delay = self.random() % (self.faults.delay as u64 + 1);
            self.in_flight.push_back((piece, self.now + delay));
        }
        Ok(())
    }

    fn recall(&mut self, tag: usize) -> bool {
        // Sometimes too late, as with a real drive.
        let at = self.in_flight.iter().position(|(p, _)| p.tag == tag).filter(|_| self.random() & 1 == 0);
        at.is_some_and(|at| self.in_flight.remove(at).is_some())
    }

    fn poll(&mut self) -> io::Result<Option<Completion>> {
        self.now += 1;
        let complete = |&(_, at): &(Piece, u64)| at < self.now;
        let count = self.in_flight.iter().filter(|p| complete(p)).count();
        if count == 0 {
            return Ok(None);
        }
        let pick = self.random() as usize % count;
        let now = self.now;
        let at = self.in_flight.iter().enumerate().filter(|(_, p)| p.1 < now).nth(pick).map_or(0, |(i, _)| i);
        let (piece, _) = self.in_flight.swap_remove_back(at).ok_or(io::ErrorKind::NotFound)?;
        let result = self.run(&piece);
        Ok(Some(Completion { tag: piece.tag, result, took: Duration::ZERO }))
    }

    fn wait(&mut self) -> io::Result<Completion> {
        if self.in_flight.is_empty() {
            return Err(io::Error::other("nothing in flight"));
        }
        loop {
            if let Some(completion) = self.poll()? {
                return Ok(completion);
            }
        }
    }
}
