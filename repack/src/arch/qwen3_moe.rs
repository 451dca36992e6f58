//! Qwen3 with experts. The Hugging Face class can also have dense layers (`mlp_only_layers`, `decoder_sparse_step`).

use super::config::Config;
use super::draft::Draft;
use super::hf::{self, Defaults};
use super::metadata::Metadata;
use super::names::Names;
use super::qwen3::attention;
use super::{Arch, gguf};
use crate::error::Result;
use crate::source::Checkpoint;
use forebay_format::model::{Ffn, Mixer, NormWeight, RopePairing, Routed, Router};
use serde_json::Value;

pub(super) const QWEN3_MOE: Arch =
    Arch { model_types: &["qwen3_moe"], classes: &["Qwen3MoeForCausalLM"], gguf: &["qwen3moe"], from_hf, from_gguf: Some(from_gguf) };

fn from_hf(config: &Config, checkpoint: &Checkpoint) -> Result<Draft> {
    let defaults = Defaults { kv_heads: Some(4), head_dim: None, context: 32_768, eps: 1e-6, theta: 1e4, partial: 1.0 };
    let base = hf::base(config, &defaults)?;
    let names = Names::hf("model.");
    let routed = Ffn::Routed(Routed {
        experts: config.size_or("num_experts", 128)?,
        top_k: config.size_or("num_experts_per_tok", 8)?,
        expert: base.ffn(config.size_or("moe_intermediate_size", 768)?),
        router: Router::Softmax { renormalize: config.flag_or("norm_topk_prob", false)? },
        shared: None,
    });
    let dense = dense_layers(config, base.layers)?;
    let windows = hf::switched_windows(config, base.layers, None)?;
    let mut layers = Vec::with_capacity(windows.len());
    for (i, (window, dense)) in windows.into_iter().zip(dense).enumerate() {
        let mixer = Mixer::Attention(attention(&base, checkpoint, &names, i, window));
        let ffn = if dense { Ffn::Dense(base.ffn(config.size("intermediate_size")?)) } else { routed.clone() };
        layers.push(base.layer(NormWeight::Plain, mixer, ffn));
    }
    Ok(Draft::new(base.spec(NormWeight::Plain, layers), names))
}

/// Which layers have no experts.
fn dense_layers(config: &Config, layers: u32) -> Result<Vec<bool>> {
    let step = config.size_or("decoder_sparse_step", 1)?;
    if step == 0 {
        return Err(config.malformed(format!("{} is 0", config.name("decoder_sparse_step"))));
    }
    let listed = config.maybe_list("mlp_only_layers")?.unwrap_or_default();
    let listed: Option<Vec<u64>> = listed.iter().map(Value::as_u64).collect();
    let listed = listed.ok_or_else(|| config.malformed(format!("{} holds something other than layers", config.name("mlp_only_layers"))))?;
    Ok((0..layers).map(|i| listed.contains(&u64::from(i)) || (i + 1) % step != 0).collect())
}

fn from_gguf(meta: &Metadata, checkpoint: &Checkpoint) -> Result<Draft> {
    let base = gguf::base(meta, checkpoint, RopePairing::Halves)?;
    let names = Names::gguf();
    let ffn = Ffn::Routed(Routed {
        experts: meta.size("expert_count")?,
        top_k: meta.size("expert_used_count")?,
        expert: base.ffn(meta.size("expert_feed_forward_length")?),
        // The architecture implies it; no key says it in most files.
        router: Router::Softmax { renormalize: gguf::implied_flag(meta, "expert_weights_norm", true)? },
        shared: None,
    });
    let layers = (0..base.layers as usize).map(|i| {
        let mixer = Mixer::Attention(attention(&base, checkpoint, &names, i, None));
        base.layer(NormWeight::Plain, mixer, ffn.clone())
    });
    Ok(Draft::new(base.spec(NormWeight::Plain, layers.collect()), names))
}
