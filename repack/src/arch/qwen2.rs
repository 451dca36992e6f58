//! Qwen2 and Qwen2.5, dense: biases of Q, K and V.

use super::config::Config;
use super::draft::{Draft, set_biases};
use super::hf::{self, Defaults};
use super::metadata::Metadata;
use super::names::Names;
use super::{Arch, gguf};
use crate::error::Result;
use crate::source::Checkpoint;
use forebay_format::model::{Ffn, Mixer, NormWeight, RopePairing};

pub(super) const QWEN2: Arch =
    Arch { model_types: &["qwen2"], classes: &["Qwen2ForCausalLM"], gguf: &["qwen2"], from_hf, from_gguf: Some(from_gguf) };

fn from_hf(config: &Config, checkpoint: &Checkpoint) -> Result<Draft> {
    let defaults = Defaults { kv_heads: Some(32), head_dim: None, context: 32_768, eps: 1e-6, theta: 1e4, partial: 1.0 };
    let base = hf::base(config, &defaults)?;
    let names = Names::hf("model.");
    let ffn = Ffn::Dense(base.ffn(config.size("intermediate_size")?));
    let windows = hf::switched_windows(config, base.layers, Some(28))?;
    let layers = windows.into_iter().enumerate().map(|(i, window)| {
        let mut attention = base.attention();
        set_biases(&mut attention, checkpoint, &names, i);
        attention.qkv_bias = true; // the class has no way to do without
        attention.sliding_window = window;
        base.layer(NormWeight::Plain, Mixer::Attention(attention), ffn.clone())
    });
    Ok(Draft::new(base.spec(NormWeight::Plain, layers.collect()), names))
}

fn from_gguf(meta: &Metadata, checkpoint: &Checkpoint) -> Result<Draft> {
    let base = gguf::base(meta, checkpoint, RopePairing::Halves)?;
    let names = Names::gguf();
    let ffn = Ffn::Dense(base.ffn(meta.size("feed_forward_length")?));
    let layers = (0..base.layers as usize).map(|i| {
        let mut attention = base.attention();
        set_biases(&mut attention, checkpoint, &names, i);
        base.layer(NormWeight::Plain, Mixer::Attention(attention), ffn.clone())
    });
    Ok(Draft::new(base.spec(NormWeight::Plain, layers.collect()), names))
}
