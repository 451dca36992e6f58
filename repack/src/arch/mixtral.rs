//! Mixtral from Hugging Face. Its GGUF files say `llama` with `expert_count`.

use super::Arch;
use super::config::Config;
use super::draft::{Draft, set_biases};
use super::hf::{self, Defaults};
use super::names::{ExpertNames, Names};
use crate::error::Result;
use crate::source::Checkpoint;
use forebay_format::model::{Ffn, Mixer, NormWeight, Role, Routed, Router};

pub(super) const MIXTRAL: Arch = Arch { model_types: &["mixtral"], classes: &["MixtralForCausalLM"], gguf: &[], from_hf, from_gguf: None };

const EXPERTS: &[ExpertNames] = &[ExpertNames::Each([
    "block_sparse_moe.experts.{}.w1.weight",
    "block_sparse_moe.experts.{}.w3.weight",
    "block_sparse_moe.experts.{}.w2.weight",
])];

fn from_hf(config: &Config, checkpoint: &Checkpoint) -> Result<Draft> {
    let defaults = Defaults { kv_heads: Some(8), head_dim: None, context: 131_072, eps: 1e-5, theta: 1e6, partial: 1.0 };
    let base = hf::base(config, &defaults)?;
    let mut names = Names::hf("model.");
    names.overrides = &[(Role::Router, "block_sparse_moe.gate.weight")];
    names.experts = EXPERTS;
    let ffn = Ffn::Routed(Routed {
        experts: config.size_or("num_local_experts", 8)?,
        top_k: config.size_or("num_experts_per_tok", 2)?,
        expert: base.ffn(config.size("intermediate_size")?),
        router: Router::Softmax { renormalize: true },
        shared: None,
    });
    let window = config.maybe_size("sliding_window")?;
    let layers = (0..base.layers as usize).map(|i| {
        let mut attention = base.attention();
        set_biases(&mut attention, checkpoint, &names, i);
        attention.sliding_window = window;
        base.layer(NormWeight::Plain, Mixer::Attention(attention), ffn.clone())
    });
    Ok(Draft::new(base.spec(NormWeight::Plain, layers.collect()), names))
}
