//! `q4_k`: 8 sub-blocks of 32 values in 4 bits, scales and minima in 6, see [`super::sub_blocks`].

use super::sub_blocks::Kind;
use forebay_format::quant::pack_scales_mins;

const Q4_K: Kind<32, 8> = Kind { top: 15.0, grid: 63.0 };

/// Writes 256 values. The layout is that of `forebay_format::quant::q4_k`.
pub(super) fn encode_block(values: &[f32; 256], block: &mut [u8; 144]) {
    block.fill(0);
    let Some(coded) = Q4_K.encode(values) else { return };
    block[..2].copy_from_slice(&coded.d.0);
    block[2..4].copy_from_slice(&coded.dmin.0);
    block[4..16].copy_from_slice(&pack_scales_mins(&coded.scales, &coded.mins));
    for (sub, x) in values.as_chunks::<32>().0.iter().enumerate() {
        let first = 16 + 32 * (sub / 2);
        for (byte, code) in block[first..first + 32].iter_mut().zip(Q4_K.codes(&coded, sub, x)) {
            *byte |= code << (4 * (sub % 2));
        }
    }
}
