//! Tiles of sixteen weight rows with AVX-512 and VNNI: lane `r` of every vector belongs to row `r`. Blocks are turned as they are read, four bytes of each row into one
//! vector, which `dpbusd` multiplies with four activations broadcast to all lanes. So a sum needs no adding across lanes, scales are applied to sixteen rows at once, and what
//! was turned and unpacked serves every activation row: a tile costs little more than its bytes for one row, and half of what rows by themselves cost for many.
//!
//! Each lane sums its blocks in order; within a block groups of 32 in order, each group exact in integers.

use super::super::blocks::QRow;
use super::super::ops::TILE_ROWS;
use super::interleaved;
use std::arch::x86_64::*;

/// Where sixteen rows are.
pub(super) type Rows = [*const u8; TILE_ROWS];

/// Four dwords of each row from byte `at` on: vector `i` has dword `i` of all rows. They are turned, or just read where rows are interleaved (`Tiling::Dwords16`, `at` a multiple of four).
///
/// # Safety
/// The machine has the features; sixteen bytes from `at` on are inside each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn turn<const INTERLEAVED: bool>(rows: &Rows, at: usize) -> [__m512i; 4] {
    if INTERLEAVED {
        // SAFETY: the caller's promise; dword `at / 4` of all rows, then the next.
        return std::array::from_fn(|i| unsafe { _mm512_loadu_si512(rows[0].add(16 * at + 64 * i).cast()) });
    }
    let mut quads = [_mm512_setzero_si512(); 4];
    for (j, quad) in quads.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let sixteen = |r: usize| unsafe { _mm_loadu_si128(rows[r].add(at).cast()) };
        let a = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(sixteen(j)), sixteen(4 + j));
        *quad = _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(a, sixteen(8 + j)), sixteen(12 + j));
    }
    let [a, b, c, d] = quads;
    let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab, cd),
        _mm512_unpackhi_epi64(ab, cd),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// Scales of a block of Q4_K or Q5_K of sixteen rows.
pub(super) struct Scales {
    /// `d` times the scale of each group of 32.
    pub d: [__m512; 8],
    /// Minimum of each group, twice as i16.
    pub min: [__m512i; 8],
    /// `dmin`.
    pub dmin: __m512,
}

/// The scales at the start of the blocks (halves `d` and `dmin`, then scales and minima of 6 bits in 12 bytes).
///
/// # Safety
/// As [`turn`] for `at`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn scales<const INTERLEAVED: bool>(rows: &Rows, at: usize) -> Scales {
    // SAFETY: the caller's promise.
    let [halves, s, m, low] = unsafe { turn::<INTERLEAVED>(rows, at) };
    let (six, four, two) = (_mm512_set1_epi8(0x3f), _mm512_set1_epi8(0x0f), _mm512_set1_epi8(0x30));
    // The first four have their six bits together; the last four have four of them in the common bytes and two above those of the first.
    let s = [_mm512_and_si512(s, six), _mm512_or_si512(_mm512_and_si512(low, four), _mm512_and_si512(_mm512_srli_epi16::<2>(s), two))];
    let low = _mm512_and_si512(_mm512_srli_epi16::<4>(low), four);
    let m = [_mm512_and_si512(m, six), _mm512_or_si512(low, _mm512_and_si512(_mm512_srli_epi16::<2>(m), two))];
    let d = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(halves));
    let dmin = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(halves)));
    let mut scales = Scales { d: [d; 8], min: [_mm512_setzero_si512(); 8], dmin };
    for g in 0..8 {
        let byte = g as i32 % 4;
        let scale = _mm512_cvtepi32_ps(_mm512_shuffle_epi8(s[g / 4], places(ONCE, byte)));
        scales.d[g] = _mm512_mul_ps(d, scale);
        scales.min[g] = _mm512_shuffle_epi8(m[g / 4], places(TWICE, byte | (byte << 16)));
    }
    scales
}

/// Shuffle indices of a dword whose first byte is the source's, the others zero; and of one with such bytes in both halves. Added to them is what steps from
/// dword to dword.
const ONCE: [i32; 2] = [0x8080_8000u32 as i32, 4];
/// See [`ONCE`].
const TWICE: [i32; 2] = [0x8000_8000u32 as i32, 0x0004_0004];

/// Indices that take `byte` of each dword.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
fn places([zeros, dword]: [i32; 2], byte: i32) -> __m512i {
    let place = |i: i32| zeros | (byte + i * dword);
    _mm512_broadcast_i32x4(_mm_setr_epi32(place(0), place(1), place(2), place(3)))
}

/// Four bytes of activations in every lane.
///
/// # Safety
/// There are four bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
unsafe fn everywhere(at: *const i8) -> __m512i {
    // SAFETY: the caller's promise.
    _mm512_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
}

/// `dmin` times the sum of `min` times activations over block `b`.
///
/// # Safety
/// The row has that block of 256.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
unsafe fn minima(s: &Scales, a: &QRow<'_>, b: usize) -> __m512 {
    let mut sum = [_mm512_setzero_si512(); 2];
    for (g, &min) in s.min.iter().enumerate() {
        // SAFETY: 16 sums a block; two of them are four bytes.
        let pair = unsafe { everywhere(a.sums.as_ptr().add(16 * b + 2 * g).cast()) };
        sum[g % 2] = _mm512_dpwssd_epi32(sum[g % 2], min, pair);
    }
    _mm512_mul_ps(s.dmin, _mm512_cvtepi32_ps(_mm512_add_epi32(sum[0], sum[1])))
}

/// Blocks between the one in work and the one that is asked for: sixteen rows' worth of it covers memory's latency.
const AHEAD: usize = 1;

/// Asks for a later block of each row; behind the last one those of the next tile, which follows if rows lie back to back.
#[inline(always)]
fn prefetch<const INTERLEAVED: bool>(rows: &Rows, b: usize, blocks: usize, bytes: usize) {
    if INTERLEAVED {
        // The header; the values are asked for where they are read. All lines of the next block in a row instead: 39.6 GB/s from cache beside 44.7 (one thread), 12.6 to 19.7 from memory
        // beside 19.3 to 22.1 (two), four runs in turn.
        return super::avx2::prefetch_here(rows[0].wrapping_add(TILE_ROWS * b * bytes + interleaved::AHEAD), 4 * 64);
    }
    let later = b + AHEAD;
    let at = if later < blocks { later * bytes } else { (TILE_ROWS * blocks + later - blocks) * bytes };
    for row in rows {
        for line in (0..bytes).step_by(64) {
            // SAFETY: a prefetch of any address touches nothing that a program could see.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(at + line).cast()) };
        }
    }
}

/// Products of sixteen rows of Q4_K with at most `N` activation rows (just one if `N` is one).
///
/// # Safety
/// The machine has the features; the rows have `blocks` blocks each, and the activation rows as many values; there are no fewer results than
/// activation rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn q4_k<const N: usize, const INTERLEAVED: bool>(
    rows: &Rows,
    blocks: usize,
    acts: &[QRow<'_>],
    out: &mut [[f32; TILE_ROWS]],
) {
    const BYTES: usize = 144;
    let n = if N == 1 { 1 } else { acts.len().min(N) };
    debug_assert!(acts.len() >= n && out.len() >= n && acts.iter().all(|a| a.d.len() == blocks));
    let (mut totals, mut sums) = ([_mm512_setzero_ps(); N], [_mm512_setzero_ps(); N]);
    for b in 0..blocks {
        let at = b * BYTES;
        prefetch::<INTERLEAVED>(rows, b, blocks, BYTES);
        // SAFETY: block `b` is inside the rows and the activation rows; `j < n`.
        unsafe {
            let scales = scales::<INTERLEAVED>(rows, at);
            for (j, sum) in sums.iter_mut().enumerate().take(n) {
                *sum = _mm512_sub_ps(_mm512_setzero_ps(), minima(&scales, acts.get_unchecked(j), b));
            }
            for c in 0..4 {
                if INTERLEAVED {
                    super::avx2::prefetch_here(rows[0].wrapping_add(TILE_ROWS * (at + 16 + 32 * c) + interleaved::AHEAD), 8 * 64);
                }
                let (first, second) = (turn::<INTERLEAVED>(rows, at + 16 + 32 * c), turn::<INTERLEAVED>(rows, at + 32 + 32 * c));
                let (low, high) = (_mm512_set1_epi8(0x0f), _mm512_set1_epi8(0xf0u8 as i8));
                // The high halves stay where they are: sixteen times too large, exactly.
                let even = scales.d[2 * c];
                let odd = _mm512_mul_ps(scales.d[2 * c + 1], _mm512_set1_ps(1.0 / 16.0));
                for (j, sum) in sums.iter_mut().enumerate().take(n) {
                    let a = acts.get_unchecked(j).q.as_ptr().add(256 * b + 64 * c);
                    let (mut lows, mut highs) = (_mm512_setzero_si512(), _mm512_setzero_si512());
                    for k in 0..8 {
                        let q = if k < 4 { first[k] } else { second[k - 4] };
                        lows = _mm512_dpbusd_epi32(lows, _mm512_and_si512(q, low), everywhere(a.add(4 * k)));
                        highs = _mm512_dpbusd_epi32(highs, _mm512_and_si512(q, high), everywhere(a.add(32 + 4 * k)));
                    }
                    *sum = _mm512_fmadd_ps(even, _mm512_cvtepi32_ps(lows), *sum);
                    *sum = _mm512_fmadd_ps(odd, _mm512_cvtepi32_ps(highs), *sum);
                }
            }
            for (j, (total, &sum)) in totals.iter_mut().zip(&sums).enumerate().take(n) {
                let d = _mm512_set1_ps(*acts.get_unchecked(j).d.get_unchecked(b));
                *total = _mm512_fmadd_ps(d, sum, *total);
            }
        }
    }
    for (out, total) in out.iter_mut().zip(totals).take(n) {
        // SAFETY: sixteen values.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), total) };
    }
}
