//! Reads through the page cache, for file systems that refuse direct I/O. Each piece is dropped from the cache as soon as it was read, so that the
//! cache stays as small as what is in flight.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::pread::PreadPool;

/// The pread pool in buffered mode.
pub fn buffered(file: Arc<File>) -> io::Result<PreadPool> {
    no_readahead(&file);
    PreadPool::with(file, "buffered", forget)
}

/// Drops a range from the page cache. Best effort: a dirty page (a pack that was only just written) stays until it is on disk.
#[cfg(not(target_vendor = "apple"))]
pub(crate) fn forget(file: &File, offset: u64, length: usize) {
    use rustix::fs::{Advice, fadvise};
    let _ = fadvise(file, offset, std::num::NonZeroU64::new(length as u64), Advice::DontNeed);
}

/// The kernel must not read ahead of what was asked for: it would fill the cache with what nobody wants.
#[cfg(not(target_vendor = "apple"))]
pub(crate) fn no_readahead(file: &File) {
    use rustix::fs::{Advice, fadvise};
    let _ = fadvise(file, 0, None, Advice::Random);
}

/// This system has no such call.
#[cfg(target_vendor = "apple")]
pub(crate) fn forget(_file: &File, _offset: u64, _length: usize) {}

/// This system has no such call.
#[cfg(target_vendor = "apple")]
pub(crate) fn no_readahead(_file: &File) {}
