//! Pieces that several block layouts share. Element `i` of a block of 32 that stores nibbles lies in the low half of byte `i` for
//! `i < 16` and in the high half of byte `i - 16` otherwise; this holds for every 32-value type.

use half::f16;

/// Half-precision number at byte `at` of a block. `at` is a constant of the layout, so the indices cannot leave the block.
#[inline(always)]
pub(super) fn half<const BYTES: usize>(block: &[u8; BYTES], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Applies `decode` to every whole block of `bytes` for which `out` has room.
#[inline(always)]
pub(super) fn each<const BYTES: usize, const LEN: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn(&[u8; BYTES], &mut [f32; LEN])) {
    for (block, values) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<LEN>().0) {
        decode(block, values);
    }
}

/// Position of the first block that `finite` refuses.
pub(super) fn first_bad<const BYTES: usize>(bytes: &[u8], finite: impl Fn(&[u8; BYTES]) -> bool) -> Option<usize> {
    bytes.as_chunks::<BYTES>().0.iter().position(|block| !finite(block))
}

/// The eight 6-bit (scale, minimum) pairs of Q4_K and Q5_K, packed in 12 bytes.
///
/// | byte | bits 7-6 | bits 5-0 |
/// |---|---|---|
/// | 0-3 | bits 5-4 of scale 4-7 | scale 0-3 |
/// | 4-7 | bits 5-4 of minimum 4-7 | minimum 0-3 |
/// | 8-11 | bits 7-4: low half of minimum 4-7 | bits 3-0: low half of scale 4-7 |
#[inline(always)]
pub fn unpack_scales_mins(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for i in 0..4 {
        let (s, m, low) = (packed[i], packed[i + 4], packed[i + 8]);
        scales[i] = s & 63;
        mins[i] = m & 63;
        scales[i + 4] = (low & 15) | ((s >> 6) << 4);
        mins[i + 4] = (low >> 4) | ((m >> 6) << 4);
    }
    (scales, mins)
}

/// Inverse of [`unpack_scales_mins`]; only the low 6 bits of each value are kept.
pub fn pack_scales_mins(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for i in 0..4 {
        let (s, m) = (scales[i + 4] & 63, mins[i + 4] & 63);
        packed[i] = (scales[i] & 63) | ((s >> 4) << 6);
        packed[i + 4] = (mins[i] & 63) | ((m >> 4) << 6);
        packed[i + 8] = (s & 15) | ((m & 15) << 4);
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_and_mins_survive_packing() {
        for seed in 0..64u8 {
            let scales = std::array::from_fn(|i| (seed.wrapping_mul(7).wrapping_add(i as u8 * 11)) & 63);
            let mins = std::array::from_fn(|i| (seed.wrapping_mul(5).wrapping_add(i as u8 * 23)) & 63);
            assert_eq!(unpack_scales_mins(&pack_scales_mins(&scales, &mins)), (scales, mins));
        }
    }
}
