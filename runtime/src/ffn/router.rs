//! From router logits to the experts of a token and their weights.

use crate::kernels::vector;
use forebay_format::model::Router;

/// Chooses `chosen.len()` experts for each row of `logits` (`[rows, experts]`, overwritten by probabilities) into `chosen`
/// (`[rows, top_k]`: id and weight), by descending probability, ties to the lower id: the order in which outputs are summed.
pub fn route(router: &Router, experts: usize, top_k: usize, logits: &mut [f32], chosen: &mut [(u32, f32)]) {
    for (row, chosen) in logits.chunks_exact_mut(experts).zip(chosen.chunks_exact_mut(top_k)) {
        match *router {
            Router::Softmax { renormalize } => {
                vector::softmax_in_place(row);
                pick(row, chosen);
                if renormalize {
                    let sum: f32 = chosen.iter().map(|c| c.1).sum();
                    chosen.iter_mut().for_each(|c| c.1 /= sum);
                }
            }
        }
    }
}

/// The `chosen.len()` largest of `row`, largest first. `row` loses what was chosen. Not-a-number counts as the least, so that a
/// broken model still gets valid, distinct ids.
pub fn pick(row: &mut [f32], chosen: &mut [(u32, f32)]) {
    row.iter_mut().filter(|p| p.is_nan()).for_each(|p| *p = 0.0);
    for slot in chosen {
        let (mut best, mut at) = (f32::NEG_INFINITY, 0);
        for (i, &p) in row.iter().enumerate() {
            if p > best {
                (best, at) = (p, i);
            }
        }
        *slot = (at as u32, best);
        row[at] = f32::NEG_INFINITY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_first_and_ties_to_the_lower_id() {
        let mut logits = [1.0, 3.0, 3.0, 2.0, /* */ 0.0, 0.0, 0.0, 0.0];
        let mut chosen = [(0, 0.0); 6];
        route(&Router::Softmax { renormalize: false }, 4, 3, &mut logits, &mut chosen);
        assert_eq!(chosen.map(|c| c.0), [1, 2, 3, 0, 1, 2]);
        let total = 1f32.exp() + 2.0 * 3f32.exp() + 2f32.exp();
        assert!((chosen[0].1 - 3f32.exp() / total).abs() < 1e-6);
        assert_eq!(chosen[3].1, 0.25);
    }

    #[test]
    fn renormalized_weights_add_up_to_one() {
        let mut logits = [0.5, -1.0, 2.0, 1.5];
        let mut chosen = [(0, 0.0); 2];
        route(&Router::Softmax { renormalize: true }, 4, 2, &mut logits, &mut chosen);
        assert_eq!(chosen.map(|c| c.0), [2, 3]);
        // Softmax over the chosen alone.
        assert!((chosen[0].1 - 1.0 / (1.0 + (-0.5f32).exp())).abs() < 1e-6);
        assert!((chosen[0].1 + chosen[1].1 - 1.0).abs() < 1e-6);
    }

    #[test]
    fn not_a_number_still_gives_distinct_experts() {
        let mut logits = [f32::NAN; 4];
        let mut chosen = [(9, 0.0); 3];
        route(&Router::Softmax { renormalize: false }, 4, 3, &mut logits, &mut chosen);
        assert_eq!(chosen.map(|c| c.0), [0, 1, 2]);
    }
}
