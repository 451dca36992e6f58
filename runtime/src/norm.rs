//! Norms of rows.

use crate::kernels::{Kernels, vector};
use crate::scratch::Step;

/// RMS norm, `x * rsqrt(mean(x^2) + eps) * factor`, ready to use: the stored weight already turned into a factor (`w` or `1 + w`).
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
}

/// A norm of the residual stream.
#[derive(Clone, Debug)]
pub enum StreamNorm {
    /// RMS norm.
    Rms(RmsNorm),
    /// `(x - mean) * rsqrt(variance + eps) * factor + bias`.
    Layer {
        /// Added to the variance.
        eps: f32,
        /// One factor per value.
        factor: Vec<f32>,
        /// One bias per value.
        bias: Vec<f32>,
    },
    /// The row as it is.
    None,
}

impl StreamNorm {
    /// Norms each row of `rows` (`[n, width]`) into `out`, rows in parallel.
    pub fn apply_rows(&self, step: &Step, width: usize, rows: &[f32], out: &mut [f32]) {
        let k = step.kernels;
        step.each_row(out, width, &|i, out| {
            let row = &rows[i * width..(i + 1) * width];
            match self {
                StreamNorm::Rms(n) => vector::rms_norm(k, row, &n.factor, n.eps, out),
                StreamNorm::Layer { eps, factor, bias } => vector::layer_norm(k, row, factor, bias, *eps, out),
                StreamNorm::None => out.copy_from_slice(row),
            }
        });
    }
}
