//! What many activation rows do with a strip of sixteen weight rows: [`MANY`] of them at most pass over it, three at a time, their sums of a block in registers. See
//! [`gemm`](super::gemm).

use super::super::blocks::QRow;
use super::super::ops::MANY;
use super::avx2::{self as x86, Min};
use super::gemm::{LargeType, Pair, PairF, Panel, Results, Rows, SmallType, Strip, Unpacked, widened};
use std::arch::x86_64::*;
use std::cell::UnsafeCell;

/// Four bytes of activations in every lane.
///
/// # Safety
/// There are four bytes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn everywhere(at: *const i8) -> __m256i {
    // SAFETY: the caller's promise.
    _mm256_set1_epi32(unsafe { at.cast::<i32>().read_unaligned() })
}

/// Keeps `sum` in a register, and steps in their order: the compiler, free to add whole numbers in any order, would take one activation row after the other and
/// spill the weights (half the speed).
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn pin(sum: &mut __m256i) {
    // SAFETY: there is no instruction.
    unsafe { std::arch::asm!("/* {0} */", inout(ymm_reg) * sum, options(nomem, nostack, preserves_flags)) }
}

/// Products of one step of four values, added to `part` in i16.
///
/// # Safety
/// The machine has AVX2; there are as many values.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn bytes_step<const A: usize>(w: &Pair, acts: &[*const i8; A], step: usize, part: &mut [Pair; A]) {
    for j in 0..A {
        // SAFETY: the caller's promise.
        let a = unsafe { everywhere(acts[j].add(4 * step)) };
        for h in 0..2 {
            part[j][h] = _mm256_add_epi16(part[j][h], _mm256_maddubs_epi16(w[h], a));
            pin(&mut part[j][h]);
        }
    }
}

/// Adds the products of `STEPS` steps of four values, `CHUNK` (two, four or eight) of them at a time in i16, times the scale. Steps are written out: as loops they are not
/// unrolled.
///
/// # Safety
/// As [`bytes_step`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn bytes_group<const A: usize, const STEPS: usize, const CHUNK: usize>(
    q: &[Pair],
    scale: Pair,
    acts: &[*const i8; A],
    total: &mut [Pair; A],
) {
    for (chunk, q) in q[..STEPS].as_chunks::<CHUNK>().0.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let at: [*const i8; A] = std::array::from_fn(|j| acts[j].add(4 * CHUNK * chunk));
            let mut part = [[_mm256_setzero_si256(); 2]; A];
            for j in 0..A {
                let a = everywhere(at[j]);
                for h in 0..2 {
                    part[j][h] = _mm256_maddubs_epi16(q[0][h], a);
                }
            }
            bytes_step(&q[1], &at, 1, &mut part);
            if CHUNK > 2 {
                bytes_step(&q[2], &at, 2, &mut part);
                bytes_step(&q[3], &at, 3, &mut part);
            }
            if CHUNK > 4 {
                bytes_step(&q[4], &at, 4, &mut part);
                bytes_step(&q[5], &at, 5, &mut part);
                bytes_step(&q[6], &at, 6, &mut part);
                bytes_step(&q[7], &at, 7, &mut part);
            }
            for j in 0..A {
                for h in 0..2 {
                    total[j][h] = _mm256_add_epi32(total[j][h], _mm256_madd_epi16(part[j][h], scale[h]));
                }
            }
        }
    }
}

/// Products of two values in i16.
///
/// # Safety
/// The machine has AVX2; there are as many values.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn words_step<const A: usize>(w: &Pair, acts: &[*const i16; A], step: usize, total: &mut [Pair; A]) {
    for j in 0..A {
        // SAFETY: the caller's promise.
        let a = unsafe { everywhere(acts[j].add(2 * step).cast()) };
        for h in 0..2 {
            total[j][h] = _mm256_add_epi32(total[j][h], _mm256_madd_epi16(w[h], a));
            pin(&mut total[j][h]);
        }
    }
}

/// Products of 32 values in i16.
///
/// # Safety
/// As [`words_step`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn words_group<const A: usize>(q: &[Pair], acts: &[*const i16; A], total: &mut [Pair; A]) {
    for (four, q) in q[..16].as_chunks::<4>().0.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            words_step(&q[0], acts, 4 * four, total);
            words_step(&q[1], acts, 4 * four + 1, total);
            words_step(&q[2], acts, 4 * four + 2, total);
            words_step(&q[3], acts, 4 * four + 3, total);
        }
    }
}

/// Activation rows that pass over a strip together: their sums fit the registers.
const TOGETHER: usize = 3;

/// Activation rows that are widened together: their values, 16 KiB, and the strip stay in the first-level cache.
const WIDENED: usize = 32;

/// What activation rows need besides the strip.
#[repr(align(64))]
struct Wide {
    /// i16 of 256 values of each row, of 32 values the even ones first.
    q: [[__m256i; 16]; WIDENED],
}

/// Widens 256 values (or fewer) of the activation rows from value `at` on.
///
/// # Safety
/// The machine has AVX2; the rows have the values.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn widen(acts: &[QRow<'_>], at: usize, vectors: usize, wide: &mut Wide) {
    for (a, wide) in acts.iter().zip(&mut wide.q) {
        for k in 0..vectors {
            // SAFETY: the caller's promise.
            let q = unsafe { _mm256_loadu_si256(a.q.as_ptr().add(at + 32 * k).cast()) };
            [wide[2 * k], wide[2 * k + 1]] = widened(q);
        }
    }
}

/// Sums of the activations of two groups each as i16 in every lane, as [`Strip::min`] has its minima.
///
/// # Safety
/// The machine has AVX2; there are sixteen sums.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn sum_pairs<W: LargeType>(sums: *const i16) -> [__m256i; 8] {
    // SAFETY: the caller's promise.
    unsafe {
        if W::GROUP == 16 {
            let mut pairs = [_mm256_setzero_si256(); 8];
            for (g, pair) in pairs.iter_mut().enumerate() {
                *pair = everywhere(sums.add(2 * g).cast());
            }
            return pairs;
        }
        // Sums of 32: at most 32 * 127 each.
        let wide = _mm256_madd_epi16(_mm256_loadu_si256(sums.cast()), _mm256_set1_epi16(1));
        let packed = _mm256_packs_epi32(wide, wide);
        let (low, high) = (_mm256_permute2x128_si256::<0x00>(packed, packed), _mm256_permute2x128_si256::<0x11>(packed, packed));
        let zero = _mm256_setzero_si256();
        let (first, second) = (_mm256_shuffle_epi32::<0x00>(low), _mm256_shuffle_epi32::<0x55>(low));
        [first, second, _mm256_shuffle_epi32::<0x00>(high), _mm256_shuffle_epi32::<0x55>(high), zero, zero, zero, zero]
    }
}

/// Adds a block of one activation row with eight weight rows to their sum: `dots` are products with scales, `d` and `dmin` the rows' factors, `min` and `pairs` minima and sums of
/// activations, two groups in each lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn add_block<W: LargeType>(
    sum: &mut __m256,
    mut dots: __m256i,
    [d, dmin]: [__m256; 2],
    min: &[__m256i; 8],
    pairs: &[__m256i; 8],
    a_d: f32,
) {
    let a_d = _mm256_set1_ps(a_d);
    let mut mins = _mm256_setzero_si256();
    if W::MIN != Min::Signed {
        for (&min, &pair) in min.iter().zip(pairs).take(128 / W::GROUP) {
            mins = _mm256_add_epi32(mins, _mm256_madd_epi16(min, pair));
        }
    }
    if let Min::Offset(_) = W::MIN {
        dots = _mm256_sub_epi32(dots, mins);
    }
    *sum = _mm256_fmadd_ps(_mm256_mul_ps(d, a_d), _mm256_cvtepi32_ps(dots), *sum);
    if W::MIN == Min::Float {
        *sum = _mm256_fnmadd_ps(_mm256_mul_ps(dmin, a_d), _mm256_cvtepi32_ps(mins), *sum);
    }
}

/// Adds block `b` of `A` activation rows from `first` on to their sums.
///
/// # Safety
/// As [`many_large`]; `first + A` rows are there.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pass_large<W: LargeType, const A: usize>(
    strip: &Strip,
    acts: &[QRow<'_>],
    wide: &Wide,
    b: usize,
    first: usize,
    sums: &mut [PairF],
) {
    let mut total = [[_mm256_setzero_si256(); 2]; A];
    // SAFETY: the caller's promise.
    unsafe {
        match W::PANEL {
            Panel::Bytes(chunk) => {
                let q: [*const i8; A] = std::array::from_fn(|j| acts.get_unchecked(first + j).q.as_ptr().add(256 * b));
                // They are needed when the block is done, and lie in the second-level cache.
                for j in 0..A {
                    x86::prefetch_here(acts.get_unchecked(first + j).sums.as_ptr().add(16 * b).cast(), 32);
                }
                for g in 0..256 / W::GROUP {
                    let at: [*const i8; A] = std::array::from_fn(|j| q[j].add(g * W::GROUP));
                    let w = &strip.q[g * W::GROUP / 4..];
                    match (W::GROUP, chunk) {
                        (32, 8) => bytes_group::<A, 8, 8>(w, strip.scale[g], &at, &mut total),
                        (32, _) => bytes_group::<A, 8, 4>(w, strip.scale[g], &at, &mut total),
                        (_, 2) => bytes_group::<A, 4, 2>(w, strip.scale[g], &at, &mut total),
                        _ => bytes_group::<A, 4, 4>(w, strip.scale[g], &at, &mut total),
                    }
                    // Without this the compiler puts all products with scales off to the end of the block and keeps what they multiply in memory until then: of `q4_k` 167 billion multiply-adds a
                    // second with 8 rows instead of 115, 211 instead of 174 with 64.
                    total.as_flattened_mut().iter_mut().for_each(|total| pin(total));
                }
            }
            Panel::Words => {
                for k in 0..8 {
                    let at: [*const i16; A] = std::array::from_fn(|j| wide.q.get_unchecked(first + j).as_ptr().add(2 * k).cast());
                    words_group(&strip.q[16 * k..], &at, &mut total);
                }
            }
        }
        for j in 0..A {
            let a = acts.get_unchecked(first + j);
            let pairs = if W::MIN == Min::Signed { [_mm256_setzero_si256(); 8] } else { sum_pairs::<W>(a.sums.as_ptr().add(16 * b)) };
            for h in 0..2 {
                let min = std::array::from_fn(|g| strip.min[g][h]);
                add_block::<W>(&mut sums[first + j][h], total[j][h], [strip.d[0][h], strip.m[0][h]], &min, &pairs, *a.d.get_unchecked(b));
            }
        }
    }
}

/// Adds `n` blocks from `b` on of `A` activation rows from `first` on to their sums.
///
/// # Safety
/// As [`pass_large`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pass_small<W: SmallType, const A: usize>(
    strip: &Strip,
    acts: &[QRow<'_>],
    wide: &Wide,
    (b, n): (usize, usize),
    first: usize,
    sums: &mut [PairF],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut floats = [[_mm256_setzero_ps(); 2]; A];
        floats.copy_from_slice(&sums[first..first + A]);
        for k in 0..n {
            let mut total = [[_mm256_setzero_si256(); 2]; A];
            let ones = [_mm256_set1_epi16(1); 2];
            match W::PANEL {
                Panel::Bytes(chunk) => {
                    let at: [*const i8; A] = std::array::from_fn(|j| acts.get_unchecked(first + j).q.as_ptr().add(32 * (b + k)));
                    let w = &strip.q[8 * k..];
                    match chunk {
                        8 => bytes_group::<A, 8, 8>(w, ones, &at, &mut total),
                        _ => bytes_group::<A, 8, 4>(w, ones, &at, &mut total),
                    }
                }
                Panel::Words => {
                    let at: [*const i16; A] = std::array::from_fn(|j| wide.q.get_unchecked(first + j).as_ptr().add(2 * k).cast());
                    words_group(&strip.q[16 * k..], &at, &mut total);
                }
            }
            for j in 0..A {
                let a = acts.get_unchecked(first + j);
                let (a_d, a_sum) = (_mm256_set1_ps(*a.d.get_unchecked(b + k)), i32::from(*a.sums.get_unchecked(b + k)));
                for h in 0..2 {
                    let mut dots = total[j][h];
                    if W::OFFSET != 0 {
                        dots = _mm256_sub_epi32(dots, _mm256_set1_epi32(i32::from(W::OFFSET) * a_sum));
                    }
                    let sum = &mut floats[j][h];
                    *sum = _mm256_fmadd_ps(_mm256_mul_ps(strip.d[k][h], a_d), _mm256_cvtepi32_ps(dots), *sum);
                    if W::MIN == Min::Float {
                        *sum = _mm256_fmadd_ps(_mm256_mul_ps(strip.m[k][h], a_d), _mm256_set1_ps(a_sum as f32), *sum);
                    }
                }
            }
        }
        sums[first..first + A].copy_from_slice(&floats);
    }
}

/// `$pass` for all activation rows, [`TOGETHER`] at a time.
macro_rules! passes {
    ($n:expr, $first:ident, $all:expr, $two:expr, $one:expr) => {
        let mut $first = 0;
        while $first + TOGETHER <= $n {
            $all;
            $first += TOGETHER;
        }
        match $n - $first {
            2 => $two,
            1 => $one,
            _ => {}
        }
    };
}

/// Scratch of a tile. A thread keeps it: setting 50 KB to zero would take as long as a tile with few activation rows. (On the heap: what is thread-local itself
/// is taken from the stacks of all threads, small ones too.)
struct Scratch {
    unpacked: Unpacked,
    strip: Strip,
    wide: Wide,
    sums: [PairF; MANY],
}

thread_local! {
    static SCRATCH: UnsafeCell<Option<Box<Scratch>>> = const { UnsafeCell::new(None) };
}

#[cold]
fn allocate() -> Box<Scratch> {
    // SAFETY: zeros are valid numbers.
    unsafe { Box::new_zeroed().assume_init() }
}

/// Allocates the scratch of this thread, so that no step does.
pub fn prepare_thread() {
    // SAFETY: nobody else has a reference to it: a thread that multiplies has one only meanwhile.
    SCRATCH.with(|scratch| unsafe { &mut *scratch.get() }.get_or_insert_with(allocate));
}

/// The scratch of this thread, with `n` sums of zero.
///
/// # Safety
/// The caller holds no other reference to it.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn scratch<'a>(n: usize) -> &'a mut Scratch {
    // SAFETY: it lives as long as the thread, longer than any tile; the caller's promise.
    let scratch = unsafe { &mut *SCRATCH.with(UnsafeCell::get) }.get_or_insert_with(allocate);
    scratch.sums[..n].fill([_mm256_setzero_ps(); 2]);
    scratch
}

/// The sums, row by row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store(sums: &[PairF], out: &mut Results) {
    for (out, [low, high]) in out.iter_mut().zip(sums) {
        // SAFETY: sixteen values.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), *low);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), *high);
        }
    }
}

/// Products of at most [`MANY`] activation rows.
///
/// # Safety
/// The machine has AVX2, FMA and F16C; the rows have `blocks` blocks each, and the activation rows as many values; there is a result for each.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn many_large<W: LargeType>(rows: &Rows, blocks: usize, acts: &[QRow<'_>], out: &mut Results) {
    debug_assert!(acts.len() <= MANY && out.len() >= acts.len() && acts.iter().all(|a| a.d.len() == blocks));
    // SAFETY: this function alone has it, and does not call itself.
    let Scratch { unpacked, strip, wide, sums } = unsafe { scratch(acts.len()) };
    for b in 0..blocks {
        // SAFETY: block `b` is inside the rows.
        unsafe { W::fill(rows, b, unpacked, strip) };
        for (acts, sums) in acts.chunks(WIDENED).zip(sums.chunks_mut(WIDENED)) {
            // SAFETY: block `b` is inside the activation rows.
            unsafe {
                if W::PANEL == Panel::Words {
                    widen(acts, 256 * b, 8, wide);
                }
                passes!(
                    acts.len(),
                    first,
                    pass_large::<W, TOGETHER>(strip, acts, wide, b, first, sums),
                    pass_large::<W, 2>(strip, acts, wide, b, first, sums),
                    pass_large::<W, 1>(strip, acts, wide, b, first, sums)
                );
            }
        }
    }
    store(&sums[..acts.len()], out);
}

/// Products of at most [`MANY`] activation rows.
///
/// # Safety
/// As [`many_large`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn many_small<W: SmallType>(rows: &Rows, blocks: usize, acts: &[QRow<'_>], out: &mut Results) {
    debug_assert!(acts.len() <= MANY && out.len() >= acts.len() && acts.iter().all(|a| a.d.len() == blocks));
    // SAFETY: this function alone has it, and does not call itself.
    let Scratch { unpacked, strip, wide, sums } = unsafe { scratch(acts.len()) };
    for b in (0..blocks).step_by(8) {
        let n = (blocks - b).min(8);
        // SAFETY: the blocks are inside the rows.
        unsafe { W::fill(rows, b, n, unpacked, strip) };
        for (acts, sums) in acts.chunks(WIDENED).zip(sums.chunks_mut(WIDENED)) {
            // SAFETY: the blocks are inside the activation rows.
            unsafe {
                if W::PANEL == Panel::Words {
                    widen(acts, 32 * b, n, wide);
                }
                passes!(
                    acts.len(),
                    first,
                    pass_small::<W, TOGETHER>(strip, acts, wide, (b, n), first, sums),
                    pass_small::<W, 2>(strip, acts, wide, (b, n), first, sums),
                    pass_small::<W, 1>(strip, acts, wide, (b, n), first, sums)
                );
            }
        }
    }
    store(&sums[..acts.len()], out);
}
