//! `q2_k`: 256 values of 2 bits in 16 sub-blocks of 16, each with a 4-bit scale and a 4-bit minimum.
//! `value = (d * s) * q - (dmin * m)` with `s`, `m` of sub-block `i / 16`.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-15 | byte `j`: `s[j]` in the low half, `m[j]` in the high half |
//! | 16-79 | `q`: value `128 g + 32 k + l` (`g < 2`, `k < 4`, `l < 32`) is bits `2k+1..2k` of byte `16 + 32 g + l` |
//! | 80-81 | `d`, half |
//! | 82-83 | `dmin`, half |

use super::block;

/// Values in a block.
pub const LEN: usize = 256;
/// Bytes in a block.
pub const BYTES: usize = 84;

/// Values of one block.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let (d, dmin) = (block::half(block, 80), block::half(block, 82));
    for (sub, values) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[sub] & 15);
        let min = dmin * f32::from(block[sub] >> 4);
        let first = 16 + 32 * (sub / 8) + 16 * (sub % 2);
        let shift = 2 * (sub / 2 % 4);
        for (l, value) in values.iter_mut().enumerate() {
            *value = scale * f32::from((block[first + l] >> shift) & 3) - min;
        }
    }
}

/// Scale and minimum are neither NaN nor infinite.
pub fn finite(block: &[u8; BYTES]) -> bool {
    block::half(block, 80).is_finite() && block::half(block, 82).is_finite()
}
