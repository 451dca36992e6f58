//! Causal depthwise convolution over the token axis.

use crate::kernels::vector;
use crate::scratch::Step;

/// Taps of a convolution, turned so that one tap of all channels is contiguous.
#[derive(Debug)]
pub struct Conv {
    /// `[kernel][channels]`, the oldest input's tap first.
    taps: Vec<f32>,
    channels: usize,
}

impl Conv {
    /// From weights `[channels, kernel]`, the current input's tap last.
    pub fn new(weights: &[f32], channels: usize) -> Self {
        let kernel = weights.len() / channels;
        let taps = (0..kernel).flat_map(|j| (0..channels).map(move |c| weights[c * kernel + j])).collect();
        Conv { taps, channels }
    }

    /// `out[t][c] = silu(sum_j taps[j][c] * in[t - kernel + 1 + j][c])`, where inputs before the first are `state` (`[kernel - 1][channels]`). Afterwards
    /// `state` holds the last inputs. A row of `out` is made in pieces of `piece` channels, which divides their number; `finish` is called on each piece
    /// with its first channel.
    pub fn run(
        &self,
        step: &Step,
        state: &mut [f32],
        input: &[f32],
        out: &mut [f32],
        piece: usize,
        finish: &(dyn Fn(usize, &mut [f32]) + Sync),
    ) {
        let width = self.channels;
        let kept = state.len() / width;
        let seen = &*state;
        let per_row = width / piece;
        step.pool.split(out, piece, &|i, out, _| {
            let (t, from) = (i / per_row, i % per_row * piece);
            out.fill(0.0);
            for (j, tap) in self.taps.chunks_exact(width).enumerate() {
                // The input `kept - j` tokens before token t.
                let source = if t + j >= kept { &input[(t + j - kept) * width..] } else { &seen[(t + j) * width..] };
                vector::mul_add(&tap[from..from + piece], &source[from..from + piece], out);
            }
            vector::silu(out);
            finish(from, out);
        });
        let rows = input.len() / width;
        if rows >= kept {
            state.copy_from_slice(&input[(rows - kept) * width..]);
        } else {
            state.copy_within(rows * width.., 0);
            state[(kept - rows) * width..].copy_from_slice(input);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{ActivationMode, Kernels, Pool};
    use std::sync::atomic::AtomicBool;

    /// Whatever the cut into steps, outputs and the state are the same, and equal to the definition.
    #[test]
    fn steps_do_not_matter() {
        let (channels, kernel, tokens) = (3, 4, 9);
        let weights: Vec<f32> = (0..channels * kernel).map(|i| (i as f32 * 0.7).sin()).collect();
        let input: Vec<f32> = (0..tokens * channels).map(|i| (i as f32 * 1.3).cos()).collect();
        let conv = Conv::new(&weights, channels);
        let (pool, kernels) = (Pool::new(1), Kernels::detect(ActivationMode::F32));
        let step = Step { pool: &pool, kernels: &kernels, rows: 0, position: 0, cut: 0.0, cancel: &AtomicBool::new(false) };
        let run = |tokens: usize, piece: usize| {
            let (mut state, mut out) = (vec![0.0; (kernel - 1) * channels], vec![0.0; input.len()]);
            for (x, y) in input.chunks(tokens * channels).zip(out.chunks_mut(tokens * channels)) {
                conv.run(&step, &mut state, x, y, piece, &|_, _| ());
            }
            (out, state)
        };
        let whole = run(tokens, channels);
        for cut in 1..tokens {
            assert_eq!(run(cut, 1 + 2 * (cut % 2)), whole, "steps of {cut}");
        }
        for t in 0..tokens {
            for c in 0..channels {
                let past = (0..kernel).filter(|j| t + j + 1 >= kernel);
                let sum: f32 = past.map(|j| weights[c * kernel + j] * input[(t + j + 1 - kernel) * channels + c]).sum();
                let want = sum / (1.0 + (-sum).exp());
                assert!((whole.0[t * channels + c] - want).abs() < 1e-5, "token {t} channel {c}");
            }
        }
        assert_eq!(whole.1, input[(tokens - kernel + 1) * channels..]);
    }
}
