//! RMS norm of rows: `x * rsqrt(mean(x^2) + eps) * factor`.

use crate::kernels::{Kernels, vector};
use crate::scratch::Step;

/// A norm ready to use: the stored weight already turned into a factor (`w` or `1 + w`).
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// Added to the mean square.
    pub eps: f32,
    /// One factor per value of the normed row.
    pub factor: Vec<f32>,
}

impl RmsNorm {
    /// Norms one row in place.
    pub fn apply(&self, k: &Kernels, row: &mut [f32]) {
        vector::rms_norm_in_place(k, row, &self.factor, self.eps);
    }

    /// Norms each row of `rows` (`[n, width]`, width the factor's length) into `out`, rows in parallel.
    pub fn apply_rows(&self, step: &Step, rows: &[f32], out: &mut [f32]) {
        let width = self.factor.len();
        step.each_row(out, width, &|i, out| vector::rms_norm(step.kernels, &rows[i * width..(i + 1) * width], &self.factor, self.eps, out));
    }
}
