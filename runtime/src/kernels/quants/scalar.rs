//! Integer dot products in plain Rust: blocks in order, each block's integer exact, then scaled and added in f32.

use super::super::blocks::QRow;
use forebay_format::quant::Groups;

/// A block of 32 values: `d * q + m`.
pub(super) struct Small {
    pub q: [i8; 32],
    pub d: f32,
    pub m: f32,
}

/// A block of 256 values: `d * scale * q - dmin * min`, scale and min per 16 values.
pub(super) struct Large {
    pub q: [i8; 256],
    pub scale: [i16; 16],
    pub min: [i16; 16],
    pub d: f32,
    pub dmin: f32,
}

impl From<Groups> for Large {
    fn from(g: Groups) -> Large {
        Large { q: g.q, scale: g.scale, min: [0; 16], d: g.d, dmin: 0.0 }
    }
}

/// Half-precision number at byte `at`.
#[inline(always)]
pub(super) fn half<const B: usize>(block: &[u8; B], at: usize) -> f32 {
    ::half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The sixteen low halves, then the sixteen high halves, of the bytes from `at` on.
#[inline(always)]
pub(super) fn nibbles<const B: usize>(block: &[u8; B], at: usize) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { block[at + i] & 15 } else { block[at + i - 16] >> 4 })
}

/// Bit `i` of the u32 at byte `at` as bit 4 of value `i`.
#[inline(always)]
pub(super) fn fifth_bits<const B: usize>(block: &[u8; B], at: usize) -> [u8; 32] {
    std::array::from_fn(|i| ((block[at + i / 8] >> (i % 8)) & 1) << 4)
}

/// Scales and minima of Q4_K and Q5_K (packed in bytes 4 to 15), one a group of 16.
#[inline(always)]
pub(super) fn scales_mins<const B: usize>(block: &[u8; B]) -> ([i16; 16], [i16; 16]) {
    let (scales, mins) = forebay_format::quant::unpack_scales_mins(&std::array::from_fn(|i| block[4 + i]));
    (std::array::from_fn(|g| i16::from(scales[g / 2])), std::array::from_fn(|g| i16::from(mins[g / 2])))
}

/// Dot products of a row of blocks of 32.
#[inline(always)]
pub(super) fn dot_small<const B: usize, const N: usize>(
    row: &[u8],
    acts: &[QRow<'_>; N],
    out: &mut [f32; N],
    unpack: impl Fn(&[u8; B]) -> Small,
) {
    *out = [0.0; N];
    for (b, block) in row.as_chunks::<B>().0.iter().enumerate() {
        let w = unpack(block);
        for (a, out) in acts.iter().zip(out.iter_mut()) {
            let q = &a.q[32 * b..32 * b + 32];
            let sum: i32 = w.q.iter().zip(q).map(|(&w, &a)| i32::from(w) * i32::from(a)).sum();
            *out += w.d * a.d[b] * sum as f32 + w.m * a.d[b] * f32::from(a.sums[b]);
        }
    }
}

/// Dot products of a row of blocks of 256.
#[inline(always)]
pub(super) fn dot_large<const B: usize, const N: usize>(
    row: &[u8],
    acts: &[QRow<'_>; N],
    out: &mut [f32; N],
    unpack: impl Fn(&[u8; B]) -> Large,
) {
    *out = [0.0; N];
    for (b, block) in row.as_chunks::<B>().0.iter().enumerate() {
        let w = unpack(block);
        for (a, out) in acts.iter().zip(out.iter_mut()) {
            let q = &a.q[256 * b..256 * (b + 1)];
            let sums = &a.sums[16 * b..16 * (b + 1)];
            let (mut dots, mut mins) = (0, 0);
            for g in 0..16 {
                let part: i32 = w.q[16 * g..16 * g + 16].iter().zip(&q[16 * g..]).map(|(&w, &a)| i32::from(w) * i32::from(a)).sum();
                dots += i32::from(w.scale[g]) * part;
                mins += i32::from(w.min[g]) * i32::from(sums[g]);
            }
            *out += w.d * a.d[b] * dots as f32 - w.dmin * a.d[b] * mins as f32;
        }
    }
}

/// `decode` and `dot` of a type's `scalar` module, from its unpacking function.
macro_rules! kernels {
    ($dot:ident, $qtype:ident, $unpack:path) => {
        pub mod scalar {
            use crate::kernels::blocks::QRow;
            use forebay_format::QuantType;

            /// The format's own decoder.
            pub fn decode(row: &[u8], out: &mut [f32]) {
                QuantType::$qtype.decode_row(row, out);
            }

            pub const INTEGER: $crate::kernels::ops::Integer =
                $crate::kernels::ops::Integer::Rows($crate::kernels::ops::Dots { one: dot, two: dot, four: dot, eight: dot });

            pub fn dot<const N: usize>(row: &[u8], acts: &[QRow<'_>; N], out: &mut [f32; N]) {
                crate::kernels::quants::scalar::$dot(row, acts, out, $unpack);
            }
        }
    };
}
pub(super) use kernels;
