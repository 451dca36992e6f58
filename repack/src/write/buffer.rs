//! A buffer that O_DIRECT accepts.

/// Bytes that start on a page. O_DIRECT wants memory, offset and length aligned.
#[derive(Default)]
pub struct AlignedBuf {
    raw: Vec<u8>,
}

/// Alignment of the memory; covers every drive and the larger pack alignment.
const MEMORY_ALIGNMENT: usize = 16384;

impl AlignedBuf {
    /// The first `len` bytes; what they hold is left from the last use.
    pub fn slice(&mut self, len: usize) -> &mut [u8] {
        if self.raw.len() < len + MEMORY_ALIGNMENT {
            self.raw = vec![0; len + MEMORY_ALIGNMENT];
        }
        let address = self.raw.as_ptr() as usize;
        let start = address.next_multiple_of(MEMORY_ALIGNMENT) - address;
        &mut self.raw[start..start + len]
    }
}
