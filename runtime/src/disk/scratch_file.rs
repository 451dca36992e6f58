//! A file to measure with: random bytes, which no drive can compress, and no name, so that it goes when the program does.

use crate::io::buffered::forget;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes written at a time.
const STEP: usize = 4 << 20;
/// Written bytes after which the page cache is emptied.
const FLUSH: u64 = 256 << 20;

/// A file of `bytes` random bytes in `dir`, on the disk and not in the page cache.
pub fn create(dir: &Path, bytes: u64, watch: &mut dyn FnMut(u64)) -> io::Result<File> {
    let name = dir.join(format!(".forebay-doctor-{}", std::process::id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&name)?;
    std::fs::remove_file(&name)?;
    let mut buffer = vec![0u8; STEP];
    let (mut seed, mut done) = (0x5EED, 0u64);
    while done < bytes {
        let length = (bytes - done).min(STEP as u64) as usize;
        for word in buffer.as_chunks_mut::<8>().0 {
            *word = next(&mut seed).to_le_bytes();
        }
        let Some(part) = buffer.get(..length) else { break };
        file.write_all(part)?;
        done += length as u64;
        if done.is_multiple_of(FLUSH) || done == bytes {
            file.sync_data()?;
            forget(&file, 0, usize::try_from(done).unwrap_or(usize::MAX));
        }
        watch(length as u64);
    }
    Ok(file)
}

/// Where an open file can be opened once more, with or without a name.
pub fn path(file: &File) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// SplitMix64 (Steele, Lea and Flood 2014).
pub fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
