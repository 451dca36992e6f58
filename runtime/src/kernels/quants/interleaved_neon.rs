//! Sixteen weight rows of Q4_K or Q5_K that lie interleaved by dwords (see `Tiling::Dwords16`), with NEON: four rows at a time, lane `r` of a vector belongs to row `r` as it is read, so
//! nothing is added across lanes. Each row sums its blocks in order, each block exact in integers; rows by themselves ([`neon`](super::neon)) keep four sums each and give other
//! last bits.

use super::super::blocks::QRow;
use super::super::ops::TILE_ROWS;
use super::neon::quads;
use std::arch::aarch64::*;

/// Pointers to the first dwords of rows, as `Tile` has them.
type Rows = [*const u8; TILE_ROWS];

/// The dwords of four interleaved rows.
#[derive(Clone, Copy)]
struct Four(*const u8);

impl Four {
    /// Dword `i` of each row.
    ///
    /// # Safety
    /// The rows are as long.
    #[inline(always)]
    unsafe fn dword(self, i: usize) -> uint32x4_t {
        // SAFETY: the caller's promise; NEON is there (see `neon`).
        unsafe { vld1q_u32(self.0.add(64 * i).cast()) }
    }
}

/// What belongs to a block besides its values.
struct Head {
    /// A scale for each group of 32, and a minimum.
    scale: [int32x4_t; 8],
    min: [int32x4_t; 8],
    d: float32x4_t,
    dmin: float32x4_t,
}

/// The headers at dword `at` of four rows: the halves `d` and `dmin`, then scales and minima of six bits in twelve bytes.
///
/// # Safety
/// The rows have a block there.
#[inline(always)]
unsafe fn head(rows: Four, at: usize) -> Head {
    // SAFETY: NEON is there; the caller's promise.
    unsafe {
        let (halves, s, m, low) = (rows.dword(at), rows.dword(at + 1), rows.dword(at + 2), rows.dword(at + 3));
        let (six, four, two) = (vdupq_n_u32(0x3f3f_3f3f), vdupq_n_u32(0x0f0f_0f0f), vdupq_n_u32(0x3030_3030));
        // The first four have their six bits together; the last four have four of them in the common bytes and two above those of the first.
        let upper = |v: uint32x4_t| vandq_u32(vshrq_n_u32::<2>(v), two);
        let scales = [vandq_u32(s, six), vorrq_u32(vandq_u32(low, four), upper(s))];
        let mins = [vandq_u32(m, six), vorrq_u32(vandq_u32(vshrq_n_u32::<4>(low), four), upper(m))];
        let byte = |v: [uint32x4_t; 2], g: usize| {
            let down = vshlq_u32(v[g / 4], vdupq_n_s32(-8 * (g % 4) as i32));
            vreinterpretq_s32_u32(vandq_u32(down, vdupq_n_u32(0xff)))
        };
        let float = |v: uint32x4_t| vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(v)));
        Head {
            scale: std::array::from_fn(|g| byte(scales, g)),
            min: std::array::from_fn(|g| byte(mins, g)),
            d: float(halves),
            dmin: float(vshrq_n_u32::<16>(halves)),
        }
    }
}

/// Products of `N` activation rows; `FIFTH`: Q5_K, `DOT`: see [`neon`](super::neon).
///
/// # Safety
/// The machine has NEON and what `DOT` says; the rows have `blocks` blocks each and the activation rows as many values; there is a result for each.
#[inline(always)]
unsafe fn few<const FIFTH: bool, const DOT: bool, const N: usize>(
    rows: &Rows,
    blocks: usize,
    acts: &[QRow<'_>],
    out: &mut [[f32; TILE_ROWS]],
) {
    let fifth = if FIFTH { 8 } else { 0 };
    let dwords = 36 + fifth;
    debug_assert!(acts.len() >= N && out.len() >= N && acts.iter().all(|a| a.d.len() == blocks));
    for quarter in 0..4 {
        let rows = Four(rows[4 * quarter]);
        // SAFETY: NEON is there; block `b` is inside the rows and the activation rows.
        unsafe {
            let mut sums = [vdupq_n_f32(0.0); N];
            for b in 0..blocks {
                let at = dwords * b;
                let head = head(rows, at);
                let mut totals = [vdupq_n_s32(0); N];
                for c in 0..4 {
                    let (mut lows, mut highs) = ([vdupq_n_s32(0); N], [vdupq_n_s32(0); N]);
                    for k in 0..8 {
                        let packed = vreinterpretq_u8_u32(rows.dword(at + 4 + fifth + 8 * c + k));
                        let (mut low, mut high) = (vandq_u8(packed, vdupq_n_u8(15)), vshrq_n_u8::<4>(packed));
                        if FIFTH {
                            let bits = vshlq_u8(vreinterpretq_u8_u32(rows.dword(at + 4 + k)), vdupq_n_s8(-2 * c as i8));
                            let one = vdupq_n_u8(1);
                            low = vorrq_u8(low, vshlq_n_u8::<4>(vandq_u8(bits, one)));
                            high = vorrq_u8(high, vshlq_n_u8::<4>(vandq_u8(vshrq_n_u8::<1>(bits), one)));
                        }
                        let (low, high) = (vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(high));
                        for j in 0..N {
                            let a = acts.get_unchecked(j).q.as_ptr().add(256 * b + 64 * c + 4 * k);
                            lows[j] = quads::<DOT>(lows[j], low, everywhere(a));
                            highs[j] = quads::<DOT>(highs[j], high, everywhere(a.add(32)));
                        }
                    }
                    for j in 0..N {
                        totals[j] = vmlaq_s32(vmlaq_s32(totals[j], lows[j], head.scale[2 * c]), highs[j], head.scale[2 * c + 1]);
                    }
                }
                for j in 0..N {
                    let a = acts.get_unchecked(j);
                    let group =
                        |g: usize| i32::from(*a.sums.get_unchecked(16 * b + 2 * g)) + i32::from(*a.sums.get_unchecked(16 * b + 2 * g + 1));
                    let mins = (0..8).fold(vdupq_n_s32(0), |sum, g| vmlaq_n_s32(sum, head.min[g], group(g)));
                    let d = *a.d.get_unchecked(b);
                    sums[j] = vfmaq_f32(sums[j], vcvtq_f32_s32(totals[j]), vmulq_n_f32(head.d, d));
                    sums[j] = vfmsq_f32(sums[j], vcvtq_f32_s32(mins), vmulq_n_f32(head.dmin, d));
                }
            }
            for (out, &sum) in out.iter_mut().zip(&sums) {
                vst1q_f32(out[4 * quarter..].as_mut_ptr(), sum);
            }
        }
    }
}

/// Four activations in every lane.
///
/// # Safety
/// There are four.
#[inline(always)]
unsafe fn everywhere(at: *const i8) -> int8x16_t {
    // SAFETY: NEON is there; the caller's promise.
    unsafe { vreinterpretq_s8_s32(vdupq_n_s32(at.cast::<i32>().read_unaligned())) }
}

/// Products of one activation row.
///
/// # Safety
/// As [`few`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn one<const FIFTH: bool, const DOT: bool>(rows: &Rows, blocks: usize, acts: &[QRow<'_>], out: &mut [[f32; TILE_ROWS]]) {
    // SAFETY: the caller's promise.
    unsafe { few::<FIFTH, DOT, 1>(rows, blocks, acts, out) }
}

/// Products of several activation rows.
///
/// # Safety
/// As [`few`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn many<const FIFTH: bool, const DOT: bool>(rows: &Rows, blocks: usize, acts: &[QRow<'_>], out: &mut [[f32; TILE_ROWS]]) {
    for (acts, out) in acts.chunks(4).zip(out.chunks_mut(4)) {
        // SAFETY: the caller's promise.
        unsafe {
            match acts.len() {
                4 => few::<FIFTH, DOT, 4>(rows, blocks, acts, out),
                3 => few::<FIFTH, DOT, 3>(rows, blocks, acts, out),
                2 => few::<FIFTH, DOT, 2>(rows, blocks, acts, out),
                _ => few::<FIFTH, DOT, 1>(rows, blocks, acts, out),
            }
        }
    }
}
