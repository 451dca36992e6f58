//! `mxfp4`: the scale is a power of two, so there are only two worth trying: the largest under which the extreme value still reaches the
//! top level's binade (the rule of OCP Microscaling 1.0, section 6.3; it may clip), and the next one (it never clips).

use forebay_format::quant::mxfp4::{LEVELS, half_scale};

/// Midpoints between the doubled levels 0, 1, 2, 3, 4, 6, 8, 12.
const MIDPOINTS: [f32; 7] = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0];

/// Writes 32 values.
pub(super) fn encode_block(values: &[f32; 32], block: &mut [u8; 17]) {
    let largest = values.iter().fold(0.0, |best: f32, v| if v.abs() > best { v.abs() } else { best });
    // The biased exponent of a single is floor(log2) + 127; 0 for zero and subnormals, which are below every level.
    let exponent = ((largest.to_bits() >> 23) as u8).saturating_sub(2);
    let (mut scale, mut codes, error) = encode_with(values, exponent);
    let (next_scale, next_codes, next_error) = encode_with(values, exponent.saturating_add(1));
    if next_error < error {
        (scale, codes) = (next_scale, next_codes);
    }
    block[0] = scale;
    for i in 0..16 {
        block[1 + i] = codes[i] | (codes[i + 16] << 4);
    }
}

/// The nearest codes under one scale, and their squared error. Ties go to the level nearer zero.
fn encode_with(values: &[f32; 32], exponent: u8) -> (u8, [u8; 32], f32) {
    let d = half_scale(exponent);
    let mut codes = [0; 32];
    let mut error = 0.0;
    for (code, &v) in codes.iter_mut().zip(values) {
        let magnitude = v.abs() / d;
        let level = MIDPOINTS.iter().map(|&m| u8::from(magnitude > m)).sum::<u8>();
        *code = if level > 0 && v < 0.0 { level + 8 } else { level };
        let rest = v - d * f32::from(LEVELS[usize::from(*code)]);
        error += rest * rest;
    }
    (exponent, codes, error)
}
