//! A router in 8 bits, to guess with. A guess reads the router once more than the layer does, twice where it looks two layers ahead: with the router's own
//! 32 bits that was 14 ms of a token of 190 (40 layers of 256 experts, 2048 values each).

use crate::kernels::Matrix;
use forebay_format::QuantType;
use half::f16;

/// Values of a block of [`QuantType::Q8_0`].
const BLOCK: usize = 32;
/// Bytes of one: the scale, then the values.
const BLOCK_BYTES: usize = 2 + BLOCK;

/// See the module's text.
#[derive(Debug)]
pub struct CoarseRouter {
    experts: usize,
    hidden: usize,
    bytes: Vec<u8>,
}

impl CoarseRouter {
    /// Of a router's rows, `[experts, hidden]`; `None` if a row is not a whole number of blocks.
    pub fn new(rows: &[f32], hidden: usize) -> Option<CoarseRouter> {
        if hidden == 0 || !hidden.is_multiple_of(BLOCK) {
            return None;
        }
        let mut bytes = Vec::with_capacity(rows.len() / BLOCK * BLOCK_BYTES);
        for block in rows.chunks_exact(BLOCK) {
            let largest = block.iter().fold(0.0f32, |most, v| most.max(v.abs()));
            let scale = f16::from_f32(largest / 127.0);
            let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
            bytes.extend_from_slice(&scale.to_le_bytes());
            bytes.extend(block.iter().map(|v| (v * inverse).round().clamp(-127.0, 127.0) as i8 as u8));
        }
        Some(CoarseRouter { experts: rows.len() / hidden, hidden, bytes })
    }

    /// Bytes of the copy of a router.
    pub fn bytes(experts: u64, hidden: u64) -> u64 {
        experts.saturating_mul(hidden / BLOCK as u64).saturating_mul(BLOCK_BYTES as u64)
    }

    /// `[experts, hidden]`.
    pub fn matrix(&self) -> Matrix<'_> {
        Matrix::whole(QuantType::Q8_0, self.experts, self.hidden, &self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn within_half_a_step_of_the_router() {
        let rows: Vec<f32> = (0..4 * 64).map(|i| ((i * 37 % 101) as f32 - 50.0) * if i < 32 { 1e-3 } else { 0.7 }).collect();
        let coarse = CoarseRouter::new(&rows, 64).unwrap();
        assert_eq!(coarse.bytes.len() as u64, CoarseRouter::bytes(4, 64));
        let m = coarse.matrix();
        let mut back = vec![0.0; rows.len()];
        m.qtype.decode(m.bytes, &mut back).unwrap();
        for (block, back) in rows.chunks(BLOCK).zip(back.chunks(BLOCK)) {
            let step = block.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
            assert!(block.iter().zip(back).all(|(a, b)| (a - b).abs() <= 0.51 * step + 1e-6));
        }
        assert!(CoarseRouter::new(&rows, 0).is_none() && CoarseRouter::new(&rows, 16).is_none());
        assert!(CoarseRouter::new(&[0.0; 32], 32).unwrap().bytes.iter().all(|&b| b == 0));
    }
}
