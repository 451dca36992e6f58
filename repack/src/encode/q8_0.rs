//! `q8_0`: 8 bits leave nothing to search for; the same bytes as ggml's reference encoder.

use half::f16;

/// Writes 32 values.
pub(super) fn encode_block(values: &[f32; 32], block: &mut [u8; 34]) {
    let largest = values.iter().fold(0.0, |best: f32, v| if v.abs() > best { v.abs() } else { best });
    let d = largest / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    // A magnitude so small that the inverse overflows has a scale that no half can hold: zero.
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    let (scale, codes) = block.split_at_mut(2);
    scale.copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (code, &v) in codes.iter_mut().zip(values) {
        let v = v * inverse;
        let whole = v as i32;
        let rest = v - whole as f32;
        // Nearest, ties away from zero.
        *code = (whole + i32::from(rest >= 0.5) - i32::from(rest <= -0.5)) as i8 as u8;
    }
}
