//! Tilings: where the bytes of a matrix's rows lie. See SPEC.md, section 5.

use crate::layout::manifest::Tiling;
use crate::quant::QuantType;

/// Rows of a tile of [`Tiling::Dwords16`].
pub const TILE_ROWS: usize = 16;
/// Bytes of a row that stay together.
pub const DWORD: usize = 4;

impl Tiling {
    /// Row after row.
    pub fn is_row_major(&self) -> bool {
        *self == Tiling::RowMajor
    }

    /// Which of rows of `row_bytes` bytes byte `at` belongs to.
    pub fn row_of_byte(self, row_bytes: u64, at: u64) -> u64 {
        let tile = TILE_ROWS as u64 * row_bytes;
        match self {
            Tiling::RowMajor => at / row_bytes,
            Tiling::Dwords16 => at / tile * TILE_ROWS as u64 + at % tile / DWORD as u64 % TILE_ROWS as u64,
        }
    }

    /// Whether `rows` rows of `cols` values may be stored so: tiles are whole, and rows are whole dwords.
    pub fn fits(self, qtype: QuantType, rows: u64, cols: u64) -> bool {
        match self {
            Tiling::RowMajor => true,
            Tiling::Dwords16 => {
                let row = usize::try_from(cols).ok().and_then(|cols| qtype.row_bytes(cols));
                rows.is_multiple_of(TILE_ROWS as u64) && row.is_some_and(|bytes| bytes.is_multiple_of(DWORD))
            }
        }
    }
}

/// Interleaves rows that lie back to back: of each tile of sixteen the first dwords of all rows, then the second ones, and so on. `rows` and `out` are equally long, whole tiles of
/// rows of `row_bytes` bytes, a multiple of four.
///
/// # Panics
/// If they are not.
pub fn interleave(row_bytes: usize, rows: &[u8], out: &mut [u8]) {
    for (rows, out) in tiles(row_bytes, rows, out) {
        let lines = out.as_chunks_mut::<{ DWORD * TILE_ROWS }>().0;
        for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
            for (dword, line) in row.as_chunks::<DWORD>().0.iter().zip(&mut *lines) {
                line[DWORD * r..DWORD * (r + 1)].copy_from_slice(dword);
            }
        }
    }
}

/// The opposite of [`interleave`].
///
/// # Panics
/// As [`interleave`].
pub fn deinterleave(row_bytes: usize, tiled: &[u8], out: &mut [u8]) {
    for (tile, out) in tiles(row_bytes, tiled, out) {
        let (lines, out) = (tile.as_chunks::<{ DWORD * TILE_ROWS }>().0, out.as_chunks_mut::<DWORD>().0);
        for (r, row) in out.chunks_exact_mut(row_bytes / DWORD).enumerate() {
            for (dword, line) in row.iter_mut().zip(lines) {
                dword.copy_from_slice(&line[DWORD * r..DWORD * (r + 1)]);
            }
        }
    }
}

/// Tiles of both, side by side.
fn tiles<'a>(row_bytes: usize, from: &'a [u8], to: &'a mut [u8]) -> impl Iterator<Item = (&'a [u8], &'a mut [u8])> {
    let tile = TILE_ROWS * row_bytes;
    assert!(row_bytes.is_multiple_of(DWORD) && from.len() == to.len(), "{} and {} bytes in rows of {row_bytes}", from.len(), to.len());
    assert!(from.is_empty() || tile > 0 && from.len().is_multiple_of(tile), "{} bytes are no whole tiles of {tile}", from.len());
    from.chunks_exact(tile.max(1)).zip(to.chunks_exact_mut(tile.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dword_i_of_row_r_lies_at_64_i_plus_4_r() {
        let row = 24;
        let rows: Vec<u8> = (0..2 * 16 * row).map(|i| (i * 7 + i / 256) as u8).collect();
        let mut tiled = vec![0; rows.len()];
        interleave(row, &rows, &mut tiled);
        for (tile, r, byte) in (0..2).flat_map(|t| (0..16).flat_map(move |r| (0..row).map(move |b| (t, r, b)))) {
            let at = tile * 16 * row + 64 * (byte / 4) + 4 * r + byte % 4;
            assert_eq!(tiled[at], rows[(16 * tile + r) * row + byte]);
            assert_eq!(Tiling::Dwords16.row_of_byte(row as u64, at as u64), (16 * tile + r) as u64);
        }
        let mut back = vec![0; rows.len()];
        deinterleave(row, &tiled, &mut back);
        assert_eq!(back, rows);
        interleave(row, &[], &mut []);
    }

    #[test]
    fn only_whole_tiles_of_whole_dwords() {
        let fits = |t, rows, cols| Tiling::Dwords16.fits(t, rows, cols);
        assert!(fits(QuantType::Q4_K, 32, 512) && fits(QuantType::Q6_K, 16, 512) && fits(QuantType::F32, 16, 1));
        assert!(!fits(QuantType::Q4_K, 31, 512) && !fits(QuantType::Q6_K, 16, 256) && !fits(QuantType::Q4_K, 16, 100));
        assert!(Tiling::RowMajor.fits(QuantType::Q6_K, 1, 256));
    }

    #[test]
    fn other_lengths_panic() {
        let fails = |row: usize, len: usize| std::panic::catch_unwind(|| interleave(row, &vec![0; len], &mut vec![0; len])).is_err();
        assert!(!fails(8, 256) && fails(6, 96) && fails(8, 120));
        assert!(std::panic::catch_unwind(|| deinterleave(8, &[0; 256], &mut [0; 128])).is_err());
    }
}
