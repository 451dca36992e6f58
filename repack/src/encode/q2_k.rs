//! `q2_k`: 16 sub-blocks of 16 values in 2 bits, scales and minima in 4, see [`super::sub_blocks`]. For sketches.

use super::sub_blocks::Kind;

const Q2_K: Kind<16, 16> = Kind { top: 3.0, grid: 15.0 };

/// Writes 256 values. The layout is that of `forebay_format::quant::q2_k`.
pub(super) fn encode_block(values: &[f32; 256], block: &mut [u8; 84]) {
    block.fill(0);
    let Some(coded) = Q2_K.encode(values) else { return };
    for (byte, (scale, min)) in block.iter_mut().zip(coded.scales.iter().zip(coded.mins)) {
        *byte = scale | min << 4;
    }
    block[80..82].copy_from_slice(&coded.d.0);
    block[82..].copy_from_slice(&coded.dmin.0);
    for (sub, x) in values.as_chunks::<16>().0.iter().enumerate() {
        let first = 16 + 32 * (sub / 8) + 16 * (sub % 2);
        for (byte, code) in block[first..first + 16].iter_mut().zip(Q2_K.codes(&coded, sub, x)) {
            *byte |= code << (2 * (sub / 2 % 4));
        }
    }
}
