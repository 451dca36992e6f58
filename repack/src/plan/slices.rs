//! Cutting an expert into slices: what one read brings and a kernel may start on.

use forebay_format::layout::align_up;
use forebay_format::layout::manifest::ExpertSlice;
use forebay_format::validate_pack::TENSOR_ALIGNMENT;

/// No slice is smaller than this where there is a choice: smaller reads waste the drive.
pub const MIN_SLICE_BYTES: u64 = 256 << 10;
/// Most slices of gate/up rows, and of down rows: together at most 16 a bundle.
const MAX_PART_SLICES: u32 = 8;
/// A cut may waste this share of its part (1/200 = 0.5%) on padding, or what a single slice would waste.
const MAX_WASTE_SHARE: u64 = 200;

/// Shape of one expert: rows and bytes of a row.
#[derive(Clone, Copy, Debug)]
pub struct ExpertShape {
    /// Rows of gate and of up.
    pub inner: u32,
    /// Rows of down.
    pub hidden: u32,
    /// Bytes of a gate row.
    pub gate_row: u64,
    /// Bytes of an up row.
    pub up_row: u64,
    /// Bytes of a down row.
    pub down_row: u64,
}

/// Slices of an expert and their lengths, gate/up first. Rows are shared out evenly. `None` if a size overflows.
pub fn cut(shape: &ExpertShape, alignment: u64) -> Option<(Vec<ExpertSlice>, Vec<u64>)> {
    let (mut slices, mut lengths) = (Vec::new(), Vec::new());
    let gate_up_len = |rows: u32| {
        let up_offset = align_up(shape.gate_row.checked_mul(rows as u64)?, TENSOR_ALIGNMENT)?;
        align_up(up_offset.checked_add(shape.up_row.checked_mul(rows as u64)?)?, alignment)
    };
    let down_len = |rows: u32| align_up(shape.down_row.checked_mul(rows as u64)?, alignment);
    let rows = rows_per_slice(shape.inner, shape.gate_row.checked_add(shape.up_row)?, &gate_up_len)?;
    let up_offset = align_up(shape.gate_row.checked_mul(rows as u64)?, TENSOR_ALIGNMENT)?;
    for first_row in (0..shape.inner).step_by(rows as usize) {
        slices.push(ExpertSlice::GateUp { first_row, rows, up_offset });
        lengths.push(gate_up_len(rows)?);
    }
    let rows = rows_per_slice(shape.hidden, shape.down_row, &down_len)?;
    for first_row in (0..shape.hidden).step_by(rows as usize) {
        slices.push(ExpertSlice::Down { first_row, rows });
        lengths.push(down_len(rows)?);
    }
    Some((slices, lengths))
}

/// The finest even cut whose slices are long enough and whose padding is small.
fn rows_per_slice(rows: u32, row_bytes: u64, length: &dyn Fn(u32) -> Option<u64>) -> Option<u32> {
    let bytes = row_bytes.checked_mul(rows as u64)?;
    let waste = |n: u32| length(rows / n)?.checked_mul(n as u64)?.checked_sub(bytes);
    let allowed = waste(1)?.max(bytes / MAX_WASTE_SHARE);
    let fits = |n: &u32| rows.is_multiple_of(*n) && bytes / *n as u64 >= MIN_SLICE_BYTES && waste(*n).is_some_and(|w| w <= allowed);
    Some(rows / (2..=MAX_PART_SLICES).rev().find(fits).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(inner: u32, hidden: u32, gate_row: u64, up_row: u64, down_row: u64) -> ExpertShape {
        ExpertShape { inner, hidden, gate_row, up_row, down_row }
    }

    #[test]
    fn a_toy_expert_is_two_slices() {
        let (slices, lengths) = cut(&shape(32, 64, 128, 128, 64), 4096).unwrap();
        assert_eq!(slices, [ExpertSlice::GateUp { first_row: 0, rows: 32, up_offset: 4096 }, ExpertSlice::Down { first_row: 0, rows: 64 }]);
        assert_eq!(lengths, [8192, 4096]);
    }

    #[test]
    fn real_experts_waste_little_and_have_long_slices() {
        // (inner, hidden, bytes of a gate, up and down row): 30B-A3B at q4_k + q6_k, gpt-oss at mxfp4, Mixtral at bf16, 35B-A3B at q4_k.
        let real =
            [(768, 2048, 1152, 1152, 630), (2880, 2880, 1530, 1530, 1530), (14336, 4096, 8192, 8192, 28672), (512, 2048, 1152, 1152, 288)];
        for (inner, hidden, gate, up, down) in real {
            let s = shape(inner, hidden, gate, up, down);
            let (slices, lengths) = cut(&s, 4096).unwrap();
            let bytes = inner as u64 * (gate + up) + hidden as u64 * down;
            let stored: u64 = lengths.iter().sum();
            assert!(stored - bytes <= bytes / 100, "{stored} for {bytes}");
            assert!(slices.len() <= 16 && slices.len() == lengths.len());
            assert!(lengths.iter().all(|&l| l >= MIN_SLICE_BYTES && l.is_multiple_of(4096)), "{lengths:?}");
            let rows = |down: bool| slices.iter().filter(|s| matches!(s, ExpertSlice::Down { .. }) == down).count();
            assert!(rows(false) >= 2 && rows(true) >= 2, "{slices:?}");
        }
    }

    #[test]
    fn a_prime_number_of_rows_is_not_cut() {
        let (slices, _) = cut(&shape(1021, 1021, 4096, 4096, 4096), 4096).unwrap();
        assert_eq!(slices.len(), 2);
    }

    #[test]
    fn overflow_is_an_answer() {
        assert!(cut(&shape(u32::MAX, u32::MAX, u64::MAX / 2, 1, 1), 4096).is_none());
    }
}
