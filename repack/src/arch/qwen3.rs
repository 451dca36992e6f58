//! Qwen3, dense: queries and keys are normed per head.

use super::config::Config;
use super::draft::{Base, Draft, set_biases};
use super::hf::{self, Defaults};
use super::metadata::Metadata;
use super::names::Names;
use super::{Arch, gguf};
use crate::error::Result;
use crate::source::Checkpoint;
use forebay_format::model::{Attention, Ffn, Mixer, NormWeight, QkNorm, RopePairing};

pub(super) const QWEN3: Arch =
    Arch { model_types: &["qwen3"], classes: &["Qwen3ForCausalLM"], gguf: &["qwen3"], from_hf, from_gguf: Some(from_gguf) };

/// Attention of a layer; also that of Qwen3-MoE.
pub(super) fn attention(base: &Base, checkpoint: &Checkpoint, names: &Names, layer: usize, window: Option<u32>) -> Attention {
    let mut attention = base.attention();
    set_biases(&mut attention, checkpoint, names, layer);
    attention.qk_norm = QkNorm::PerHead(base.norm(NormWeight::Plain));
    attention.sliding_window = window;
    attention
}

fn from_hf(config: &Config, checkpoint: &Checkpoint) -> Result<Draft> {
    let defaults = Defaults { kv_heads: Some(32), head_dim: Some(128), context: 32_768, eps: 1e-6, theta: 1e4, partial: 1.0 };
    let base = hf::base(config, &defaults)?;
    let names = Names::hf("model.");
    let ffn = Ffn::Dense(base.ffn(config.size("intermediate_size")?));
    let windows = hf::switched_windows(config, base.layers, Some(28))?;
    let layers = windows.into_iter().enumerate().map(|(i, window)| {
        let mixer = Mixer::Attention(attention(&base, checkpoint, &names, i, window));
        base.layer(NormWeight::Plain, mixer, ffn.clone())
    });
    Ok(Draft::new(base.spec(NormWeight::Plain, layers.collect()), names))
}

fn from_gguf(meta: &Metadata, checkpoint: &Checkpoint) -> Result<Draft> {
    let base = gguf::base(meta, checkpoint, RopePairing::Halves)?;
    let names = Names::gguf();
    let ffn = Ffn::Dense(base.ffn(meta.size("feed_forward_length")?));
    let layers = (0..base.layers as usize).map(|i| {
        let mixer = Mixer::Attention(attention(&base, checkpoint, &names, i, None));
        base.layer(NormWeight::Plain, mixer, ffn.clone())
    });
    Ok(Draft::new(base.spec(NormWeight::Plain, layers.collect()), names))
}
