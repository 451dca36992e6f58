//! Interleaved rows on their way into the pack: whatever range is asked for, whole tiles are made of whole rows.

use crate::error::Result;
use crate::plan::Segment;
use forebay_format::Tiling;
use forebay_format::tiling::{TILE_ROWS, interleave};
use std::ops::Range;

/// Bytes of rows that are interleaved at once, about: a source read is as long.
const BATCH_BYTES: u64 = 1 << 20;

/// Room for tiles: rows as they come, and interleaved.
#[derive(Default)]
pub struct Tiles {
    rows: Vec<u8>,
    tiled: Vec<u8>,
}

/// Fills `out` with bytes `place` of a segment; `rows` gives bytes of the segment's rows one after the other.
pub fn fill(
    s: &Segment,
    place: Range<u64>,
    out: &mut [u8],
    room: &mut Tiles,
    mut rows: impl FnMut(Range<u64>, &mut [u8]) -> Result<()>,
) -> Result<()> {
    if s.tiling == Tiling::RowMajor {
        return rows(place, out);
    }
    let tile = TILE_ROWS as u64 * s.dest_row;
    let batch = (BATCH_BYTES / tile).max(1) * tile;
    let mut start = place.start / tile * tile;
    while start < place.end {
        // A tile is never cut, and rows are whole tiles: see `Tilings::of`.
        let end = (start + batch).min(place.end.next_multiple_of(tile));
        room.rows.resize((end - start) as usize, 0);
        room.tiled.resize(room.rows.len(), 0);
        rows(start..end, &mut room.rows)?;
        interleave(s.dest_row as usize, &room.rows, &mut room.tiled);
        let (from, to) = (start.max(place.start), end.min(place.end));
        out[(from - place.start) as usize..(to - place.start) as usize]
            .copy_from_slice(&room.tiled[(from - start) as usize..(to - start) as usize]);
        start = end;
    }
    Ok(())
}
