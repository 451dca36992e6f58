//! Which type a tensor is stored in.

use crate::encode::{self, WeightClass};
use crate::error::{Error, Result};
use crate::source::{Dtype, Tensor};
use forebay_format::QuantType;

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

    /// Type in the pack of a tensor with rows of `cols` values.
    pub fn stored(self, tensor: &Tensor, class: WeightClass, cols: u32) -> Result<QuantType> {
        let from = weight_type(tensor)?;
        let Quantize::To(wanted) = self else { return Ok(from) };
        match encode::target_type(wanted, class, cols as usize) {
            Some(to) if to != from && !from.is_float() => Err(Error::Unsupported {
                what: format!("--quantize {} of {}, which is already {}", wanted.name(), tensor.name, from.name()),
                hint: "quantised weights are never encoded again; use --quantize keep, or start from a bf16, f16 or f32 checkpoint".into(),
            }),
            Some(to) => Ok(to),
            None => Ok(from),
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
