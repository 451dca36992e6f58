//! OLMoE: queries and keys are normed over their full width, and the chosen experts' weights are not renormalised.

use super::config::Config;
use super::draft::{Base, Draft, set_biases};
use super::hf::{self, Defaults};
use super::metadata::Metadata;
use super::names::Names;
use super::{Arch, gguf};
use crate::error::Result;
use crate::source::Checkpoint;
use forebay_format::model::{Ffn, Mixer, ModelSpec, NormWeight, QkNorm, RopePairing, Routed, Router};
use serde_json::Value;

pub(super) const OLMOE: Arch =
    Arch { model_types: &["olmoe"], classes: &["OlmoeForCausalLM"], gguf: &["olmoe"], from_hf, from_gguf: Some(from_gguf) };

fn spec(base: &Base, checkpoint: &Checkpoint, names: &Names, routed: Routed) -> ModelSpec {
    let ffn = Ffn::Routed(routed);
    let layers = (0..base.layers as usize).map(|i| {
        let mut attention = base.attention();
        set_biases(&mut attention, checkpoint, names, i);
        attention.qk_norm = QkNorm::FullWidth(base.norm(NormWeight::Plain));
        base.layer(NormWeight::Plain, Mixer::Attention(attention), ffn.clone())
    });
    base.spec(NormWeight::Plain, layers.collect())
}

fn from_hf(config: &Config, checkpoint: &Checkpoint) -> Result<Draft> {
    let defaults = Defaults { kv_heads: None, head_dim: None, context: 4096, eps: 1e-5, theta: 1e4, partial: 1.0 };
    config.refuse_unless("clip_qkv", &Value::Null)?;
    let base = hf::base(config, &defaults)?;
    let names = Names::hf("model.");
    let routed = Routed {
        experts: config.size_or("num_experts", 64)?,
        top_k: config.size_or("num_experts_per_tok", 8)?,
        expert: base.ffn(config.size("intermediate_size")?),
        router: Router::Softmax { renormalize: config.flag_or("norm_topk_prob", false)? },
        shared: None,
    };
    Ok(Draft::new(spec(&base, checkpoint, &names, routed), names))
}

fn from_gguf(meta: &Metadata, checkpoint: &Checkpoint) -> Result<Draft> {
    let base = gguf::base(meta, checkpoint, RopePairing::Halves)?;
    let names = Names::gguf();
    let routed = Routed {
        experts: meta.size("expert_count")?,
        top_k: meta.size("expert_used_count")?,
        expert: base.ffn(meta.size("feed_forward_length")?),
        router: Router::Softmax { renormalize: gguf::implied_flag(meta, "expert_weights_norm", false)? },
        shared: None,
    };
    Ok(Draft::new(spec(&base, checkpoint, &names, routed), names))
}
