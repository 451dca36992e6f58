//! What a family makes of a source before any tensor is looked at, and the sizes that nearly all families share.

use super::names::Names;
use crate::error::{Error, Result};
use forebay_format::model::{
    Activation, Attention, Ffn, GatedFfn, LayerSpec, Mixer, ModelSpec, Norm, NormOrder, NormWeight, QkNorm, Role, Rope,
};
use forebay_format::validate::MAX_LAYERS;
use std::path::Path;

use crate::source::Checkpoint;

/// A spec, and where its tensors are.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    /// Mechanisms and sizes. `tied_head` is what the source *says*.
    pub spec: ModelSpec,
    /// Names of the tensors.
    pub names: Names,
    /// Beginnings of the names of tensors to carry.
    pub carried: Vec<String>,
    /// Beginnings of the names of tensors that a text model does not need, and what they are.
    pub unused: Vec<(&'static str, &'static str)>,
    /// Lines for the user.
    pub remarks: Vec<String>,
}

impl Draft {
    /// A draft with nothing to carry or leave out.
    pub fn new(spec: ModelSpec, names: Names) -> Self {
        Draft { spec, names, carried: Vec::new(), unused: Vec::new(), remarks: Vec::new() }
    }
}

/// Sizes that every decoder with grouped attention has.
#[derive(Clone, Debug)]
pub(super) struct Base {
    pub hidden: u32,
    pub vocab: u32,
    pub context: u32,
    /// Between 1 and [`MAX_LAYERS`], so that lists may be allocated.
    pub layers: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub eps: f32,
    pub activation: Activation,
    pub rope: Rope,
    pub tied_head: bool,
}

impl Base {
    /// A norm of this model.
    pub fn norm(&self, weight: NormWeight) -> Norm {
        Norm::rms(self.eps, weight)
    }

    /// Attention without biases, norms, gates or windows, scaled by `1 / sqrt(head_dim)`.
    pub fn attention(&self) -> Attention {
        Attention {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: f64::from(self.head_dim).sqrt().recip() as f32,
            qkv_bias: false,
            out_bias: false,
            qk_norm: QkNorm::None,
            output_gate: false,
            rope: Some(self.rope.clone()),
            sliding_window: None,
        }
    }

    /// A feed-forward network of this model.
    pub fn ffn(&self, inner: u32) -> GatedFfn {
        GatedFfn::new(inner, self.activation)
    }

    /// A layer of this model.
    pub fn layer(&self, weight: NormWeight, mixer: Mixer, ffn: Ffn) -> LayerSpec {
        let norm = self.norm(weight);
        LayerSpec { mixer_norm: norm, mixer, ffn_norm: norm, ffn, norm_order: NormOrder::Pre }
    }

    /// A model of these layers.
    pub fn spec(&self, weight: NormWeight, layers: Vec<LayerSpec>) -> ModelSpec {
        ModelSpec {
            hidden: self.hidden,
            vocab: self.vocab,
            context: self.context,
            tied_head: self.tied_head,
            embedding_width: None,
            positions: None,
            final_norm: self.norm(weight),
            layers,
        }
    }
}

/// Sets the bias flag from the tensors that layer `layer` has.
pub(super) fn set_ffn_bias(ffn: &mut GatedFfn, checkpoint: &Checkpoint, names: &Names, layer: usize) {
    ffn.bias = names.role(layer, Role::FfnDownBias).is_some_and(|name| checkpoint.by_name.contains_key(&name));
}

/// Sets the bias flags from the tensors that layer `layer` has.
pub(super) fn set_biases(attention: &mut Attention, checkpoint: &Checkpoint, names: &Names, layer: usize) {
    let has = |role| names.role(layer, role).is_some_and(|name| checkpoint.by_name.contains_key(&name));
    attention.qkv_bias = has(Role::QBias);
    attention.out_bias = has(Role::OBias);
}

/// The number of layers, small enough to allocate lists of them.
pub(super) fn layer_count(file: &Path, name: &str, layers: u32) -> Result<u32> {
    if layers == 0 || layers > MAX_LAYERS {
        return Err(malformed(file, format!("{name} is {layers}; it must be between 1 and {MAX_LAYERS}")));
    }
    Ok(layers)
}

/// `hidden / heads` where the source does not state the width of a head.
pub(super) fn head_width(file: &Path, stated: Option<u32>, hidden: u32, heads: u32) -> Result<u32> {
    match stated {
        Some(width) => Ok(width),
        None if heads == 0 => Err(malformed(file, "the number of attention heads is 0")),
        None if !hidden.is_multiple_of(heads) => {
            let why = format!("no head width is given and the hidden size {hidden} is not a multiple of the {heads} attention heads");
            Err(malformed(file, why))
        }
        None => Ok(hidden / heads),
    }
}

/// An error about a file's content.
pub(super) fn malformed(file: &Path, why: impl Into<String>) -> Error {
    Error::Malformed { file: file.to_path_buf(), why: why.into() }
}

/// An error about something this program does not support.
pub(super) fn unsupported(what: impl Into<String>, hint: impl Into<String>) -> Error {
    Error::Unsupported { what: what.into(), hint: hint.into() }
}
