//! Arcee (AFM): Llama with a feed-forward network of two matrices, squared ReLU between them.

use super::config::Config;
use super::draft::{Base, Draft, set_biases, set_ffn_bias};
use super::hf::{self, Defaults};
use super::metadata::Metadata;
use super::names::Names;
use super::{Arch, gguf};
use crate::error::Result;
use crate::source::Checkpoint;
use forebay_format::model::{Activation, Ffn, GatedFfn, Mixer, NormWeight, RopePairing};

pub(super) const ARCEE: Arch =
    Arch { model_types: &["arcee"], classes: &["ArceeForCausalLM"], gguf: &["arcee"], from_hf, from_gguf: Some(from_gguf) };

fn from_hf(config: &Config, checkpoint: &Checkpoint) -> Result<Draft> {
    let defaults = Defaults { kv_heads: None, head_dim: None, context: 4096, eps: 1e-5, theta: 1e4, partial: 1.0 };
    let mut base = hf::base(config, &defaults)?;
    if !config.has("hidden_act") {
        base.activation = Activation::SquaredRelu;
    }
    let ffn = base.ffn(config.size("intermediate_size")?);
    Ok(draft(&base, ffn, Names::hf("model."), checkpoint))
}

/// The converter to GGUF permutes the rows of Q and K of this architecture, so that pairs are adjacent.
fn from_gguf(meta: &Metadata, checkpoint: &Checkpoint) -> Result<Draft> {
    let base = gguf::base(meta, checkpoint, RopePairing::Adjacent)?;
    let ffn = GatedFfn::new(meta.size("feed_forward_length")?, Activation::SquaredRelu);
    Ok(draft(&base, ffn, Names::gguf(), checkpoint))
}

fn draft(base: &Base, ffn: GatedFfn, names: Names, checkpoint: &Checkpoint) -> Draft {
    let mut ffn = GatedFfn { ungated: true, ..ffn };
    set_ffn_bias(&mut ffn, checkpoint, &names, 0);
    let layers = (0..base.layers as usize).map(|i| {
        let mut attention = base.attention();
        set_biases(&mut attention, checkpoint, &names, i);
        base.layer(NormWeight::Plain, Mixer::Attention(attention), Ffn::Dense(ffn.clone()))
    });
    Draft::new(base.spec(NormWeight::Plain, layers.collect()), names)
}
