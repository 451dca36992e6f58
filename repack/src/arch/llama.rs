//! Llama and what is stored like it: Mistral, ProSparse's variant with a thresholded ReLU, and in GGUF also Mixtral (`expert_count`).

use super::config::Config;
use super::draft::{Draft, set_biases, set_ffn_bias};
use super::hf::{self, Defaults};
use super::metadata::Metadata;
use super::names::Names;
use super::{Arch, gguf};
use crate::error::Result;
use crate::source::Checkpoint;
use forebay_format::model::{Ffn, Mixer, NormWeight, RopePairing, Routed, Router};

pub(super) const LLAMA: Arch =
    Arch { model_types: &["llama"], classes: &["LlamaForCausalLM"], gguf: &["llama"], from_hf: llama, from_gguf: Some(from_gguf) };

/// The same tensors; its code reads `hidden_act` "fatrelu" with `hidden_act_param`.
pub(super) const SPARSE_LLAMA: Arch =
    Arch { model_types: &["sparsellama"], classes: &["SparseLlamaForCausalLM"], gguf: &[], from_hf: llama, from_gguf: None };

pub(super) const MISTRAL: Arch =
    Arch { model_types: &["mistral"], classes: &["MistralForCausalLM"], gguf: &[], from_hf: mistral, from_gguf: None };

fn llama(config: &Config, checkpoint: &Checkpoint) -> Result<Draft> {
    let defaults = Defaults { kv_heads: None, head_dim: None, context: 2048, eps: 1e-6, theta: 1e4, partial: 1.0 };
    dense(config, checkpoint, &defaults, None)
}

fn mistral(config: &Config, checkpoint: &Checkpoint) -> Result<Draft> {
    let defaults = Defaults { kv_heads: Some(8), head_dim: None, context: 131_072, eps: 1e-6, theta: 1e4, partial: 1.0 };
    let window = if config.has("sliding_window") { config.maybe_size("sliding_window")? } else { Some(4096) };
    dense(config, checkpoint, &defaults, window)
}

fn dense(config: &Config, checkpoint: &Checkpoint, defaults: &Defaults, window: Option<u32>) -> Result<Draft> {
    let base = hf::base(config, defaults)?;
    let names = Names::hf("model.");
    let mut ffn = base.ffn(config.size("intermediate_size")?);
    set_ffn_bias(&mut ffn, checkpoint, &names, 0);
    let ffn = Ffn::Dense(ffn);
    let layers = (0..base.layers as usize).map(|i| {
        let mut attention = base.attention();
        set_biases(&mut attention, checkpoint, &names, i);
        attention.sliding_window = window;
        base.layer(NormWeight::Plain, Mixer::Attention(attention), ffn.clone())
    });
    Ok(Draft::new(base.spec(NormWeight::Plain, layers.collect()), names))
}

/// The converter to GGUF permutes the rows of Q and K of this architecture, so that pairs are adjacent.
fn from_gguf(meta: &Metadata, checkpoint: &Checkpoint) -> Result<Draft> {
    let base = gguf::base(meta, checkpoint, RopePairing::Adjacent)?;
    let names = Names::gguf();
    let expert = base.ffn(meta.size("feed_forward_length")?);
    let ffn = match meta.maybe_size("expert_count")?.unwrap_or(0) {
        0 => Ffn::Dense(expert),
        experts => Ffn::Routed(Routed {
            experts,
            top_k: meta.size("expert_used_count")?,
            expert,
            router: Router::Softmax { renormalize: gguf::implied_flag(meta, "expert_weights_norm", true)? },
            shared: None,
        }),
    };
    let layers = (0..base.layers as usize).map(|i| {
        let mut attention = base.attention();
        set_biases(&mut attention, checkpoint, &names, i);
        base.layer(NormWeight::Plain, Mixer::Attention(attention), ffn.clone())
    });
    Ok(Draft::new(base.spec(NormWeight::Plain, layers.collect()), names))
}
