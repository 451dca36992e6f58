//! Sixteen weight rows that lie interleaved by dwords (`Tiling::Dwords16`: dword `i` of row `r` at byte `64 * i + 4 * r` of the tile), with AVX2: lane `r` of a vector belongs to row
//! `r` as it is read. Nothing is turned, nothing is added across lanes, and a tile is one run of bytes to the memory. 65 instructions instead of 93 for 256 weights of `q4_k` and one
//! activation row (`q5_k` 111 instead of 117). Float operations are those of rows by themselves, in their order: the same bits.

use super::super::blocks::QRow;
use super::avx2::{self as x86, Large, Min};
use super::gemm::{LargeType, Panel, Results, Rows, Strip, Unpacked};
use super::passes::{self, add_block, everywhere, pin, sum_pairs};
use super::turned::{Run, Turn, TurnedLarge, fill_large};
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Eight of the rows of a tile: where the first dword of the first one is.
#[derive(Clone, Copy)]
pub(super) struct Interleaved(*const u8);

impl Turn for Interleaved {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn turn(&self, at: usize) -> Run {
        // SAFETY: the caller's promise: dwords `at / 4` to `at / 4 + 3` are inside the tile.
        std::array::from_fn(|i| unsafe { _mm256_loadu_si256(self.0.add(16 * at + 64 * i).cast()) })
    }
}

/// The two halves of a tile.
#[inline(always)]
fn halves(rows: &Rows) -> [Interleaved; 2] {
    [Interleaved(rows[0]), Interleaved(rows[8])]
}

/// A type whose rows are interleaved.
struct Of<W>(PhantomData<W>);

impl<W: TurnedLarge> LargeType for Of<W> {
    const BYTES: usize = W::BYTES;
    const MIN: Min = W::MIN;
    const PANEL: Panel = W::PANEL;
    const GROUP: usize = W::GROUP;

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn unpack(block: *const u8) -> Large {
        // SAFETY: the caller's promise.
        unsafe { W::unpack(block) }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn fill(rows: &Rows, b: usize, _: &mut Unpacked, strip: &mut Strip) {
        x86::prefetch(rows[0].wrapping_add(16 * (b + 1) * W::BYTES), 16 * W::BYTES);
        // SAFETY: the caller's promise.
        unsafe { fill_large::<W, Interleaved>(&halves(rows), b, strip) }
    }
}

/// Bytes of a tile between what is in work and what is asked for from memory.
pub(super) const AHEAD: usize = 4096;

/// Adds the block at byte `at` of each row (block `b` of the activation rows) to the sums of `A` activation rows and eight times `H` weight rows.
///
/// # Safety
/// The machine has AVX2, FMA and F16C; the rows have the block, and so have `A` activation rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn block<W: TurnedLarge, const A: usize, const H: usize>(
    rows: &[Interleaved; H],
    b: usize,
    acts: &[QRow<'_>],
    sums: &mut [[__m256; H]; A],
) {
    let Panel::Bytes(chunk) = W::PANEL else { unreachable!() };
    let at = b * W::BYTES;
    let mut totals = [[_mm256_setzero_si256(); H]; A];
    // SAFETY: the caller's promise.
    unsafe {
        let q: [*const i8; A] = std::array::from_fn(|j| acts.get_unchecked(j).q.as_ptr().add(256 * b));
        let heads: [_; H] = std::array::from_fn(|h| W::head(&rows[h], at));
        let zero = [[[_mm256_setzero_si256(); H]; A]; 4];
        let mut parts = zero;
        for part in 0..16 / W::RUNS {
            let runs: [[Run; 4]; H] = std::array::from_fn(|h| W::part(&rows[h], at, part));
            x86::prefetch_here(rows[0].0.wrapping_add(16 * (at + 16 + 16 * part) + AHEAD), 256);
            for i in 0..4 {
                for (r, parts) in parts.iter_mut().enumerate().take(W::RUNS) {
                    for (&q, parts) in q.iter().zip(parts) {
                        let a = everywhere(q.add(16 * W::run(part, r) + 4 * i));
                        for (runs, sum) in runs.iter().zip(parts) {
                            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(runs[r][i], a));
                            pin(sum);
                        }
                    }
                }
            }
            // Eight products fit an i16, or four.
            if chunk == 8 && part.is_multiple_of(2) {
                continue;
            }
            for (r, parts) in parts.iter().enumerate().take(W::RUNS) {
                let group = 16 * W::run(part, r) / W::GROUP;
                for (parts, totals) in parts.iter().zip(&mut totals) {
                    for ((&part, total), head) in parts.iter().zip(totals).zip(&heads) {
                        *total = _mm256_add_epi32(*total, _mm256_madd_epi16(part, head.scale[group]));
                    }
                }
            }
            parts = zero;
        }
        for j in 0..A {
            let a = acts.get_unchecked(j);
            let pairs = sum_pairs::<W>(a.sums.as_ptr().add(16 * b));
            for h in 0..H {
                let head = &heads[h];
                add_block::<W>(&mut sums[j][h], totals[j][h], [head.d, head.dmin], &head.min, &pairs, *a.d.get_unchecked(b));
            }
        }
    }
}

/// Products of `A` activation rows, at most four.
///
/// # Safety
/// The machine has AVX2, FMA and F16C; the rows have `blocks` blocks each and the activation rows as many values; there is a result for each.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn few<W: TurnedLarge, const A: usize>(rows: &Rows, blocks: usize, acts: &[QRow<'_>], out: &mut Results) {
    debug_assert!(acts.len() >= A && out.len() >= A && acts.iter().all(|a| a.d.len() == blocks));
    let [low, high] = halves(rows);
    let (mut both, mut halves) = ([[_mm256_setzero_ps(); 2]; A], [[[_mm256_setzero_ps()]; A]; 2]);
    for b in 0..blocks {
        // SAFETY: the caller's promise.
        unsafe {
            if A == 1 {
                block::<W, A, 2>(&[low, high], b, acts, &mut both);
            } else {
                // The sums of sixteen rows would not fit the registers.
                block::<W, A, 1>(&[low], b, acts, &mut halves[0]);
                block::<W, A, 1>(&[high], b, acts, &mut halves[1]);
            }
        }
    }
    for (j, out) in out.iter_mut().enumerate().take(A) {
        let [low, high] = if A == 1 { both[j] } else { [halves[0][j][0], halves[1][j][0]] };
        // SAFETY: sixteen values.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), low);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), high);
        }
    }
}

/// Products of one activation row.
///
/// # Safety
/// As [`few`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn one<W: TurnedLarge>(rows: &Rows, blocks: usize, acts: &[QRow<'_>], out: &mut Results) {
    // SAFETY: the caller's promise.
    unsafe { few::<W, 1>(rows, blocks, acts, out) }
}

/// Products of several activation rows, at most [`MANY`](super::super::ops::MANY). Up to `FEW` of them (two to four) take the weights as they are unpacked, more of them a strip. Billions of
/// multiply-adds a second, two threads, from cache, medians of three or four, unpacked as they go and with a strip: 2, 3, 4, 6 and 12 rows of `q4_k` 130 and 114, 143 and 142, 153 and 147,
/// 136 and 173, 144 and 193; 2, 3 and 4 of `q5_k` 79 and 82, 93 and 114, 99 and 112.
///
/// # Safety
/// As [`few`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn many<W: TurnedLarge, const FEW: usize>(rows: &Rows, blocks: usize, acts: &[QRow<'_>], out: &mut Results) {
    // SAFETY: the caller's promise.
    unsafe {
        match acts.len() {
            2 => few::<W, 2>(rows, blocks, acts, out),
            3 if FEW >= 3 => few::<W, 3>(rows, blocks, acts, out),
            4 if FEW >= 4 => few::<W, 4>(rows, blocks, acts, out),
            _ => passes::many_large::<Of<W>>(rows, blocks, acts, out),
        }
    }
}
