//! Reading the weights of an open checkpoint: plain positioned reads, from files held open.

use super::file::{io_error, open_resolved};
use super::{Checkpoint, Tensor};
use crate::error::{Error, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// The weight files of a checkpoint, open. Many threads may read at once.
#[derive(Debug)]
pub struct Reader {
    files: Vec<(PathBuf, File)>,
}

impl Reader {
    /// Opens the weight files again.
    ///
    /// # Errors
    /// [`Error::SourceChanged`] if a file is not the one whose header was read.
    pub fn open(checkpoint: &Checkpoint) -> Result<Self> {
        let mut files = Vec::with_capacity(checkpoint.files.len());
        for file in &checkpoint.files {
            let opened = open_resolved(&file.path, &file.path)?;
            if opened.fingerprint != file.fingerprint {
                return Err(Error::SourceChanged { file: file.path.clone() });
            }
            files.push((file.path.clone(), opened.file));
        }
        Ok(Self { files })
    }

    /// Fills `buf` from byte `offset` of the tensor's data.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses; [`Error::SourceChanged`] if the file has become shorter; [`Error::Malformed`] if the bytes are not the tensor's.
    pub fn read_exact_at(&self, tensor: &Tensor, offset: u64, buf: &mut [u8]) -> Result<()> {
        let Some((path, file)) = self.files.get(tensor.file) else {
            return Err(Error::Usage(format!("tensor {:?} is of another checkpoint", tensor.name)));
        };
        let inside = offset.checked_add(buf.len() as u64).is_some_and(|end| end <= tensor.bytes());
        if !inside {
            let why = format!("tensor {:?} has {} bytes; {} at {offset} were asked for", tensor.name, tensor.bytes(), buf.len());
            return Err(Error::Malformed { file: path.clone(), why });
        }
        // No overflow: the range was checked to be in the file.
        file.read_exact_at(buf, tensor.range.start + offset).map_err(|e| io_error(path, "reading weights", e))
    }

    /// Reads `count` rows from row `first` on into `buf`, which becomes exactly that long.
    ///
    /// # Errors
    /// As [`Reader::read_exact_at`]; [`Error::Malformed`] also if a row is no whole number of blocks.
    pub fn read_rows(&self, tensor: &Tensor, first: u64, count: u64, buf: &mut Vec<u8>) -> Result<()> {
        let path = || self.files.get(tensor.file).map(|(p, _)| p.clone()).unwrap_or_default();
        let malformed = |why: String| Error::Malformed { file: path(), why };
        let Some(row) = tensor.row_bytes() else {
            return Err(malformed(format!("a row of tensor {:?} is no whole number of {} blocks", tensor.name, tensor.dtype.name())));
        };
        let span = row.checked_mul(first).zip(row.checked_mul(count)).filter(|(_, n)| *n <= tensor.bytes());
        let Some((offset, length)) = span.and_then(|(o, n)| usize::try_from(n).ok().map(|n| (o, n))) else {
            return Err(malformed(format!("tensor {:?} has {} rows; {count} at {first} were asked for", tensor.name, tensor.rows())));
        };
        buf.resize(length, 0);
        self.read_exact_at(tensor, offset, buf)
    }
}
