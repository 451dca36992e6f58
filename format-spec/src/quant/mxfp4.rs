//! `mxfp4`: 32 values of the 4-bit float E2M1 with one power-of-two scale E8M0 (OCP Microscaling Formats 1.0).
//! `value = 2^(e - 127) * E2M1[q]`, computed as `2^(e - 128) * (2 * E2M1[q])` so that the levels are whole numbers.
//!
//! | byte | meaning |
//! |---|---|
//! | 0 | `e`; 255 stands for NaN |
//! | 1-16 | byte `i`: `q[i]` in the low half, `q[i + 16]` in the high half |

/// Values in a block.
pub const LEN: usize = 32;
/// Bytes in a block.
pub const BYTES: usize = 17;

/// The levels of E2M1, doubled. Code 8 is a negative zero in the standard and reads as zero.
pub const LEVELS: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// `2^(e - 128)`. The first two are subnormal. 255 gives `2^127`, as ggml reads it; [`finite`] reports such a block.
#[inline(always)]
pub fn half_scale(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}

/// Values of one block.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    let d = half_scale(block[0]);
    for i in 0..16 {
        let q = block[1 + i];
        out[i] = d * f32::from(LEVELS[usize::from(q & 15)]);
        out[i + 16] = d * f32::from(LEVELS[usize::from(q >> 4)]);
    }
}

/// The scale is not the standard's NaN.
pub fn finite(block: &[u8; BYTES]) -> bool {
    block[0] != 255
}
