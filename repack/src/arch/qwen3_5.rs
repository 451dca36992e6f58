//! Qwen3.5, dense and with experts: a hybrid of gated delta net and gated attention. The text-only class and the multimodal
//! one (`text_config`, `model.language_model.*`, a vision tower, `mtp.*`).

use super::config::Config;
use super::draft::{Base, Draft, unsupported};
use super::hf::{self, Defaults};
use super::metadata::Metadata;
use super::names::{ExpertNames, Names};
use super::{Arch, gguf};
use crate::error::Result;
use crate::source::Checkpoint;
use forebay_format::model::{
    Decay, Ffn, GatedDelta, LayerSpec, Mixer, NormWeight, QkNorm, Role, RopePairing, Routed, Router, SharedExpert, ValueHeadOrder,
};
use serde_json::json;

pub(super) const DENSE: Arch = Arch {
    model_types: &["qwen3_5", "qwen3_5_text"],
    classes: &["Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"],
    gguf: &["qwen35"],
    from_hf: |config, checkpoint| from_hf(config, checkpoint, false),
    from_gguf: Some(|meta, checkpoint| from_gguf(meta, checkpoint, false)),
};

pub(super) const MOE: Arch = Arch {
    model_types: &["qwen3_5_moe", "qwen3_5_moe_text"],
    classes: &["Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"],
    gguf: &["qwen35moe"],
    from_hf: |config, checkpoint| from_hf(config, checkpoint, true),
    from_gguf: Some(|meta, checkpoint| from_gguf(meta, checkpoint, true)),
};

/// Added to the sum of squares of queries and keys; a constant of the model's code, in no configuration.
const L2_EPS: f32 = 1e-6;

const EXPERTS: &[ExpertNames] = &[
    ExpertNames::Each(["mlp.experts.{}.gate_proj.weight", "mlp.experts.{}.up_proj.weight", "mlp.experts.{}.down_proj.weight"]),
    ExpertNames::GateUp(["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
];

/// The parts in which the two sources differ.
struct Source {
    weight: NormWeight,
    order: ValueHeadOrder,
    decay: Decay,
}

fn layer(base: &Base, source: &Source, delta: Option<&GatedDelta>, ffn: &Ffn) -> LayerSpec {
    let mixer = match delta {
        Some(delta) => Mixer::GatedDelta(delta.clone()),
        None => {
            let mut attention = base.attention();
            attention.qk_norm = QkNorm::PerHead(base.norm(source.weight));
            attention.output_gate = true;
            Mixer::Attention(attention)
        }
    };
    base.layer(source.weight, mixer, ffn.clone())
}

fn from_hf(config: &Config, checkpoint: &Checkpoint, moe: bool) -> Result<Draft> {
    let defaults = Defaults { kv_heads: Some(4), head_dim: Some(256), context: 32_768, eps: 1e-6, theta: 1e4, partial: 0.25 };
    let base = hf::base(config, &defaults)?;
    config.refuse_unless("attn_output_gate", &json!(true))?;
    config.refuse_unless("attention_bias", &json!(false))?;
    config.refuse_unless("mlp_only_layers", &json!([]))?;
    let source = Source { weight: NormWeight::ZeroCentered, order: ValueHeadOrder::Grouped, decay: Decay::Log };
    let delta = GatedDelta {
        key_heads: config.size_or("linear_num_key_heads", 16)?,
        value_heads: config.size_or("linear_num_value_heads", 32)?,
        key_dim: config.size_or("linear_key_head_dim", 128)?,
        value_dim: config.size_or("linear_value_head_dim", 128)?,
        conv_kernel: config.size_or("linear_conv_kernel_dim", 4)?,
        value_head_order: source.order,
        decay: source.decay,
        norm: base.norm(NormWeight::Plain),
        l2_eps: L2_EPS,
    };
    let ffn = if moe {
        Ffn::Routed(Routed {
            experts: config.size_or("num_experts", 256)?,
            top_k: config.size_or("num_experts_per_tok", 8)?,
            expert: base.ffn(config.size_or("moe_intermediate_size", 512)?),
            router: Router::Softmax { renormalize: true },
            shared: Some(SharedExpert { ffn: base.ffn(config.size_or("shared_expert_intermediate_size", 512)?), gated: true }),
        })
    } else {
        Ffn::Dense(base.ffn(config.size("intermediate_size")?))
    };
    let recurrent = recurrent_layers(config, base.layers)?;
    let layers = recurrent.iter().map(|&r| layer(&base, &source, r.then_some(&delta), &ffn)).collect();
    let mut names = Names::hf(hf::prefix(checkpoint, &["model.language_model.", "model.", "language_model.model."]));
    names.experts = EXPERTS;
    let mut draft = Draft::new(base.spec(source.weight, layers), names);
    draft.carried = vec!["mtp.".into()];
    draft.unused = vec![("vision tower", "model.visual."), ("vision tower", "visual.")];
    Ok(draft)
}

fn recurrent_layers(config: &Config, layers: u32) -> Result<Vec<bool>> {
    if let Some(types) = config.layer_types(layers)? {
        let known = types.iter().map(|kind| match *kind {
            "linear_attention" => Ok(true),
            "full_attention" => Ok(false),
            other => Err(unsupported(format!("layer type {other:?}"), "known are linear_attention and full_attention")),
        });
        return known.collect();
    }
    let interval = config.size_or("full_attention_interval", 4)?;
    if interval == 0 {
        return Err(config.malformed(format!("{} is 0", config.name("full_attention_interval"))));
    }
    Ok((0..layers).map(|i| (i + 1) % interval != 0).collect())
}

fn from_gguf(meta: &Metadata, checkpoint: &Checkpoint, moe: bool) -> Result<Draft> {
    let base = gguf::base(meta, checkpoint, RopePairing::Halves)?;
    // The converter to GGUF adds 1 to the zero-centred norms, stores -exp(A_log), and reorders the value heads.
    let source = Source { weight: NormWeight::Plain, order: ValueHeadOrder::Tiled, decay: Decay::Factor };
    let value_heads = meta.size("ssm.time_step_rank")?;
    let values = meta.size("ssm.inner_size")?;
    let delta = GatedDelta {
        key_heads: meta.size("ssm.group_count")?,
        value_heads,
        key_dim: meta.size("ssm.state_size")?,
        value_dim: values.checked_div(value_heads).filter(|w| w.checked_mul(value_heads) == Some(values)).ok_or_else(|| {
            meta.malformed(format!("{} {values} is not a multiple of {value_heads} value heads", meta.key("ssm.inner_size")))
        })?,
        conv_kernel: meta.size("ssm.conv_kernel")?,
        value_head_order: source.order,
        decay: source.decay,
        norm: base.norm(NormWeight::Plain),
        l2_eps: L2_EPS,
    };
    let ffn = if moe {
        Ffn::Routed(Routed {
            experts: meta.size("expert_count")?,
            top_k: meta.size("expert_used_count")?,
            expert: base.ffn(meta.size("expert_feed_forward_length")?),
            router: Router::Softmax { renormalize: gguf::implied_flag(meta, "expert_weights_norm", true)? },
            shared: Some(SharedExpert { ffn: base.ffn(meta.size("expert_shared_feed_forward_length")?), gated: true }),
        })
    } else {
        Ffn::Dense(base.ffn(meta.size("feed_forward_length")?))
    };
    let recurrent = recurrent_blocks(meta, base.layers)?;
    let layers = recurrent.iter().map(|&r| layer(&base, &source, r.then_some(&delta), &ffn)).collect();
    let mut names = Names::gguf();
    names.overrides = &[(Role::FfnNorm, "post_attention_norm.weight")];
    let mut draft = Draft::new(base.spec(source.weight, layers), names);
    let extra = meta.maybe_size("nextn_predict_layers")?.unwrap_or(0);
    draft.carried = (base.layers..base.layers.saturating_add(extra)).map(|i| format!("blk.{i}.")).collect();
    Ok(draft)
}

/// An explicit list wins over the interval.
fn recurrent_blocks(meta: &Metadata, layers: u32) -> Result<Vec<bool>> {
    if let Some(mut flags) = meta.maybe_flags("attention.recurrent_layers")? {
        if flags.len() < layers as usize {
            let why = format!("{} has {} entries for {layers} layers", meta.key("attention.recurrent_layers"), flags.len());
            return Err(meta.malformed(why));
        }
        flags.truncate(layers as usize);
        return Ok(flags);
    }
    let interval = meta.maybe_size("full_attention_interval")?.unwrap_or(4);
    if interval == 0 {
        return Err(meta.malformed(format!("{} is 0", meta.key("full_attention_interval"))));
    }
    Ok((0..layers).map(|i| (i + 1) % interval != 0).collect())
}
