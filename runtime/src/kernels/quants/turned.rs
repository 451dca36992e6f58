//! Types whose blocks are turned as they are read, with AVX2: four bytes of each of eight rows make a vector, lane `r` belongs to row `r`, and bits are taken apart afterwards, for
//! eight rows at once: half the instructions of unpacking rows by themselves and turning what comes out. With one activation row it does not pay: in blocks of 256 the scales take as
//! many to turn (`q4_k` 103 instructions instead of 105 for 256 weights, `q6_k` 176 instead of 105), and for blocks of 32 see [`packed`](super::packed).

use super::avx2 as x86;
use super::gemm::{LargeType, Panel, Rows, SmallType, Strip, halves, turn, widened};
use std::arch::x86_64::*;

/// Eight of a tile's rows.
pub(super) type Eight = [*const u8; 8];
/// Four vectors of [`turn`]: sixteen values of eight rows.
pub(super) type Run = [__m256i; 4];

/// Eight rows whose dwords can be had side by side.
pub(super) trait Turn {
    /// Four dwords of each row from byte `at` on (a multiple of four where rows are interleaved): vector `i` has dword `i` of all rows.
    ///
    /// # Safety
    /// The machine has AVX2, FMA and F16C; sixteen bytes from `at` on are inside each row.
    unsafe fn turn(&self, at: usize) -> Run;
}

/// Rows as they lie in most packs.
impl Turn for Eight {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn turn(&self, at: usize) -> Run {
        // SAFETY: the caller's promise.
        unsafe { turn(self, at) }
    }
}

/// What belongs to a block of 256 of eight rows besides its values.
pub(super) struct Head {
    /// i16 twice in each lane, for each group of values.
    pub scale: [__m256i; 16],
    /// i16 for two groups in each lane.
    pub min: [__m256i; 8],
    pub d: __m256,
    pub dmin: __m256,
}

/// A type with blocks of 256 that can be turned.
pub(super) trait TurnedLarge: LargeType {
    /// Runs of sixteen values that come together.
    const RUNS: usize;

    /// Which run of the block is run `i` of a part.
    fn run(part: usize, i: usize) -> usize;

    /// # Safety
    /// The machine has AVX2, FMA and F16C; there is a block at `at`.
    unsafe fn head<E: Turn>(rows: &E, at: usize) -> Head;

    /// The first [`TurnedLarge::RUNS`] count.
    ///
    /// # Safety
    /// As above; `part` is below `16 / RUNS`.
    unsafe fn part<E: Turn>(rows: &E, at: usize, part: usize) -> [Run; 4];
}

/// A type with blocks of 32 that can be turned: `d * (q - OFFSET)` with unsigned `q`, or [`Panel::Words`] and signed `q`.
pub(super) trait TurnedSmall: SmallType {
    /// # Safety
    /// The machine has AVX2, FMA and F16C; there is a block at `at`.
    unsafe fn scale(rows: &Eight, at: usize) -> __m256;

    /// # Safety
    /// As above.
    unsafe fn values(rows: &Eight, at: usize) -> [Run; 2];
}

/// Halves in the low (`HIGH` false) or high words of the lanes, as floats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn halves_of<const HIGH: bool>(words: __m256i) -> __m256 {
    let words = if HIGH { _mm256_srli_epi32::<16>(words) } else { _mm256_and_si256(words, _mm256_set1_epi32(0xffff)) };
    let packed = _mm256_permute4x64_epi64::<0x08>(_mm256_packus_epi32(words, words));
    _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
}

/// The half at byte `at` of each row.
///
/// # Safety
/// The machine has AVX2, FMA and F16C; sixteen bytes from `at` on are inside each row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn halves_at(rows: &Eight, at: usize) -> __m256 {
    // SAFETY: the caller's promise.
    let two = |r: usize| unsafe { _mm_unpacklo_epi16(load16(rows, r, at), load16(rows, r + 1, at)) };
    let (low, high) = (_mm_unpacklo_epi32(two(0), two(2)), _mm_unpacklo_epi32(two(4), two(6)));
    _mm256_cvtph_ps(_mm_unpacklo_epi64(low, high))
}

/// Byte `at` of each row, in the low half. (Whole vectors are loaded and zipped: half the instructions of putting the bytes together one by one.)
///
/// # Safety
/// As [`halves_at`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn bytes_at(rows: &Eight, at: usize) -> __m128i {
    // SAFETY: the caller's promise.
    let two = |r: usize| unsafe { _mm_unpacklo_epi8(load16(rows, r, at), load16(rows, r + 1, at)) };
    _mm_unpacklo_epi32(_mm_unpacklo_epi16(two(0), two(2)), _mm_unpacklo_epi16(two(4), two(6)))
}

/// Sixteen bytes of row `r`.
///
/// # Safety
/// As [`halves_at`].
#[inline(always)]
unsafe fn load16(rows: &Eight, r: usize, at: usize) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe { _mm_loadu_si128(rows[r].add(at).cast()) }
}

/// `(v >> SHIFT) & mask` in every byte.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn bits<const SHIFT: i32>(v: Run, mask: i8) -> Run {
    let mut out = v;
    for out in &mut out {
        *out = _mm256_and_si256(_mm256_srli_epi16::<SHIFT>(*out), _mm256_set1_epi8(mask));
    }
    out
}

/// The levels of a codebook of 16 for all indices.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn look_up(levels: &[i8; 16], index: Run) -> Run {
    let mut out = index;
    for out in &mut out {
        *out = x86::look_up(levels, *out);
    }
    out
}

/// Byte `byte` of each lane as i16 twice; zero-extended.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn twice(v: __m256i, byte: usize) -> __m256i {
    let place = |lane: i32| (0x8000_8000u32 as i32) | ((byte as i32 + 4 * lane) * 0x0001_0001);
    _mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(_mm_setr_epi32(place(0), place(1), place(2), place(3))))
}

/// Bytes 0 and 1 of each lane, or with `half` 1 bytes 2 and 3, as i16; zero-extended.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn both(v: __m256i, half: usize) -> __m256i {
    let place = |lane: i32| (0x8001_8000u32 as i32) | ((2 * half as i32 + 4 * lane) * 0x0001_0001);
    _mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(_mm_setr_epi32(place(0), place(1), place(2), place(3))))
}

/// Bits `4 step` to `4 step + 3` of each lane as bit 4 of its four bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn fifth_bits(words: __m256i, step: usize) -> __m256i {
    let place = |lane: i32| (step as i32 / 2 + 4 * lane) * 0x0101_0101;
    let byte = _mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(_mm_setr_epi32(place(0), place(1), place(2), place(3))));
    let bit = _mm256_set1_epi32(if step.is_multiple_of(2) { 0x0804_0201 } else { 0x8040_2010u32 as i32 });
    _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(byte, bit), bit), _mm256_set1_epi8(16))
}

/// Scales and minima of Q4_K and Q5_K.
///
/// # Safety
/// The machine has AVX2, FMA and F16C; there is a block at `at`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn scales_mins<E: Turn>(rows: &E, at: usize) -> Head {
    // SAFETY: a block is longer than sixteen bytes.
    let [halves, s, m, low] = unsafe { rows.turn(at) };
    let (six, four, two) = (_mm256_set1_epi8(0x3f), _mm256_set1_epi8(0x0f), _mm256_set1_epi8(0x30));
    // The first four have their six bits together; the last four have four of them in the common bytes and two above those of the first.
    let upper = |v: __m256i| _mm256_and_si256(_mm256_srli_epi16::<2>(v), two);
    let s = [_mm256_and_si256(s, six), _mm256_or_si256(_mm256_and_si256(low, four), upper(s))];
    let low = _mm256_and_si256(_mm256_srli_epi16::<4>(low), four);
    let m = [_mm256_and_si256(m, six), _mm256_or_si256(low, upper(m))];
    let zero = _mm256_setzero_si256();
    let mut head = Head { scale: [zero; 16], min: [zero; 8], d: halves_of::<false>(halves), dmin: halves_of::<true>(halves) };
    for g in 0..8 {
        head.scale[g] = twice(s[g / 4], g % 4);
    }
    for g in 0..4 {
        head.min[g] = both(m[g / 2], g % 2);
    }
    head
}

/// Sixteen signed bytes as scales, and `2^SHIFT` times as large as minima.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn signed_scales<const SHIFT: i32>(quarters: Run, d: __m256) -> Head {
    let zero = _mm256_setzero_si256();
    let mut head = Head { scale: [zero; 16], min: [zero; 8], d, dmin: _mm256_setzero_ps() };
    for (i, &v) in quarters.iter().enumerate() {
        // Bytes go to the upper halves of words and are shifted down with their signs.
        let word = |low: i32, high: i32| {
            let place = |lane: i32| 0x0080_0080 | ((low + 4 * lane) << 8) | ((high + 4 * lane) << 24);
            let places = _mm_setr_epi32(place(0), place(1), place(2), place(3));
            _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(places)))
        };
        (head.scale[4 * i], head.scale[4 * i + 1]) = (word(0, 0), word(1, 1));
        (head.scale[4 * i + 2], head.scale[4 * i + 3]) = (word(2, 2), word(3, 3));
        head.min[2 * i] = _mm256_slli_epi16::<SHIFT>(word(0, 1));
        head.min[2 * i + 1] = _mm256_slli_epi16::<SHIFT>(word(2, 3));
    }
    head
}

/// Turns block `b` of sixteen rows.
///
/// # Safety
/// The machine has AVX2, FMA and F16C; the rows have that block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn fill_large<W: TurnedLarge, E: Turn>(halves: &[E; 2], b: usize, strip: &mut Strip) {
    for (h, rows) in halves.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let head = W::head(rows, b * W::BYTES);
            (strip.d[0][h], strip.m[0][h]) = (head.d, head.dmin);
            for g in 0..256 / W::GROUP {
                strip.scale[g][h] = head.scale[g];
            }
            for (strip, min) in strip.min.iter_mut().zip(head.min) {
                strip[h] = min;
            }
            for part in 0..16 / W::RUNS {
                let runs = W::part(rows, b * W::BYTES, part);
                for (i, run) in runs.iter().enumerate().take(W::RUNS) {
                    let place = W::run(part, i);
                    for (step, &w) in run.iter().enumerate() {
                        if W::PANEL == Panel::Words {
                            let (scale, [even, odd]) = (head.scale[16 * place / W::GROUP], widened(w));
                            let at = 16 * (place / 2) + 4 * (place % 2) + step;
                            strip.q[at][h] = _mm256_mullo_epi16(even, scale);
                            strip.q[at + 8][h] = _mm256_mullo_epi16(odd, scale);
                        } else {
                            strip.q[4 * place + step][h] = w;
                        }
                    }
                }
            }
        }
    }
}

/// As [`fill_large`], of rows one after the other; asks for their next blocks.
///
/// # Safety
/// As [`fill_large`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn fill_rows<W: TurnedLarge>(rows: &Rows, b: usize, strip: &mut Strip) {
    rows.iter().for_each(|row| x86::prefetch(row.wrapping_add((b + 1) * W::BYTES), W::BYTES));
    // SAFETY: the caller's promise.
    unsafe { fill_large::<W, Eight>(&halves(rows), b, strip) }
}

/// Turns `n` blocks of sixteen rows from block `first` on.
///
/// # Safety
/// As [`fill_large`]; `n` is at most eight.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn fill_small<W: TurnedSmall>(rows: &Rows, first: usize, n: usize, strip: &mut Strip) {
    for (h, rows) in halves(rows).iter().enumerate() {
        for k in 0..n {
            // SAFETY: the caller's promise.
            unsafe {
                let at = (first + k) * W::BYTES;
                strip.d[k][h] = W::scale(rows, at);
                for (step, &w) in W::values(rows, at).as_flattened().iter().enumerate() {
                    if W::PANEL == Panel::Words {
                        [strip.q[16 * k + step][h], strip.q[16 * k + 8 + step][h]] = widened(w);
                    } else {
                        strip.q[8 * k + step][h] = w;
                    }
                }
            }
        }
    }
}
