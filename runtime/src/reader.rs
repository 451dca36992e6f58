//! Bundles read and checked: nothing leaves here whose sums do not match.

use forebay_format::{BundleId, FormatError, Record};

use crate::error::{Error, Result};
use crate::io::{Done, Queue, ReadError};
use crate::pack::Pack;
use crate::window::arena::Lease;

/// Set in the tag of a bundle that is being read for the second time.
const SECOND: u64 = 1 << 63;

/// A queue that checks what it reads.
pub(crate) struct Reader {
    pub queue: Queue,
    /// Bundles read again because a sum did not match.
    pub rereads: u64,
    /// The memory is registered with the kernel.
    pub registered: bool,
}

impl Reader {
    /// Queues a bundle; `tag` is below 2^63.
    pub fn read(&mut self, record: &Record, tag: u64, lease: Lease) {
        // A length that does not fit an address does not fit the lease either, which the queue refuses.
        let length = usize::try_from(record.length).unwrap_or(usize::MAX);
        self.queue.read(tag, record.offset, length, lease);
    }

    /// Waits for all queued bundles, in any order, and checks each while the others are on their way. A mismatch is read once more, into
    /// the same memory. `bundle` tells what a tag stands for; `restore` gets all memory back, with the tag and whether the bundle is good.
    /// The first error is returned when nothing is in flight any more.
    pub fn finish(
        &mut self,
        pack: &Pack,
        bundle: impl Fn(u64) -> Option<BundleId>,
        mut restore: impl FnMut(u64, Lease, bool),
    ) -> Result<()> {
        let mut first_error = None;
        loop {
            let done = match self.queue.wait() {
                Ok(Some(done)) => done,
                Ok(None) => break,
                Err(error) => {
                    let what = format!("{} reads failed", self.queue.backend());
                    return Err(Error::Io { file: pack.path.clone(), what, error });
                }
            };
            let (tag, second) = (done.tag & !SECOND, done.tag & SECOND != 0);
            let record =
                bundle(tag).ok_or_else(|| FormatError::invalid("read", format!("unknown tag {tag}"))).and_then(|id| pack.index.get(id));
            let checked = record.map_err(|e| format_error(pack, e)).and_then(|record| check(pack, record, &done).map(|()| record));
            match (checked, bundle(tag).and_then(|id| pack.index.get(id).ok())) {
                (Err(Error::Format { error: FormatError::ChecksumMismatch { .. }, .. }), Some(record)) if !second => {
                    self.rereads += 1;
                    self.read(record, tag | SECOND, done.lease);
                }
                (checked, _) => {
                    restore(tag, done.lease, checked.is_ok());
                    first_error = first_error.or(checked.err());
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

fn check(pack: &Pack, record: &Record, done: &Done) -> Result<()> {
    if let Err(ReadError { offset, error }) = &done.result {
        let what = format!("cannot read {} at offset {offset}", record.id);
        let error = match error.raw_os_error() {
            Some(code) => std::io::Error::from_raw_os_error(code),
            None => std::io::Error::new(error.kind(), error.to_string()),
        };
        return Err(Error::Io { file: pack.path.clone(), what, error });
    }
    let bytes = usize::try_from(record.length).ok().and_then(|n| done.lease.bytes().get(..n)).unwrap_or_default();
    let block = &pack.superblock;
    pack.index.check_sums(record, &block.pack_id, block.chunk_bytes, bytes).map_err(|e| format_error(pack, e))
}

fn format_error(pack: &Pack, error: FormatError) -> Error {
    Error::Format { file: pack.path.clone(), error }
}
