//! `q6_k`: 256 values of 6 bits in 16 sub-blocks of 16, each with an 8-bit scale. `value = (d * s) * (q - 32)`.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-127 | bits 3-0 of `q`: value `128 g + p` (`g < 2`, `p < 64`) in the low half of byte `64 g + p`, value `128 g + 64 + p` in its high half |
//! | 128-191 | bits 5-4 of `q`: value `128 g + 32 k + l` has them at bits `2k+1..2k` of byte `128 + 32 g + l` |
//! | 192-207 | `s[j]`, i8 |
//! | 208-209 | `d`, half |

use super::block;

/// Values in a block.
pub const LEN: usize = 256;
/// Bytes in a block.
pub const BYTES: usize = 210;

/// Values of one block.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let d = block::half(block, 208);
    for (sub, values) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * f32::from(block[192 + sub] as i8);
        let low_first = 64 * (sub / 8) + 16 * (sub % 4);
        let low_shift = 4 * (sub / 4 % 2);
        let high_first = 128 + 32 * (sub / 8) + 16 * (sub % 2);
        let high_shift = 2 * (sub / 2 % 4);
        for (l, value) in values.iter_mut().enumerate() {
            let low = (block[low_first + l] >> low_shift) & 15;
            let high = (block[high_first + l] >> high_shift) & 3;
            *value = scale * (i32::from(low | (high << 4)) - 32) as f32;
        }
    }
}

/// The scale is neither NaN nor infinite.
pub fn finite(block: &[u8; BYTES]) -> bool {
    block::half(block, 208).is_finite()
}
