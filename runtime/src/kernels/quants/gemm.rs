//! Sixteen weight rows at a time with AVX2. The law asks for one order of float sums: a row's blocks in order, each block exact in integers, scaled and added with one fused
//! operation. Within a block integers may be summed in any order, so one activation row and many go different ways:
//!
//! - *One*: four rows side by side, each unpacked and multiplied along its block; eight sums across lanes cost what one would.
//! - *Many*: a strip of 256 values of all sixteen rows is unpacked once and turned, so that lane `r` of a vector belongs to row `r`, and stays in the first-level cache
//!   while many activation rows pass over it (see [`passes`](super::passes)). Nothing is added across lanes, and scales apply to eight rows at once.
//!
//! Unsigned weights stay bytes: products of a few steps fit i16, so that scaling costs one operation for four steps or eight. Signed ones become i16 with their scale multiplied in.

use super::super::blocks::QRow;
use super::super::ops::TILE_ROWS;
use super::avx2::{self as x86, Large, Min, Small};
use std::arch::x86_64::*;

/// Where the rows of a tile are.
pub(super) type Rows = [*const u8; TILE_ROWS];
/// Results, `[activation row][weight row]`.
pub(super) type Results = [[f32; TILE_ROWS]];
/// The same value of eight rows, and of the other eight.
pub(super) type Pair = [__m256i; 2];
/// The same of floats.
pub(super) type PairF = [__m256; 2];

/// How a strip lies in the first-level cache.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Panel {
    /// Unsigned bytes; so many products of four values may be added up in i16.
    Bytes(usize),
    /// i16, with the scales multiplied in: for signed weights.
    Words,
}

/// A type with blocks of 256.
pub(super) trait LargeType {
    const BYTES: usize;
    const MIN: Min;
    const PANEL: Panel;
    /// Values under one scale: 16 or 32.
    const GROUP: usize;

    /// # Safety
    /// The machine has AVX2, FMA and F16C; there is a block.
    unsafe fn unpack(block: *const u8) -> Large;

    /// Unpacks and turns block `b` of all rows.
    ///
    /// # Safety
    /// As above.
    unsafe fn fill(rows: &Rows, b: usize, unpacked: &mut Unpacked, strip: &mut Strip);
}

/// A type with blocks of 32.
pub(super) trait SmallType {
    const BYTES: usize;
    const MIN: Min;
    const PANEL: Panel;
    /// What makes `q` unsigned when added.
    const OFFSET: i8;

    /// # Safety
    /// The machine has AVX2, FMA and F16C; there is a block.
    unsafe fn unpack(block: *const u8) -> Small;

    /// Unpacks and turns `n` blocks, at most eight, of all rows from block `first` on.
    ///
    /// # Safety
    /// As above.
    unsafe fn fill(rows: &Rows, first: usize, n: usize, unpacked: &mut Unpacked, strip: &mut Strip);
}

/// Sums of eight vectors: lane `i` of the result is the sum of vector `i`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sums_of(v: [__m256i; 8]) -> __m256i {
    // Pairs of lanes, then of pairs, within the halves; then the halves.
    let two = |a, b| _mm256_hadd_epi32(a, b);
    let (low, high) = (two(two(v[0], v[1]), two(v[2], v[3])), two(two(v[4], v[5]), two(v[6], v[7])));
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high))
}

/// Sums of four vectors: lane `i` of the result is the sum of vector `i`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn sums_of_four(v: [__m256i; 4]) -> __m128i {
    let halves = _mm256_hadd_epi32(_mm256_hadd_epi32(v[0], v[1]), _mm256_hadd_epi32(v[2], v[3]));
    _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves))
}

/// Rows side by side with one activation row.
pub(super) const ABREAST: usize = 4;

/// Products of one activation row.
///
/// # Safety
/// The machine has AVX2, FMA and F16C; the rows have `blocks` blocks each and the activation row as many values.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn one_large<W: LargeType>(rows: &Rows, blocks: usize, acts: &[QRow<'_>], out: &mut Results) {
    let a = &acts[0];
    debug_assert!(a.d.len() == blocks && a.q.len() == 256 * blocks && a.sums.len() == 16 * blocks);
    for (rows, out) in rows.as_chunks::<ABREAST>().0.iter().zip(out[0].as_chunks_mut::<ABREAST>().0) {
        let mut total = _mm_setzero_ps();
        for b in 0..blocks {
            let ahead = x86::ahead(b, blocks, W::BYTES, ABREAST);
            // SAFETY: block `b` is inside the rows and the activation row.
            unsafe {
                let (mut products, mut d, mut dmin) = ([_mm256_setzero_si256(); 8], [0.0f32; ABREAST], [0.0f32; ABREAST]);
                let q: *const __m256i = a.q.as_ptr().add(256 * b).cast();
                let group_sums = _mm256_loadu_si256(a.sums.as_ptr().add(16 * b).cast());
                for (r, row) in rows.iter().enumerate() {
                    let block = row.add(b * W::BYTES);
                    x86::prefetch(row.wrapping_add(ahead), W::BYTES);
                    let w = W::unpack(block);
                    products[r] = x86::products_large(&w, q, W::MIN);
                    if W::MIN != Min::Signed {
                        products[4 + r] = _mm256_madd_epi16(w.min, group_sums);
                    }
                    _mm_store_ss(&mut d[r], _mm256_castps256_ps128(w.d));
                    _mm_store_ss(&mut dmin[r], _mm256_castps256_ps128(w.dmin));
                }
                let a_d = _mm_set1_ps(*a.d.get_unchecked(b));
                let sums = sums_of(products);
                let (mut dots, mins) = (_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
                if let Min::Offset(_) = W::MIN {
                    dots = _mm_sub_epi32(dots, mins);
                }
                total = _mm_fmadd_ps(_mm_mul_ps(_mm_loadu_ps(d.as_ptr()), a_d), _mm_cvtepi32_ps(dots), total);
                if W::MIN == Min::Float {
                    total = _mm_fnmadd_ps(_mm_mul_ps(_mm_loadu_ps(dmin.as_ptr()), a_d), _mm_cvtepi32_ps(mins), total);
                }
            }
        }
        // SAFETY: four values.
        unsafe { _mm_storeu_ps(out.as_mut_ptr(), total) };
    }
}

/// Products of one activation row.
///
/// # Safety
/// As [`one_large`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn one_small<W: SmallType>(rows: &Rows, blocks: usize, acts: &[QRow<'_>], out: &mut Results) {
    let a = &acts[0];
    debug_assert!(a.d.len() == blocks && a.q.len() == 32 * blocks && a.sums.len() == blocks);
    for (rows, out) in rows.as_chunks::<8>().0.iter().zip(out[0].as_chunks_mut::<8>().0) {
        let mut total = _mm256_setzero_ps();
        for b in 0..blocks {
            if b % 2 == 0 {
                let ahead = x86::ahead(b, blocks, W::BYTES, 8);
                rows.iter().for_each(|row| x86::prefetch(row.wrapping_add(ahead), 64));
            }
            // SAFETY: block `b` is inside the rows and the activation row.
            unsafe {
                let (mut products, mut d, mut m) = ([_mm256_setzero_si256(); 8], [0.0f32; 8], [0.0f32; 8]);
                let q = _mm256_loadu_si256(a.q.as_ptr().add(32 * b).cast());
                for (r, row) in rows.iter().enumerate() {
                    let w = W::unpack(row.add(b * W::BYTES));
                    products[r] = x86::products_small(&w, q, W::MIN);
                    _mm_store_ss(&mut d[r], _mm256_castps256_ps128(w.d));
                    _mm_store_ss(&mut m[r], _mm256_castps256_ps128(w.m));
                }
                let a_d = _mm256_set1_ps(*a.d.get_unchecked(b));
                let dots = _mm256_cvtepi32_ps(sums_of(products));
                total = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_loadu_ps(d.as_ptr()), a_d), dots, total);
                if W::MIN == Min::Float {
                    let sum = _mm256_set1_ps(f32::from(*a.sums.get_unchecked(b)));
                    total = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_loadu_ps(m.as_ptr()), a_d), sum, total);
                }
            }
        }
        // SAFETY: eight values.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), total) };
    }
}

/// Four dwords of each row from byte `at` on: vector `i` has dword `i` of all rows.
///
/// # Safety
/// The machine has AVX2; sixteen bytes from `at` on are inside each row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn turn(rows: &[*const u8; 8], at: usize) -> [__m256i; 4] {
    // SAFETY: the caller's promise.
    let both = |r: usize| unsafe {
        let low = _mm256_castsi128_si256(_mm_loadu_si128(rows[r].add(at).cast()));
        _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(rows[r + 4].add(at).cast()))
    };
    let (a, b, c, d) = (both(0), both(1), both(2), both(3));
    let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab, cd),
        _mm256_unpackhi_epi64(ab, cd),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ]
}

/// The two halves of a tile's rows.
#[inline(always)]
pub(super) fn halves(rows: &Rows) -> [[*const u8; 8]; 2] {
    [std::array::from_fn(|r| rows[r]), std::array::from_fn(|r| rows[8 + r])]
}

/// A strip of sixteen rows, turned: 256 values, as one block of 256 or as eight of 32.
#[repr(align(64))]
pub(super) struct Strip {
    /// Four values each as bytes ([`Panel::Bytes`]); as i16 two each, of 32 values the even ones first.
    pub q: [Pair; 128],
    /// i16 twice in each lane, for each group of values.
    pub scale: [Pair; 16],
    /// i16 for two groups in each lane.
    pub min: [Pair; 8],
    /// For each block.
    pub d: [PairF; 8],
    /// `dmin` or `m`, for each block.
    pub m: [PairF; 8],
}

/// Even and odd bytes of each dword, as i16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn widened(q: __m256i) -> [__m256i; 2] {
    [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(q)), _mm256_srai_epi16::<8>(q)]
}

/// Rows as they were unpacked, before they are turned.
#[repr(align(64))]
pub(super) struct Unpacked {
    pub q: [[__m256i; 8]; TILE_ROWS],
    pub scale: [[i16; 16]; TILE_ROWS],
    pub min: [[i16; 16]; TILE_ROWS],
    pub d: [[f32; TILE_ROWS]; 8],
    pub m: [[f32; TILE_ROWS]; 8],
}

/// Where the rows of `array` start, as the halves that [`turn`] takes.
#[inline(always)]
fn starts<T>(array: &[T; TILE_ROWS]) -> [[*const u8; 8]; 2] {
    let first: *const T = array.as_ptr();
    std::array::from_fn(|h| std::array::from_fn(|r| first.wrapping_add(8 * h + r).cast()))
}

/// Two vectors of floats from sixteen values.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn pair_f(values: &[f32; TILE_ROWS]) -> PairF {
    // SAFETY: sixteen values.
    unsafe { [_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))] }
}

/// Turns the first `vectors` vectors of 32 values of each row; with `OFFSET` added to each byte. i16 panels are multiplied with the scales where there are any.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn turn_values(u: &Unpacked, vectors: usize, words: bool, offset: i8, group: Option<usize>, strip: &mut Strip) {
    let starts = starts(&u.q);
    for k in 0..vectors {
        for quarter in 0..2 {
            for (h, rows) in starts.iter().enumerate() {
                // SAFETY: 32 bytes a vector.
                let turned = unsafe { turn(rows, 32 * k + 16 * quarter) };
                for (i, q) in turned.into_iter().enumerate() {
                    let step = 4 * quarter + i;
                    if words {
                        let [mut even, mut odd] = widened(q);
                        if let Some(group) = group {
                            let scale = strip.scale[(32 * k + 4 * step) / group][h];
                            (even, odd) = (_mm256_mullo_epi16(even, scale), _mm256_mullo_epi16(odd, scale));
                        }
                        strip.q[16 * k + step][h] = even;
                        strip.q[16 * k + 8 + step][h] = odd;
                    } else {
                        strip.q[8 * k + step][h] = _mm256_add_epi8(q, _mm256_set1_epi8(offset));
                    }
                }
            }
        }
    }
}

/// Unpacks and turns block `b` of a type with blocks of 256.
///
/// # Safety
/// The machine has AVX2, FMA and F16C; the rows have that block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn fill_large<W: LargeType>(rows: &Rows, b: usize, u: &mut Unpacked, strip: &mut Strip) {
    for (r, row) in rows.iter().enumerate() {
        // SAFETY: the caller's promise; sixteen values each.
        unsafe {
            let block = row.add(b * W::BYTES);
            x86::prefetch(block.wrapping_add(W::BYTES), W::BYTES);
            let w = W::unpack(block);
            u.q[r] = w.q;
            _mm256_store_si256(u.scale[r].as_mut_ptr().cast(), x86::in_order(w.scale));
            _mm256_store_si256(u.min[r].as_mut_ptr().cast(), w.min);
            _mm_store_ss(&mut u.d[0][r], _mm256_castps256_ps128(w.d));
            _mm_store_ss(&mut u.m[0][r], _mm256_castps256_ps128(w.dmin));
        }
    }
    (strip.d[0], strip.m[0]) = (pair_f(&u.d[0]), pair_f(&u.m[0]));
    for (h, (scales, mins)) in starts(&u.scale).iter().zip(&starts(&u.min)).enumerate() {
        for half in 0..2 {
            // SAFETY: 32 bytes a row.
            let (scales, mins) = unsafe { (turn(scales, 16 * half), turn(mins, 16 * half)) };
            for i in 0..4 {
                let pair = scales[i];
                let (low, high) = (_mm256_slli_epi32::<16>(pair), _mm256_srli_epi32::<16>(pair));
                let first = _mm256_blend_epi16::<0xaa>(pair, low);
                let second = _mm256_blend_epi16::<0x55>(pair, high);
                if W::GROUP == 16 {
                    strip.scale[8 * half + 2 * i][h] = first;
                    strip.scale[8 * half + 2 * i + 1][h] = second;
                    strip.min[4 * half + i][h] = mins[i];
                } else {
                    // Types with minima for groups of 32 are turned another way.
                    strip.scale[4 * half + i][h] = first;
                }
            }
        }
    }
    turn_values(u, 8, W::PANEL == Panel::Words, 0, Some(W::GROUP), strip);
}

/// Unpacks and turns `n` blocks of 32 from block `first` on.
///
/// # Safety
/// As [`fill_large`]; `n` is at most eight.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn fill_small<W: SmallType>(rows: &Rows, first: usize, n: usize, u: &mut Unpacked, strip: &mut Strip) {
    for (r, row) in rows.iter().enumerate() {
        for b in 0..n {
            // SAFETY: the caller's promise.
            unsafe {
                let w = W::unpack(row.add((first + b) * W::BYTES));
                u.q[r][b] = w.q;
                _mm_store_ss(&mut u.d[b][r], _mm256_castps256_ps128(w.d));
                _mm_store_ss(&mut u.m[b][r], _mm256_castps256_ps128(w.m));
            }
        }
    }
    for b in 0..n {
        (strip.d[b], strip.m[b]) = (pair_f(&u.d[b]), pair_f(&u.m[b]));
    }
    turn_values(u, n, W::PANEL == Panel::Words, W::OFFSET, None, strip);
}
