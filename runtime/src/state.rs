//! What a sequence leaves behind in the model: keys and values, recurrent states, and the position.

use crate::kv::{KvCache, KvType};
use crate::scratch::Step;
use forebay_format::model::{GatedDelta, Mixer, ModelSpec};

/// Recurrent state of one gated delta layer; its size does not depend on the context.
#[derive(Debug)]
pub struct DeltaState {
    /// `[conv_kernel - 1][channels]`: the convolution's last inputs, oldest first.
    pub conv: Vec<f32>,
    /// `[value_heads]` states of [`crate::kernels::delta`].
    pub heads: Vec<f32>,
}

impl DeltaState {
    fn sizes(spec: &GatedDelta) -> [u64; 2] {
        let channels = 2 * spec.key_heads as u64 * spec.key_dim as u64 + spec.value_heads as u64 * spec.value_dim as u64;
        let heads = spec.value_heads as u64 * spec.key_dim as u64;
        [channels.saturating_mul(spec.conv_kernel as u64 - 1), heads.saturating_mul(spec.value_dim as u64)]
    }

    /// A state before the first token: all zero.
    pub fn new(spec: &GatedDelta) -> Self {
        let [conv, heads] = Self::sizes(spec).map(|n| vec![0.0; n as usize]);
        DeltaState { conv, heads }
    }

    /// Bytes that [`DeltaState::new`] takes; saturates.
    pub fn bytes(spec: &GatedDelta) -> u64 {
        Self::sizes(spec).iter().fold(0u64, |sum, n| sum.saturating_add(n.saturating_mul(size_of::<f32>() as u64)))
    }
}

/// One layer's memory of the sequence.
#[derive(Debug)]
pub enum LayerState {
    /// Attention.
    Kv(KvCache),
    /// Gated delta net.
    Delta(DeltaState),
}

/// One sequence.
#[derive(Debug)]
pub struct Session {
    /// One entry a layer.
    pub layers: Vec<LayerState>,
    /// Tokens seen; the next token's position.
    pub position: usize,
    /// A step stopped half-way: recurrent states are ahead of `position`, and only [`Session::reset`] helps.
    pub torn: bool,
}

impl Session {
    /// An empty sequence of at most `context` tokens. All memory is reserved here.
    pub fn new(spec: &ModelSpec, context: usize, kv: KvType) -> Self {
        let layer = |mixer: &Mixer| match mixer {
            Mixer::Attention(a) => LayerState::Kv(KvCache::new(a, context, kv)),
            Mixer::GatedDelta(d) => LayerState::Delta(DeltaState::new(d)),
        };
        Session { layers: spec.layers.iter().map(|l| layer(&l.mixer)).collect(), position: 0, torn: false }
    }

    /// Bytes of all keys and values, and of all recurrent states.
    pub fn bytes(spec: &ModelSpec, context: u32, kv_type: KvType) -> (u64, u64) {
        spec.layers.iter().fold((0u64, 0u64), |(kv, state), l| match &l.mixer {
            Mixer::Attention(a) => (kv.saturating_add(KvCache::bytes(a, context, kv_type)), state),
            Mixer::GatedDelta(d) => (kv, state.saturating_add(DeltaState::bytes(d))),
        })
    }

    /// Made-up keys and values, all of one order of magnitude, at the positions of `step`.
    pub fn pretend(&mut self, spec: &ModelSpec, step: &Step) {
        for (layer, state) in spec.layers.iter().zip(&mut self.layers) {
            if let (Mixer::Attention(a), LayerState::Kv(cache)) = (&layer.mixer, state) {
                let values = step.rows * a.kv_heads as usize * a.head_dim as usize;
                let made_up = |i: usize| ((i + 31 * step.position) * 7919 % 1009) as f32 / 504.5 - 1.0;
                let (keys, values): (Vec<f32>, Vec<f32>) = (0..values).map(|i| (made_up(i), made_up(i + 577))).unzip();
                cache.store(step, &keys, &values);
            }
        }
    }

    /// Back to the empty sequence. Keys and values need no clearing: nothing reads a position before it is stored.
    pub fn reset(&mut self) {
        for layer in &mut self.layers {
            if let LayerState::Delta(d) = layer {
                d.conv.fill(0.0);
                d.heads.fill(0.0);
            }
        }
        self.position = 0;
        self.torn = false;
    }
}
