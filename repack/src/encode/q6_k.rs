//! `q6_k`: 16 scales searched one by one, then put on the grid that the block's own scale spans, then the block's scale fitted again to
//! the codes that came out.

use super::search::{NOTHING, extreme, symmetric_codes, symmetric_scale, to_half};

/// Codes and 8-bit scales of a block under one block scale.
struct Coded {
    scales: [i8; 16],
    codes: [[u8; 16]; 16],
}

/// Writes 256 values.
pub(super) fn encode_block(values: &[f32; 256], block: &mut [u8; 210]) {
    let subs = values.as_chunks::<16>().0;
    let mut wanted = [0.0; 16];
    for (scale, x) in wanted.iter_mut().zip(subs) {
        *scale = symmetric_scale(x, 32.0, 5, 0.2);
    }
    let largest = extreme(&wanted);
    if largest.abs() < NOTHING / 128.0 {
        block.fill(0);
        return;
    }
    let (mut half, d) = to_half(largest / -128.0);
    let mut coded = code(subs, &wanted, d);
    if let Some((refit_half, refit)) = refit(subs, &coded).map(to_half).filter(|&(_, refit)| refit != d && refit != 0.0) {
        let again = code_with(subs, &coded.scales, refit);
        if error(subs, &again, refit) < error(subs, &coded, d) {
            (half, coded) = (refit_half, again);
        }
    }
    write(&coded, half, block);
}

/// Puts the wanted scales on the grid of `d` and codes the values.
fn code(subs: &[[f32; 16]], wanted: &[f32; 16], d: f32) -> Coded {
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let scales = std::array::from_fn(|j| (wanted[j] * inverse).round_ties_even().clamp(-128.0, 127.0) as i8);
    code_with(subs, &scales, d)
}

/// Codes the values with given scales.
fn code_with(subs: &[[f32; 16]], scales: &[i8; 16], d: f32) -> Coded {
    let mut codes = [[32; 16]; 16];
    for ((codes, x), &scale) in codes.iter_mut().zip(subs).zip(scales) {
        *codes = symmetric_codes(x, d * f32::from(scale), 32.0);
    }
    Coded { scales: *scales, codes }
}

/// The block scale that fits the codes best.
fn refit(subs: &[[f32; 16]], coded: &Coded) -> Option<f32> {
    let (mut xq, mut qq) = (0.0f32, 0.0f32);
    for ((codes, x), &scale) in coded.codes.iter().zip(subs).zip(&coded.scales) {
        for (&code, &x) in codes.iter().zip(x) {
            let q = f32::from(scale) * (f32::from(code) - 32.0);
            xq += x * q;
            qq += q * q;
        }
    }
    (qq > 0.0).then(|| xq / qq)
}

/// Squared error of a block.
fn error(subs: &[[f32; 16]], coded: &Coded, d: f32) -> f32 {
    let mut error = 0.0;
    for ((codes, x), &scale) in coded.codes.iter().zip(subs).zip(&coded.scales) {
        let scale = d * f32::from(scale);
        for (&code, &x) in codes.iter().zip(x) {
            let rest = x - scale * (f32::from(code) - 32.0);
            error += rest * rest;
        }
    }
    error
}

/// Lays the block out, see `forebay_format::quant::q6_k`.
fn write(coded: &Coded, d: [u8; 2], block: &mut [u8; 210]) {
    block.fill(0);
    for (sub, (codes, &scale)) in coded.codes.iter().zip(&coded.scales).enumerate() {
        let low_first = 64 * (sub / 8) + 16 * (sub % 4);
        let low_shift = 4 * (sub / 4 % 2);
        let high_first = 128 + 32 * (sub / 8) + 16 * (sub % 2);
        let high_shift = 2 * (sub / 2 % 4);
        for (l, &code) in codes.iter().enumerate() {
            block[low_first + l] |= (code & 15) << low_shift;
            block[high_first + l] |= (code >> 4) << high_shift;
        }
        block[192 + sub] = scale as u8;
    }
    block[208..].copy_from_slice(&d);
}
