//! What `config.json` says that all families share. Defaults for missing keys are those of the configuration classes of
//! `transformers`, given by each family.

use super::config::Config;
use super::draft::{Base, head_width, layer_count, malformed, unsupported};
use crate::error::Result;
use crate::source::Checkpoint;
use forebay_format::model::{Rope, RopePairing, RopeScaling};
use serde_json::Value;
use std::f64::consts::PI;

/// Defaults of a family's configuration class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults {
    /// `num_key_value_heads` when the key is missing; `None`: as many as heads.
    pub kv_heads: Option<u32>,
    /// `head_dim` when the key is missing; `None`: hidden size divided by heads.
    pub head_dim: Option<u32>,
    /// `max_position_embeddings`.
    pub context: u32,
    /// `rms_norm_eps`.
    pub eps: f64,
    /// `rope_theta`.
    pub theta: f64,
    /// `partial_rotary_factor`.
    pub partial: f64,
}

/// The shared sizes.
pub(super) fn base(config: &Config, defaults: &Defaults) -> Result<Base> {
    let hidden = config.size("hidden_size")?;
    let heads = config.size("num_attention_heads")?;
    let layers = layer_count(&config.file, &config.name("num_hidden_layers"), config.size("num_hidden_layers")?)?;
    let stated = if config.has("head_dim") { config.maybe_size("head_dim")? } else { defaults.head_dim };
    let head_dim = head_width(&config.file, stated, hidden, heads)?;
    let kv_heads = if config.has("num_key_value_heads") { config.maybe_size("num_key_value_heads")? } else { defaults.kv_heads };
    let stated_context = config.size_or("max_position_embeddings", defaults.context)?;
    let (rope, extended) = rope(config, head_dim, stated_context, defaults)?;
    Ok(Base {
        hidden,
        vocab: config.size("vocab_size")?,
        context: stated_context.max(extended),
        layers,
        heads,
        kv_heads: kv_heads.unwrap_or(heads),
        head_dim,
        eps: config.maybe_number("rms_norm_eps")?.unwrap_or(defaults.eps) as f32,
        activation: config.activation()?,
        rope,
        tied_head: tied(config)?,
    })
}

/// The head is said to be tied, in the text section or (multimodal classes) for the whole model.
fn tied(config: &Config) -> Result<bool> {
    let inner = config.flag_or("tie_word_embeddings", false)?;
    let outer = match config.outer.get("tie_word_embeddings") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(b)) => *b,
        Some(_) => return Err(config.malformed("tie_word_embeddings is neither true nor false")),
    };
    Ok(inner || outer)
}

/// The beginning of the text model's tensor names: the first of `candidates` that has an embedding.
pub(super) fn prefix<'a>(checkpoint: &Checkpoint, candidates: &[&'a str]) -> &'a str {
    let has = |p: &&&str| checkpoint.by_name.contains_key(&format!("{p}embed_tokens.weight"));
    candidates.iter().find(has).or(candidates.first()).copied().unwrap_or("model.")
}

/// Rotary encoding in both spellings: `rope_parameters` (transformers 5) and `rope_theta` with `rope_scaling`. Also returns the
/// context that the scaling extends to, or 0.
fn rope(config: &Config, head_dim: u32, context: u32, defaults: &Defaults) -> Result<(Rope, u32)> {
    let new = config.maybe_section("rope_parameters")?;
    let old = config.maybe_section("rope_scaling")?;
    if let (Some(new), Some(old)) = (&new, &old)
        && !new.same(old)
    {
        return Err(config.malformed("rope_parameters and rope_scaling are both there and differ"));
    }
    let params = new.or(old);
    let inside = |key: &str| params.as_ref().map_or(Ok(None), |p| p.maybe_number(key));
    let one = |key: &str, default: f64| match (inside(key)?, config.maybe_number(key)?) {
        (Some(a), Some(b)) if a != b => Err(config.malformed(format!("{key} is given twice, as {a} and as {b}"))),
        (a, b) => Ok(a.or(b).unwrap_or(default)),
    };
    let theta = one("rope_theta", defaults.theta)?;
    let partial = one("partial_rotary_factor", defaults.partial)?;
    if partial != 1.0 && defaults.partial == 1.0 {
        return Err(unsupported(format!("partial_rotary_factor = {partial}"), "models of this family rotate whole heads"));
    }
    if !(partial > 0.0 && partial <= 1.0) {
        return Err(config.malformed(format!("partial_rotary_factor is {partial}; it must be above 0 and at most 1")));
    }
    let dim = (f64::from(head_dim) * partial) as u32;
    let (scaling, extended) = match &params {
        None => (RopeScaling::None, 0),
        Some(p) => scaling(p, theta, dim, context)?,
    };
    Ok((Rope { theta, dim, pairing: RopePairing::Halves, scaling }, extended))
}

fn scaling(p: &Config, theta: f64, dim: u32, context: u32) -> Result<(RopeScaling, u32)> {
    if let Some(list) = ["full_attention", "sliding_attention"].iter().find(|k| p.has(k)) {
        return Err(unsupported(format!("rotary encoding by kind of layer ({list})"), "no supported family has it"));
    }
    let kind = match p.maybe_text("rope_type")? {
        Some(kind) => kind,
        None => p.maybe_text("type")?.unwrap_or("default"),
    };
    match kind {
        "default" => Ok((RopeScaling::None, 0)),
        "linear" => Ok((RopeScaling::Linear { factor: positive(p, "factor")? as f32 }, 0)),
        "llama3" => Ok((llama3(p, theta, dim)?, 0)),
        "yarn" => yarn(p, context),
        other => Err(unsupported(format!("rope type {other:?}"), "known are default, linear, llama3 and yarn")),
    }
}

fn positive(p: &Config, key: &str) -> Result<f64> {
    let value = p.maybe_number(key)?.ok_or_else(|| p.malformed(format!("{} is missing", p.name(key))))?;
    if value > 0.0 && value.is_finite() {
        return Ok(value);
    }
    Err(p.malformed(format!("{} is {value}; it must be above 0", p.name(key))))
}

/// The "llama3" rule, in f32 step by step as `transformers` computes it: long waves are slowed by `factor`, short ones kept,
/// those between blended.
fn llama3(p: &Config, theta: f64, dim: u32) -> Result<RopeScaling> {
    let factor = positive(p, "factor")? as f32;
    let low = positive(p, "low_freq_factor")?;
    let high = positive(p, "high_freq_factor")?;
    let original = positive(p, "original_max_position_embeddings")?;
    if high <= low {
        return Err(p.malformed(format!("{} is {high}; it must be above low_freq_factor ({low})", p.name("high_freq_factor"))));
    }
    let (longest, shortest) = ((original / low) as f32, (original / high) as f32);
    let factors = (0..dim / 2).map(|i| {
        let exponent = (2 * i) as f32 / dim as f32;
        let frequency = 1.0f32 / theta.powf(f64::from(exponent)) as f32;
        let wave = (2.0 * PI) as f32 / frequency;
        let scaled = if wave > longest { frequency / factor } else { frequency };
        let between = wave >= shortest && wave <= longest;
        if !between {
            return frequency / scaled;
        }
        let smooth = (original as f32 / wave - low as f32) / (high - low) as f32;
        frequency / ((1.0 - smooth) * scaled / factor + smooth * scaled)
    });
    Ok(RopeScaling::Factors { factors: factors.collect() })
}

fn yarn(p: &Config, context: u32) -> Result<(RopeScaling, u32)> {
    let original_context = p.size_or("original_max_position_embeddings", context)?;
    if original_context == 0 {
        return Err(p.malformed(format!("{} is 0", p.name("original_max_position_embeddings"))));
    }
    let factor = match p.has("factor") {
        true => positive(p, "factor")?,
        false => f64::from(context) / f64::from(original_context),
    };
    // Peng et al. 2023, section 3.4: attention temperature as a factor of cosines and sines.
    let mscale = |m: f64| if factor > 1.0 { 0.1 * m * factor.ln() + 1.0 } else { 1.0 };
    let attention_factor = match (p.maybe_number("attention_factor")?, p.maybe_number("mscale")?, p.maybe_number("mscale_all_dim")?) {
        (Some(stated), _, _) => stated,
        (None, Some(a), Some(b)) if a != 0.0 && b != 0.0 => mscale(a) / mscale(b),
        _ => mscale(1.0),
    };
    let scaling = RopeScaling::Yarn {
        factor: factor as f32,
        original_context,
        beta_fast: p.maybe_number("beta_fast")?.unwrap_or(32.0) as f32,
        beta_slow: p.maybe_number("beta_slow")?.unwrap_or(1.0) as f32,
        attention_factor: attention_factor as f32,
        truncate: p.flag_or("truncate", true)?,
    };
    Ok((scaling, (f64::from(original_context) * factor).min(f64::from(u32::MAX)) as u32))
}

/// Sliding windows of the families that have `use_sliding_window`, one a layer. With `from_layer` the first layers (below
/// `max_window_layers`) attend to everything; `layer_types`, where given, decides.
pub(super) fn switched_windows(config: &Config, layers: u32, from_layer: Option<u32>) -> Result<Vec<Option<u32>>> {
    let types = config.layer_types(layers)?;
    if let Some(other) = types.iter().flatten().find(|t| !matches!(**t, "full_attention" | "sliding_attention")) {
        return Err(unsupported(format!("layer type {other:?}"), "known are full_attention and sliding_attention"));
    }
    let on = config.flag_or("use_sliding_window", false)?;
    let window = if on { Some(config.size_or("sliding_window", 4096)?) } else { None };
    let first = match from_layer {
        Some(default) => config.size_or("max_window_layers", default)?,
        None => 0,
    };
    (0..layers)
        .map(|i| match types.as_ref().and_then(|t| t.get(i as usize)) {
            Some(&"sliding_attention") if window.is_none() => {
                Err(malformed(&config.file, format!("layer_types makes layer {i} a sliding one, but use_sliding_window is not set")))
            }
            Some(&"full_attention") => Ok(None),
            Some(_) => Ok(window),
            None => Ok(window.filter(|_| i >= first)),
        })
        .collect()
}
