//! `q3_k`: 256 values of 3 bits in 16 sub-blocks of 16, each with a 6-bit scale. `value = (d * (s - 32)) * (q - 4)`.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-31 | bit 2 of `q`: value `32 b + l` has it at bit `b` of byte `l` |
//! | 32-95 | bits 1-0 of `q`: value `128 g + 32 k + l` has them at bits `2k+1..2k` of byte `32 + 32 g + l` |
//! | 96-103 | byte `j`: bits 3-0 of `s[j]` in the low half, of `s[j + 8]` in the high half |
//! | 104-107 | byte `j`: bits 5-4 of `s[j]`, `s[j + 4]`, `s[j + 8]`, `s[j + 12]`, from the lowest bits up |
//! | 108-109 | `d`, half |

use super::block;

/// Values in a block.
pub const LEN: usize = 256;
/// Bytes in a block.
pub const BYTES: usize = 110;

/// Scale of sub-block `sub`, -32 to 31.
#[inline(always)]
fn scale(block: &[u8; BYTES], sub: usize) -> i32 {
    let low = (block[96 + sub % 8] >> (4 * (sub / 8))) & 15;
    let high = (block[104 + sub % 4] >> (2 * (sub / 4))) & 3;
    i32::from(low | (high << 4)) - 32
}

/// Values of one block.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let d = block::half(block, 108);
    for (sub, values) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let scale = d * scale(block, sub) as f32;
        let within = 16 * (sub % 2);
        let first = 32 + 32 * (sub / 8) + within;
        let shift = 2 * (sub / 2 % 4);
        for (l, value) in values.iter_mut().enumerate() {
            let low = (block[first + l] >> shift) & 3;
            let high = (block[within + l] >> (sub / 2)) & 1;
            *value = scale * (i32::from(low | (high << 2)) - 4) as f32;
        }
    }
}

/// The scale is neither NaN nor infinite.
pub fn finite(block: &[u8; BYTES]) -> bool {
    block::half(block, 108).is_finite()
}
