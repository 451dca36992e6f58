//! OPT (Zhang et al. 2022): learned positions, LayerNorm, biases, a feed-forward network without a gate, ReLU. Defaults are those of `OPTConfig`.

use super::Arch;
use super::config::Config;
use super::draft::{Draft, head_width, layer_count};
use super::names::Names;
use crate::error::Result;
use crate::source::Checkpoint;
use forebay_format::model::{
    Activation, Attention, Ffn, GatedFfn, LayerSpec, LearnedPositions, Mixer, ModelSpec, Norm, NormKind, NormOrder, NormWeight, QkNorm,
    Role,
};
use serde_json::Value;

pub(super) const OPT: Arch = Arch { model_types: &["opt"], classes: &["OPTForCausalLM"], gguf: &[], from_hf, from_gguf: None };

/// Epsilon of `torch.nn.LayerNorm`, which no key changes.
const EPS: f32 = 1e-5;
/// The table's first rows belong to no position (`OPTLearnedPositionalEmbedding.offset`).
const OFFSET: u32 = 2;

const NAMES: &[(Role, &str)] = &[
    (Role::MixerNorm, "self_attn_layer_norm.weight"),
    (Role::MixerNormBias, "self_attn_layer_norm.bias"),
    (Role::FfnNorm, "final_layer_norm.weight"),
    (Role::FfnNormBias, "final_layer_norm.bias"),
    (Role::O, "self_attn.out_proj.weight"),
    (Role::OBias, "self_attn.out_proj.bias"),
    (Role::FfnUp, "fc1.weight"),
    (Role::FfnUpBias, "fc1.bias"),
    (Role::FfnDown, "fc2.weight"),
    (Role::FfnDownBias, "fc2.bias"),
];

/// Names outside the layers in checkpoints of `OPTForCausalLM`.
const GLOBALS: &[(Role, &str)] = &[
    (Role::FinalNormBias, "model.decoder.final_layer_norm.bias"),
    (Role::Positions, "model.decoder.embed_positions.weight"),
    (Role::ProjectIn, "model.decoder.project_in.weight"),
    (Role::ProjectOut, "model.decoder.project_out.weight"),
];

/// The same in the checkpoints as first released, which were saved from the model without its head.
const BARE_GLOBALS: &[(Role, &str)] = &[
    (Role::FinalNormBias, "decoder.final_layer_norm.bias"),
    (Role::Positions, "decoder.embed_positions.weight"),
    (Role::ProjectIn, "decoder.project_in.weight"),
    (Role::ProjectOut, "decoder.project_out.weight"),
];

fn names(checkpoint: &Checkpoint) -> Names {
    let bare = checkpoint.by_name.contains_key("decoder.embed_tokens.weight");
    let (prefix, globals) = if bare { ("decoder.", BARE_GLOBALS) } else { ("model.decoder.", GLOBALS) };
    let mut names = Names::hf(prefix);
    names.final_norm = format!("{prefix}final_layer_norm.weight");
    (names.overrides, names.globals) = (NAMES, globals);
    names
}

fn from_hf(config: &Config, checkpoint: &Checkpoint) -> Result<Draft> {
    config.refuse_unless("enable_bias", &Value::Bool(true))?;
    config.refuse_unless("layer_norm_elementwise_affine", &Value::Bool(true))?;
    let hidden = config.size_or("hidden_size", 768)?;
    let heads = config.size_or("num_attention_heads", 12)?;
    let head_dim = head_width(&config.file, None, hidden, heads)?;
    let layers = layer_count(&config.file, &config.name("num_hidden_layers"), config.size_or("num_hidden_layers", 12)?)?;
    let context = config.size_or("max_position_embeddings", 2048)?;
    let pre = config.flag_or("do_layer_norm_before", true)?;
    let norm = Norm { eps: EPS, weight: NormWeight::Plain, kind: NormKind::Layer };
    // Models with norms behind have none before the head; an early conversion removed it elsewhere too.
    let has_final = pre && !config.flag_or("_remove_final_layer_norm", false)?;
    let final_norm = Norm { kind: if has_final { NormKind::Layer } else { NormKind::None }, ..norm };
    let attention = Attention {
        heads,
        kv_heads: heads,
        head_dim,
        scale: f64::from(head_dim).sqrt().recip() as f32,
        qkv_bias: true,
        out_bias: true,
        qk_norm: QkNorm::None,
        output_gate: false,
        rope: None,
        sliding_window: None,
    };
    let inner = config.size_or("ffn_dim", 3072)?;
    let ffn = GatedFfn { inner, activation: activation(config)?, ungated: true, bias: true };
    let layer = LayerSpec {
        mixer_norm: norm,
        mixer: Mixer::Attention(attention),
        ffn_norm: norm,
        ffn: Ffn::Dense(ffn),
        norm_order: if pre { NormOrder::Pre } else { NormOrder::Post },
    };
    let width = config.maybe_size("word_embed_proj_dim")?.filter(|&width| width != hidden);
    let spec = ModelSpec {
        hidden,
        vocab: config.size_or("vocab_size", 50_272)?,
        context,
        tied_head: config.flag_or("tie_word_embeddings", true)?,
        embedding_width: width,
        positions: Some(LearnedPositions { rows: context.saturating_add(OFFSET), offset: OFFSET }),
        final_norm,
        layers: vec![layer; layers as usize],
    };
    Ok(Draft::new(spec, names(checkpoint)))
}

fn activation(config: &Config) -> Result<Activation> {
    match config.maybe_text("activation_function")? {
        None => Ok(Activation::Relu),
        Some(name) => config.activation_named(name),
    }
}
