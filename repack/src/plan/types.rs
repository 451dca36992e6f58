//! Which type a tensor is stored in.

use crate::encode;
use crate::error::{Error, Result};
use crate::source::{Dtype, Tensor};
use forebay_format::QuantType;
use forebay_format::model::Role;

/// What happens to the weights on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantize {
    /// Bytes move unchanged.
    Keep,
    /// Large float matrices are encoded; everything else moves unchanged.
    To(QuantType),
}

impl Quantize {
    /// Spelling of the command line and the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Quantize::Keep => "keep",
            Quantize::To(q) => q.name(),
        }
    }

    /// The choice with this spelling.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "keep" => Some(Quantize::Keep),
            _ => QuantType::from_name(name).filter(|q| encode::ENCODABLE.contains(q)).map(Quantize::To),
        }
    }

    /// Type in the pack of a tensor with rows of `cols` values; `large` says that it is one of the matrices that quantisation is for.
    pub fn stored(self, tensor: &Tensor, large: bool, cols: u32) -> Result<QuantType> {
        let from = weight_type(tensor)?;
        match self {
            Quantize::To(wanted) if large && !from.is_float() && from != wanted => Err(Error::Unsupported {
                what: format!("--quantize {} of {}, which is already {}", wanted.name(), tensor.name, from.name()),
                hint: "quantised weights are never encoded again; use --quantize keep, or start from a bf16, f16 or f32 checkpoint".into(),
            }),
            Quantize::To(wanted) if large && from != wanted => Ok(encode::fallback(wanted, cols as usize)),
            _ => Ok(from),
        }
    }
}

/// The element type of a tensor that a pack can hold.
pub fn weight_type(tensor: &Tensor) -> Result<QuantType> {
    match tensor.dtype {
        Dtype::Weight(q) => Ok(q),
        Dtype::Other { name, .. } => Err(Error::Unsupported {
            what: format!("element type {name} of tensor {}", tensor.name),
            hint: "convert a checkpoint in one of the types a pack holds (see SPEC.md, quant types)".into(),
        }),
    }
}

/// Matrices that `--quantize` is for. Routers, norms, biases, the delta net's small projections and its convolution stay as they are:
/// they are a sliver of the bytes and errors in them are multiplied.
pub fn is_large(role: Role) -> bool {
    match role {
        Role::Embedding | Role::Head | Role::Q | Role::K | Role::V | Role::O => true,
        Role::DeltaQkv | Role::DeltaZ | Role::DeltaOut => true,
        Role::FfnGate | Role::FfnUp | Role::FfnDown | Role::SharedGate | Role::SharedUp | Role::SharedDown => true,
        Role::FinalNorm | Role::MixerNorm | Role::FfnNorm | Role::QNorm | Role::KNorm | Role::DeltaNorm => false,
        Role::QBias | Role::KBias | Role::VBias | Role::OBias => false,
        Role::DeltaB | Role::DeltaA | Role::DeltaConv | Role::DeltaDecay | Role::DeltaDtBias => false,
        Role::Router | Role::SharedExpertGate => false,
    }
}
