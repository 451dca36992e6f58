//! `nvfp4`: 64 values of the 4-bit float E2M1 in 4 sub-blocks of 16, each with a scale in E4M3 without sign (NVIDIA's NVFP4, four of its blocks
//! together). `value = E4M3[s] * E2M1[q]`, computed as `(E4M3[s] / 2) * (2 * E2M1[q])` so that the levels are whole numbers. The format's
//! second scale, one f32 a tensor, is not part of the block: a GGUF file has it in a tensor of its own.
//!
//! | byte | meaning |
//! |---|---|
//! | 0-3 | `s` of each sub-block: bits 6-3 exponent (bias 7), bits 2-0 mantissa, bit 7 without meaning; 127 stands for NaN |
//! | 4-35 | byte `4 + 8 s + i`: value `16 s + i` in the low half, value `16 s + 8 + i` in the high half |

use super::mxfp4::LEVELS;

/// Values in a block.
pub const LEN: usize = 64;
/// Bytes in a block.
pub const BYTES: usize = 36;

/// Half the number that an E4M3 byte stands for. 127 gives zero, as ggml reads it; [`finite`] reports such a block.
#[inline(always)]
pub const fn half_scale(s: u8) -> f32 {
    if s == 127 {
        return 0.0;
    }
    let (exponent, mantissa) = ((s as u32 >> 3) & 15, s as u32 & 7);
    if exponent == 0 {
        // 2^-6 * mantissa / 8, halved.
        mantissa as f32 * (1.0 / 1024.0)
    } else {
        // 2^(exponent - 7), halved: f32's bias is 127.
        f32::from_bits((exponent + 119) << 23 | mantissa << 20)
    }
}

/// Values of one block.
#[inline(always)]
pub fn decode_block(block: &[u8; BYTES], out: &mut [f32; LEN]) {
    for (s, values) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let d = half_scale(block[s]);
        for i in 0..8 {
            let q = block[4 + 8 * s + i];
            values[i] = d * f32::from(LEVELS[usize::from(q & 15)]);
            values[i + 8] = d * f32::from(LEVELS[usize::from(q >> 4)]);
        }
    }
}

/// No scale is E4M3's NaN, with either sign bit.
pub fn finite(block: &[u8; BYTES]) -> bool {
    block[..4].iter().all(|s| s & 127 != 127)
}
