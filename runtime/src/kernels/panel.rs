//! Products with panels of sixteen columns: what attention is made of.
//!
//! A panel is `[i][16]`: sixteen keys, one dimension a line, or sixteen dimensions of values, one position a line. Each of the sixteen sums runs over the lines in
//! order, for one row or for four, so neither the rows beside a row nor the cut of the lines into calls changes a bit.

use super::{Kernels, ops, vector};

/// Columns of a panel.
pub const COLUMNS: usize = 16;
/// Rows that share the loads of a panel: with sixteen columns eight running sums of eight lanes, as many as two units with a latency of four can keep going.
pub const TOGETHER: usize = 4;

/// A line of a panel, aligned for the vector loads.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(align(64))]
pub struct Line(pub [f32; COLUMNS]);

/// `out[r][c] += sum over i of a[r][i] * panel[i][c]` for a fixed number of rows; the numbers are the distances between rows.
///
/// # Safety
/// The machine runs the set; every row of `a` has as many values as the panel has lines, every row of `out` sixteen.
type Products = unsafe fn(*const f32, usize, &[Line], *mut f32, usize);

/// The functions of this file in one instruction set.
pub(super) struct Panels {
    /// For 1 to [`TOGETHER`] rows.
    products: [Products; TOGETHER],
    /// `to[i][c] = from[i][c] * scales[c]`, lengths equal; the same bits in every set.
    by_column: unsafe fn(&[[i8; COLUMNS]], &[f32; COLUMNS], &mut [Line]),
    /// `to[i][c] = from[i][c] * scales[i]`, lengths equal; the same bits in every set.
    by_line: unsafe fn(&[[i8; COLUMNS]], &[f32], &mut [Line]),
    /// Widens half precision (bits), lengths equal; exact.
    widen: unsafe fn(&[[u16; COLUMNS]], &mut [Line]),
}

/// `out[r][c] += sum over i of a[r][i] * panel[i][c]` for `rows` rows. `a` and `out` come with the distance from one row to the next.
///
/// # Panics
/// If a row of `a` (as many values as the panel has lines) or of `out` (sixteen values) is not inside its slice.
pub fn add_products(k: &Kernels, rows: usize, a: (&[f32], usize), panel: &[Line], out: (&mut [f32], usize)) {
    let Some(last) = rows.checked_sub(1) else { return };
    assert!(last * a.1 + panel.len() <= a.0.len() && last * out.1 + COLUMNS <= out.0.len(), "{rows} rows");
    for first in (0..rows).step_by(TOGETHER) {
        let products = k.ops.panels.products[TOGETHER.min(rows - first) - 1];
        // SAFETY: the set runs on this machine; rows `first..` of both lie inside, as checked above.
        unsafe { products(a.0.as_ptr().add(first * a.1), a.1, panel, out.0.as_mut_ptr().add(first * out.1), out.1) };
    }
}

/// `to[i][c] = from[i][c] * scales[c]`.
pub fn scale_columns(from: &[[i8; COLUMNS]], scales: &[f32; COLUMNS], to: &mut [Line]) {
    assert_eq!(from.len(), to.len());
    // SAFETY: the set runs on this machine; lengths are equal.
    unsafe { (ops::best().panels.by_column)(from, scales, to) }
}

/// `to[i][c] = from[i][c] * scales[i]`.
pub fn scale_lines(from: &[[i8; COLUMNS]], scales: &[f32], to: &mut [Line]) {
    assert!(from.len() == to.len() && scales.len() == to.len());
    // SAFETY: the set runs on this machine; lengths are equal.
    unsafe { (ops::best().panels.by_line)(from, scales, to) }
}

/// Widens half precision (bits); exact.
pub fn widen(k: &Kernels, from: &[[u16; COLUMNS]], to: &mut [Line]) {
    assert_eq!(from.len(), to.len());
    // SAFETY: the set runs on this machine; lengths are equal.
    unsafe { (k.ops.panels.widen)(from, to) }
}

#[inline(always)]
fn by_column(from: &[[i8; COLUMNS]], scales: &[f32; COLUMNS], to: &mut [Line]) {
    for (to, from) in to.iter_mut().zip(from) {
        to.0.iter_mut().zip(from).zip(scales).for_each(|((to, &q), s)| *to = f32::from(q) * s);
    }
}

#[inline(always)]
fn by_line(from: &[[i8; COLUMNS]], scales: &[f32], to: &mut [Line]) {
    for ((to, from), s) in to.iter_mut().zip(from).zip(scales) {
        to.0.iter_mut().zip(from).for_each(|(to, &q)| *to = f32::from(q) * s);
    }
}

/// Plain Rust.
pub(super) static SCALAR: Panels = Panels {
    products: [scalar::products::<1>, scalar::products::<2>, scalar::products::<3>, scalar::products::<4>],
    by_column,
    by_line,
    widen: scalar::widen,
};

mod scalar {
    use super::{COLUMNS, Line};

    pub fn widen(from: &[[u16; COLUMNS]], to: &mut [Line]) {
        to.iter_mut().zip(from).for_each(|(to, from)| super::vector::scalar::from_f16(from, &mut to.0));
    }

    /// # Safety
    /// Of [`super::Products`].
    pub unsafe fn products<const R: usize>(a: *const f32, stride: usize, panel: &[Line], out: *mut f32, out_stride: usize) {
        for r in 0..R {
            // SAFETY: row `r` of `a` has a value for each line, row `r` of `out` sixteen.
            let (a, out) = unsafe {
                let a = std::slice::from_raw_parts(a.add(r * stride), panel.len());
                (a, std::slice::from_raw_parts_mut(out.add(r * out_stride), COLUMNS))
            };
            for (a, line) in a.iter().zip(panel) {
                out.iter_mut().zip(&line.0).for_each(|(o, v)| *o += a * v);
            }
        }
    }
}

/// With fused multiply-add.
#[cfg(target_arch = "x86_64")]
pub(super) static AVX2: Panels = Panels {
    products: [avx2::products::<1>, avx2::products::<2>, avx2::products::<3>, avx2::products::<4>],
    by_column: avx2::by_column,
    by_line: avx2::by_line,
    widen: avx2::widen,
};

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{COLUMNS, Line};
    use std::arch::x86_64::*;

    /// # Safety
    /// Of [`super::Products`].
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn products<const R: usize>(a: *const f32, stride: usize, panel: &[Line], out: *mut f32, out_stride: usize) {
        // SAFETY: row `r < R` of `a` has a value for each line, row `r` of `out` sixteen.
        unsafe {
            let mut sums: [[__m256; 2]; R] = std::array::from_fn(|r| {
                let at = out.add(r * out_stride);
                [_mm256_loadu_ps(at), _mm256_loadu_ps(at.add(8))]
            });
            for (i, line) in panel.iter().enumerate() {
                let (low, high) = (_mm256_load_ps(line.0.as_ptr()), _mm256_load_ps(line.0.as_ptr().add(8)));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let a = _mm256_broadcast_ss(&*a.add(r * stride + i));
                    sums[0] = _mm256_fmadd_ps(a, low, sums[0]);
                    sums[1] = _mm256_fmadd_ps(a, high, sums[1]);
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                let at = out.add(r * out_stride);
                _mm256_storeu_ps(at, sums[0]);
                _mm256_storeu_ps(at.add(8), sums[1]);
            }
        }
    }

    #[target_feature(enable = "avx2,f16c")]
    pub fn widen(from: &[[u16; COLUMNS]], to: &mut [Line]) {
        for (from, to) in from.iter().zip(to) {
            // SAFETY: sixteen values each, and lines are aligned.
            unsafe {
                let at = from.as_ptr().cast::<__m128i>();
                _mm256_store_ps(to.0.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(at)));
                _mm256_store_ps(to.0.as_mut_ptr().add(8), _mm256_cvtph_ps(_mm_loadu_si128(at.add(1))));
            }
        }
    }

    #[target_feature(enable = "avx2")]
    pub fn by_column(from: &[[i8; COLUMNS]], scales: &[f32; COLUMNS], to: &mut [Line]) {
        super::by_column(from, scales, to);
    }

    #[target_feature(enable = "avx2")]
    pub fn by_line(from: &[[i8; COLUMNS]], scales: &[f32], to: &mut [Line]) {
        super::by_line(from, scales, to);
    }
}

/// With fused multiply-add: the bits of [`AVX2`]. The functions of whole numbers are plain Rust, which is compiled for NEON.
#[cfg(target_arch = "aarch64")]
pub(super) static NEON: Panels = Panels {
    products: [neon::products::<1>, neon::products::<2>, neon::products::<3>, neon::products::<4>],
    by_column,
    by_line,
    widen: neon::widen,
};

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::{COLUMNS, Line};
    use std::arch::aarch64::*;

    /// # Safety
    /// Of [`super::Products`].
    #[target_feature(enable = "neon")]
    pub unsafe fn products<const R: usize>(a: *const f32, stride: usize, panel: &[Line], out: *mut f32, out_stride: usize) {
        const V: usize = COLUMNS / 4;
        // SAFETY: row `r < R` of `a` has a value for each line, row `r` of `out` sixteen.
        unsafe {
            let mut sums = [[vdupq_n_f32(0.0); V]; R];
            for (r, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = vld1q_f32(out.add(r * out_stride + 4 * j));
                }
            }
            for (i, line) in panel.iter().enumerate() {
                for (r, sums) in sums.iter_mut().enumerate() {
                    let a = *a.add(r * stride + i);
                    for (j, sum) in sums.iter_mut().enumerate() {
                        *sum = vfmaq_n_f32(*sum, vld1q_f32(line.0.as_ptr().add(4 * j)), a);
                    }
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                for (j, &sum) in sums.iter().enumerate() {
                    vst1q_f32(out.add(r * out_stride + 4 * j), sum);
                }
            }
        }
    }

    #[target_feature(enable = "neon")]
    pub fn widen(from: &[[u16; COLUMNS]], to: &mut [Line]) {
        for (from, to) in from.iter().zip(to) {
            // SAFETY: the machine has NEON; sixteen values each.
            unsafe { super::vector::neon::from_f16(from, &mut to.0) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::ActivationMode;

    fn sets() -> Vec<Kernels> {
        ops::all().map(|o| Kernels::with_set(o.set, ActivationMode::Int8).unwrap()).collect()
    }

    fn value(i: usize) -> f32 {
        (i * 7919 % 1009) as f32 / 504.5 - 1.0
    }

    fn panel(lines: usize) -> Vec<Line> {
        (0..lines).map(|i| Line(std::array::from_fn(|c| value(17 * i + c)))).collect()
    }

    /// Against f64; a row alone, beside others, and with its lines in two calls gives the same bits.
    #[test]
    fn rows_beside_a_row_change_nothing() {
        for (rows, lines) in [(1, 1), (3, 64), (4, 7), (6, 256), (11, 80)] {
            let (stride, out_stride) = (lines + 3, COLUMNS + 5);
            let a: Vec<f32> = (0..rows * stride).map(|i| value(i + 5)).collect();
            let panel = panel(lines);
            for k in sets() {
                let begin: Vec<f32> = (0..rows * out_stride).map(|i| value(i + 11)).collect();
                let mut out = begin.clone();
                add_products(&k, rows, (&a, stride), &panel, (&mut out, out_stride));
                for r in 0..rows {
                    for c in 0..out_stride {
                        let sum: f64 =
                            (0..lines).map(|i| f64::from(a[r * stride + i]) * f64::from(panel[i].0.get(c).copied().unwrap_or(0.0))).sum();
                        let truth = f64::from(begin[r * out_stride + c]) + sum;
                        assert!((f64::from(out[r * out_stride + c]) - truth).abs() < 1e-4, "{} row {r} column {c}", k.name());
                    }
                    let mut alone = begin[r * out_stride..(r + 1) * out_stride].to_vec();
                    let (row, cut) = (&a[r * stride..][..lines], lines / 3);
                    add_products(&k, 1, (&row[..cut], 0), &panel[..cut], (&mut alone, 0));
                    add_products(&k, 1, (&row[cut..], 0), &panel[cut..], (&mut alone, 0));
                    assert_eq!(alone, out[r * out_stride..(r + 1) * out_stride], "{} row {r} of {rows}", k.name());
                }
            }
        }
    }

    #[test]
    fn scales_of_columns_and_of_lines() {
        let from: Vec<[i8; COLUMNS]> = (0..5).map(|i| std::array::from_fn(|c| (i * 50 + c) as i8)).collect();
        let mut to = [Line::default(); 5];
        scale_columns(&from, &std::array::from_fn(|c| c as f32 * 0.5), &mut to);
        assert_eq!((to[1].0[3], to[4].0[15]), (53.0 * 1.5, (215u8 as i8) as f32 * 7.5));
        scale_lines(&from, &[0.0, 1.0, 2.0, 3.0, 0.1], &mut to);
        assert_eq!((to[2].0[1], to[0].0[9], to[4].0[0]), (202.0, 0.0, (200u8 as i8) as f32 * 0.1));
    }

    #[test]
    #[should_panic(expected = "rows")]
    fn a_row_outside_is_refused() {
        let k = Kernels::detect(ActivationMode::Int8);
        add_products(&k, 2, (&[0.0; 7], 4), &panel(4), (&mut [0.0; 32], 16));
    }
}
