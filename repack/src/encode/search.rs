//! Arithmetic that the encoders share. Sums run in eight lanes, so that the compiler can keep them in vector registers without being
//! allowed to reorder anything: results do not depend on the machine.

use half::f16;

/// Lanes of a sum.
pub(super) const LANES: usize = 8;

/// Below half of the smallest half-precision number no scale can hold anything but zero.
pub(super) const NOTHING: f32 = 1.0 / (1u32 << 25) as f32;

/// 1.5 * 2^23: a sum with it has no fraction bits left.
const SHIFT: f32 = 12_582_912.0;

/// Rounds to the nearest whole number, ties to even. Exact for magnitudes below 2^22; the codes here stay below 2^8.
#[inline(always)]
pub(super) fn round(v: f32) -> f32 {
    (v + SHIFT) - SHIFT
}

/// `v` limited to `[low, high]`. Written as comparisons, which compile to one instruction each, as `f32::clamp` does not.
#[inline(always)]
pub(super) fn limit(v: f32, low: f32, high: f32) -> f32 {
    let v = if v > low { v } else { low };
    if v < high { v } else { high }
}

/// Sum of the lanes in one fixed order.
#[inline(always)]
pub(super) fn total(lanes: [f32; LANES]) -> f32 {
    ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]))
}

/// Sum of `f(x)`.
#[inline(always)]
pub(super) fn sum<const N: usize>(x: &[f32; N], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    for x in x.as_chunks::<LANES>().0 {
        for i in 0..LANES {
            lanes[i] += f(x[i]);
        }
    }
    total(lanes)
}

/// The value that is largest in magnitude.
#[inline(always)]
pub(super) fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |best: f32, &v| if v.abs() > best.abs() { v } else { best })
}

/// A scale as a half, and the number that half stands for. Among the subnormal halves, which are far apart compared with their size, the
/// next one away from zero is taken: too large a scale loses a little resolution, too small a one clips the extremes or everything.
#[inline(always)]
pub(super) fn to_half(v: f32) -> ([u8; 2], f32) {
    let mut half = f16::from_f32(v);
    if half.to_f32().abs() < v.abs().min(f16::MIN_POSITIVE.to_f32()) {
        half = f16::from_bits(half.to_bits() + 1);
    }
    (half.to_le_bytes(), half.to_f32())
}

/// Scale `d` for `x ~ d * q`, `q` whole in `[-half, half - 1]`, that makes the sum of `(x - d * q)^2` small.
///
/// The extreme value of the block fixes the scale up to a factor near one. `2 * steps + 1` factors are tried; each gives codes, the codes
/// give the best scale `sum(x q) / sum(q q)`, and that leaves the error `sum(x x) - sum(x q)^2 / sum(q q)`.
pub(super) fn symmetric_scale<const N: usize>(x: &[f32; N], half: f32, steps: i32, step: f32) -> f32 {
    let extreme = extreme(x);
    if extreme.abs() < NOTHING {
        return 0.0;
    }
    let (mut best_gain, mut best) = (0.0, -extreme / half);
    for k in -steps..=steps {
        let inverse = -(half + k as f32 * step) / extreme;
        let (xq, qq) = products(x, inverse, half);
        if qq > 0.0 && xq * xq > best_gain * qq {
            best_gain = xq * xq / qq;
            best = xq / qq;
        }
    }
    best
}

/// `sum(x q)` and `sum(q q)` for the codes `q` that `inverse` gives.
#[inline(always)]
fn products<const N: usize>(x: &[f32; N], inverse: f32, half: f32) -> (f32, f32) {
    let (mut xq, mut qq) = ([0.0; LANES], [0.0; LANES]);
    for x in x.as_chunks::<LANES>().0 {
        for i in 0..LANES {
            let q = round(limit(x[i] * inverse, -half, half - 1.0));
            xq[i] += x[i] * q;
            qq[i] += q * q;
        }
    }
    (total(xq), total(qq))
}

/// Code `q + half` of each value for scale `d`, 0 to `2 * half - 1`.
#[inline(always)]
pub(super) fn symmetric_codes<const N: usize>(x: &[f32; N], d: f32, half: f32) -> [u8; N] {
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let mut codes = [0; N];
    for (code, &x) in codes.iter_mut().zip(x) {
        *code = low_byte(limit(x * inverse, -half, half - 1.0)).wrapping_add(half as u8);
    }
    codes
}

/// [`round`] as an integer, modulo 256: after the shift the low bits of the mantissa are the whole number in two's complement.
#[inline(always)]
pub(super) fn low_byte(v: f32) -> u8 {
    (v + SHIFT).to_bits() as u8
}
