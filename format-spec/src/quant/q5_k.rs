//! `q5_k`: 256 values of 5 bits in 8 sub-blocks of 32, each with a 6-bit scale and a 6-bit minimum.
//! `value = (d * s) * q - (dmin * m)` with `s`, `m` of sub-block `i / 32`.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-1 | `d`, half |
//! | 2-3 | `dmin`, half |
//! | 4-15 | `s` and `m`, see [`unpack_scales_mins`](super::unpack_scales_mins) |
//! | 16-47 | bit 4 of `q`: value `32 b + l` has it at bit `b` of byte `16 + l` |
//! | 48-175 | bits 3-0 of `q`: value `64 g + l` in the low half of byte `48 + 32 g + l`, value `64 g + 32 + l` in its high half |

use super::block;

/// Values in a block.
pub const LEN: usize = 256;
/// Bytes in a block.
pub const BYTES: usize = 176;

/// Values of one block.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let (d, dmin) = (block::half(block, 0), block::half(block, 2));
    let (scales, mins) = block::unpack_scales_mins(&std::array::from_fn(|i| block[4 + i]));
    for (sub, values) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let scale = d * f32::from(scales[sub]);
        let min = dmin * f32::from(mins[sub]);
        let first = 48 + 32 * (sub / 2);
        let shift = 4 * (sub % 2);
        for (l, value) in values.iter_mut().enumerate() {
            let low = (block[first + l] >> shift) & 15;
            let high = (block[16 + l] >> sub) & 1;
            *value = scale * f32::from(low | (high << 4)) - min;
        }
    }
}

/// Scale and minimum are neither NaN nor infinite.
pub fn finite(block: &[u8; BYTES]) -> bool {
    block::half(block, 0).is_finite() && block::half(block, 2).is_finite()
}
