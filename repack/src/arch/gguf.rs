//! What the metadata of a GGUF file says that all families share.

use super::draft::{Base, head_width, layer_count, malformed, unsupported};
use super::metadata::Metadata;
use crate::error::{Error, Result};
use crate::source::{Checkpoint, Dtype, GgufValue, Reader};
use forebay_format::QuantType;
use forebay_format::model::{Activation, Rope, RopePairing, RopeScaling};

/// Divisors of the rotary frequencies, one a pair.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

/// The shared sizes. The last `nextn_predict_layers` blocks are multi-token prediction and not counted.
pub(super) fn base(meta: &Metadata, checkpoint: &Checkpoint, pairing: RopePairing) -> Result<Base> {
    meta.refuse_unknown_mechanisms()?;
    let hidden = meta.size("embedding_length")?;
    let heads = meta.size("attention.head_count")?;
    let blocks = layer_count(&meta.file, &meta.key("block_count"), meta.size("block_count")?)?;
    let extra = meta.maybe_size("nextn_predict_layers")?.unwrap_or(0);
    let layers = blocks
        .checked_sub(extra)
        .filter(|&n| n > 0)
        .ok_or_else(|| meta.malformed(format!("{} is {extra}, but there are only {blocks} blocks", meta.key("nextn_predict_layers"))))?;
    let head_dim = head_width(&meta.file, meta.maybe_size("attention.key_length")?, hidden, heads)?;
    let value_dim = meta.maybe_size("attention.value_length")?.unwrap_or(head_dim);
    if value_dim != head_dim {
        return Err(unsupported(
            format!("{} {value_dim} beside key_length {head_dim}", meta.key("attention.value_length")),
            "they must be equal",
        ));
    }
    let stated_context = meta.size("context_length")?;
    let (rope, extended) = rope(meta, checkpoint, head_dim, stated_context, pairing)?;
    let eps = meta.maybe_number("attention.layer_norm_rms_epsilon")?;
    let eps = eps.ok_or_else(|| meta.malformed(format!("{} is missing", meta.key("attention.layer_norm_rms_epsilon"))))?;
    Ok(Base {
        hidden,
        vocab: vocab(meta, checkpoint)?,
        context: stated_context.max(extended),
        layers,
        heads,
        kv_heads: meta.maybe_size("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        eps: eps as f32,
        activation: Activation::Silu, // GGUF has no key for it; these architectures imply it
        rope,
        tied_head: !checkpoint.by_name.contains_key("output.weight"),
    })
}

/// Rows of the embedding. A stated `vocab_size` must agree, and the tokens must fit.
fn vocab(meta: &Metadata, checkpoint: &Checkpoint) -> Result<u32> {
    let embedding = checkpoint.tensor("token_embd.weight").ok_or_else(|| meta.malformed("tensor token_embd.weight is missing"))?;
    let rows = embedding.rows();
    if let Some(stated) = meta.maybe_size("vocab_size")?
        && u64::from(stated) != rows
    {
        return Err(meta.malformed(format!("{} is {stated}, but token_embd.weight has {rows} rows", meta.key("vocab_size"))));
    }
    if let Some(GgufValue::Array(tokens)) = meta.global("tokenizer.ggml.tokens")
        && tokens.len() as u64 > rows
    {
        return Err(meta.malformed(format!("the vocabulary has {} tokens, but token_embd.weight has {rows} rows", tokens.len())));
    }
    u32::try_from(rows).map_err(|_| meta.malformed(format!("token_embd.weight has {rows} rows, too many")))
}

fn rope(meta: &Metadata, checkpoint: &Checkpoint, head_dim: u32, context: u32, pairing: RopePairing) -> Result<(Rope, u32)> {
    let theta = meta.maybe_number("rope.freq_base")?.unwrap_or(10_000.0);
    let dim = meta.maybe_size("rope.dimension_count")?.unwrap_or(head_dim);
    let (stated, extended) = scaling(meta, context)?;
    let scaling = match (factors(checkpoint, dim)?, stated) {
        (None, stated) => stated,
        (Some(factors), RopeScaling::None) => RopeScaling::Factors { factors },
        (Some(_), _) => return Err(unsupported(format!("{ROPE_FREQS} together with rope.scaling"), "no supported model has both")),
    };
    Ok((Rope { theta, dim, pairing, scaling }, extended))
}

fn scaling(meta: &Metadata, context: u32) -> Result<(RopeScaling, u32)> {
    let kind = meta.maybe_text(&meta.key("rope.scaling.type"))?;
    let factor = match meta.maybe_number("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => meta.maybe_number("rope.scale_linear")?, // older spelling
    };
    let needed = || factor.ok_or_else(|| meta.malformed(format!("{} is missing", meta.key("rope.scaling.factor"))));
    match kind {
        Some("none") => Ok((RopeScaling::None, 0)),
        None => match factor {
            None | Some(1.0) => Ok((RopeScaling::None, 0)),
            Some(factor) => Ok((RopeScaling::Linear { factor: factor as f32 }, 0)),
        },
        Some("linear") => Ok((RopeScaling::Linear { factor: needed()? as f32 }, 0)),
        Some("yarn") => {
            let factor = needed()?;
            let original = meta.maybe_size("rope.scaling.original_context_length")?.unwrap_or(context);
            let or = |key: &str, default: f64| Ok::<_, Error>(meta.maybe_number(key)?.unwrap_or(default) as f32);
            let temperature = if factor > 1.0 { 0.1 * factor.ln() + 1.0 } else { 1.0 };
            let stated = meta.maybe_number("rope.scaling.attn_factor")?.unwrap_or(1.0);
            let yarn = RopeScaling::Yarn {
                factor: factor as f32,
                original_context: original,
                beta_fast: or("rope.scaling.yarn_beta_fast", 32.0)?,
                beta_slow: or("rope.scaling.yarn_beta_slow", 1.0)?,
                attention_factor: (stated * temperature) as f32,
                truncate: true,
            };
            Ok((yarn, (f64::from(original) * factor).min(f64::from(u32::MAX)) as u32))
        }
        Some(other) => Err(unsupported(format!("rope scaling {other:?}"), "known are none, linear and yarn")),
    }
}

/// The values of [`ROPE_FREQS`], if the file has it: a few hundred bytes that belong into the spec.
fn factors(checkpoint: &Checkpoint, dim: u32) -> Result<Option<Vec<f32>>> {
    let Some(tensor) = checkpoint.tensor(ROPE_FREQS) else { return Ok(None) };
    let Some(file) = checkpoint.files.get(tensor.file) else { return Err(malformed(&checkpoint.path, "a tensor has no file")) };
    let pairs = u64::from(dim / 2);
    if tensor.dtype != Dtype::Weight(QuantType::F32) || tensor.shape != [pairs] {
        return Err(malformed(&file.path, format!("{ROPE_FREQS} is {:?} {:?}; {pairs} F32 values are needed", tensor.dtype, tensor.shape)));
    }
    if dim > 1 << 16 {
        return Err(malformed(&file.path, format!("{ROPE_FREQS} has {pairs} values, too many")));
    }
    if tensor.range.end > file.fingerprint.bytes {
        return Err(malformed(
            &file.path,
            format!("{ROPE_FREQS} is not there: the first {} bytes of the file are needed", tensor.range.end),
        ));
    }
    let mut bytes = vec![0u8; dim as usize / 2 * 4];
    Reader::open(checkpoint)?.read_exact_at(tensor, 0, &mut bytes)?;
    let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    Ok(Some(values.collect()))
}

/// A flag that says how an architecture works must say what the architecture implies.
pub(super) fn implied_flag(meta: &Metadata, key: &str, implied: bool) -> Result<bool> {
    match meta.maybe_flag(key)? {
        Some(stated) if stated != implied => {
            Err(unsupported(format!("{} = {stated}", meta.key(key)), format!("models of this architecture have {implied}")))
        }
        _ => Ok(implied),
    }
}
