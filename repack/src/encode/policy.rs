//! Which tensors are quantised, and to what.
//!
//! | wanted | head, tied embedding | V, delta-net q/k/v and down in the sensitive layers | other attention, embedding | gate, up, other down | rest |
//! |---|---|---|---|---|---|
//! | `q4_k` | `q6_k` | `q6_k` | `q4_k` | `q4_k` | source |
//! | `q4_0` | `q6_k` | `q4_0` | `q4_0` | `q4_0` | source |
//! | `mxfp4` | `q8_0` | `q8_0`, down `mxfp4` | `q8_0` | `mxfp4` | source |
//! | others | wanted | wanted | wanted | wanted | source |
//!
//! "Rest" is everything small: norms, biases, routers, convolutions, decays, scalar gates. Together they are well under 1% of a model, and
//! an error in them reaches every token. "Sensitive layers" are the first eighth, the last eighth and every third layer between: the
//! mix llama.cpp calls Q4_K_M. The choice depends on shapes and places only, never on values.

use forebay_format::QuantType;
use forebay_format::model::Role;

/// What a matrix is used for, as far as the choice of its type goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightClass {
    /// Anything that stays as it is.
    Small,
    /// Token embedding; `tied` if it is the head too.
    Embedding {
        /// The head reuses it.
        tied: bool,
    },
    /// Output head.
    Head,
    /// Values of attention, or the fused q, k and v of a delta net.
    Value {
        /// The layer is one of the sensitive ones, see [`sensitive_layer`].
        sensitive: bool,
    },
    /// Any other matrix of a mixer.
    Mixer,
    /// Gate or up projection: dense, shared or of an expert.
    GateUp,
    /// Down projection: dense, shared or of an expert.
    Down {
        /// The layer is one of the sensitive ones, see [`sensitive_layer`].
        sensitive: bool,
    },
}

impl WeightClass {
    /// Class of a trunk tensor of `layer` (any number for tensors outside the layers). Matrices of routed experts have no role: use
    /// [`WeightClass::GateUp`] and [`WeightClass::down`].
    pub fn of(role: Role, layer: usize, layers: usize, tied_head: bool) -> Self {
        match role {
            Role::Embedding => WeightClass::Embedding { tied: tied_head },
            Role::Head => WeightClass::Head,
            Role::V | Role::DeltaQkv => WeightClass::Value { sensitive: sensitive_layer(layer, layers) },
            Role::Q | Role::K | Role::O | Role::DeltaZ | Role::DeltaOut => WeightClass::Mixer,
            Role::FfnGate | Role::FfnUp | Role::SharedGate | Role::SharedUp => WeightClass::GateUp,
            Role::FfnDown | Role::SharedDown => WeightClass::down(layer, layers),
            // DeltaB and DeltaA are matrices, but of a row per head only; their errors go through an exponential.
            Role::ProjectIn | Role::ProjectOut => WeightClass::Mixer,
            // Positions are looked up, one row a token; the plan chooses the type of a sketch.
            Role::Positions
            | Role::FinalNorm
            | Role::FinalNormBias
            | Role::MixerNorm
            | Role::MixerNormBias
            | Role::FfnNorm
            | Role::FfnNormBias
            | Role::FfnGateBias
            | Role::FfnUpBias
            | Role::FfnDownBias
            | Role::QBias
            | Role::KBias
            | Role::VBias
            | Role::OBias
            | Role::QNorm
            | Role::KNorm
            | Role::DeltaB
            | Role::DeltaA
            | Role::DeltaConv
            | Role::DeltaDecay
            | Role::DeltaDtBias
            | Role::DeltaNorm
            | Role::NeuronSketch
            | Role::Router
            | Role::SharedExpertGate => WeightClass::Small,
        }
    }

    /// Class of a down projection of `layer`.
    pub fn down(layer: usize, layers: usize) -> Self {
        WeightClass::Down { sensitive: sensitive_layer(layer, layers) }
    }
}

/// The first eighth of the layers, the last eighth, and every third layer between.
pub fn sensitive_layer(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= (7 * layers) / 8 || (layer - eighth) % 3 == 2
}

/// Type of a matrix with rows of `cols` values under `--quantize wanted`; `None` leaves it as it is in the source.
pub fn target_type(wanted: QuantType, class: WeightClass, cols: usize) -> Option<QuantType> {
    use WeightClass::{Down, Embedding, GateUp, Head, Mixer, Small, Value};
    let is_head = matches!(class, Head | Embedding { tied: true });
    let chosen = match (wanted, class) {
        (_, Small) => return None,
        (QuantType::Q4_K | QuantType::Q4_0, _) if is_head => QuantType::Q6_K,
        (QuantType::Q4_K, Value { sensitive: true } | Down { sensitive: true }) => QuantType::Q6_K,
        (QuantType::MXFP4, Head | Embedding { .. } | Value { .. } | Mixer) => QuantType::Q8_0,
        (_, Head | Embedding { .. } | Value { .. } | Mixer | GateUp | Down { .. }) => wanted,
    };
    Some(fallback(chosen, cols))
}

/// The type actually used for rows of `cols` values when `wanted` cannot hold them: a 32-value type of more bits where rows are not a
/// multiple of 256 (`q4_k` becomes `q5_0`, `q6_k` becomes `q8_0`), `f16` where they are not a multiple of 32 either.
pub fn fallback(wanted: QuantType, cols: usize) -> QuantType {
    let smaller_blocks = match wanted {
        QuantType::Q2_K | QuantType::Q3_K | QuantType::Q4_K | QuantType::IQ4_XS => QuantType::Q5_0,
        QuantType::Q5_K | QuantType::Q6_K => QuantType::Q8_0,
        other => other,
    };
    [wanted, smaller_blocks].into_iter().find(|t| cols.is_multiple_of(t.block_len())).unwrap_or(QuantType::F16)
}

/// Type of a sketch of rows of `cols` values: two bits, which leave a model of twice the memory room for its neurons (`docs/LEARNED.md`); more where rows do not fit.
pub fn sketch_type(cols: usize) -> QuantType {
    [QuantType::Q2_K, QuantType::Q4_0].into_iter().find(|t| cols.is_multiple_of(t.block_len())).unwrap_or(QuantType::F16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::{ENCODABLE, ENCODERS};
    use QuantType::{F16, MXFP4, Q4_0, Q4_K, Q5_0, Q6_K, Q8_0};

    #[test]
    fn rows_that_do_not_fit_fall_back() {
        for (wanted, cols, expected) in [
            (Q4_K, 256, Q4_K),
            (Q4_K, 96, Q5_0),
            (Q4_K, 100, F16),
            (Q6_K, 512, Q6_K),
            (Q6_K, 96, Q8_0),
            (Q4_0, 96, Q4_0),
            (MXFP4, 48, F16),
            (QuantType::BF16, 7, QuantType::BF16),
        ] {
            assert_eq!(fallback(wanted, cols), expected, "{} with {cols} columns", wanted.name());
        }
    }

    #[test]
    fn small_tensors_stay_and_the_head_gets_more_bits() {
        for &wanted in ENCODABLE {
            assert_eq!(target_type(wanted, WeightClass::of(Role::Router, 0, 4, false), 256), None);
            assert_eq!(target_type(wanted, WeightClass::of(Role::FinalNorm, 0, 4, false), 256), None);
        }
        assert_eq!(target_type(Q4_K, WeightClass::of(Role::Head, 0, 4, false), 256), Some(Q6_K));
        assert_eq!(target_type(Q4_K, WeightClass::of(Role::Embedding, 0, 4, true), 256), Some(Q6_K));
        assert_eq!(target_type(Q4_K, WeightClass::of(Role::Embedding, 0, 4, false), 256), Some(Q4_K));
        assert_eq!(target_type(MXFP4, WeightClass::of(Role::Q, 0, 4, false), 256), Some(Q8_0));
        assert_eq!(target_type(MXFP4, WeightClass::GateUp, 256), Some(MXFP4));
    }

    #[test]
    fn sensitive_layers_of_a_16_layer_model() {
        let layers: Vec<usize> = (0..16).filter(|&l| sensitive_layer(l, 16)).collect();
        assert_eq!(layers, [0, 1, 4, 7, 10, 13, 14, 15]);
        assert!(sensitive_layer(0, 1), "the last eighth of one layer is that layer");
    }

    #[test]
    fn every_answer_can_be_encoded() {
        let classes = [
            WeightClass::Embedding { tied: false },
            WeightClass::Head,
            WeightClass::Value { sensitive: true },
            WeightClass::Mixer,
            WeightClass::GateUp,
            WeightClass::Down { sensitive: true },
        ];
        for (&wanted, class, cols) in
            ENCODABLE.iter().flat_map(|w| classes.iter().flat_map(move |&c| [(w, c, 256), (w, c, 96), (w, c, 17)]))
        {
            let chosen = target_type(wanted, class, cols).unwrap();
            assert!(ENCODERS.iter().any(|e| e.qtype == chosen), "{} for {class:?}", chosen.name());
            assert!(chosen.row_bytes(cols).is_some(), "{} cannot hold {cols} columns", chosen.name());
            let sketch = super::sketch_type(cols);
            assert!(ENCODERS.iter().any(|e| e.qtype == sketch) && sketch.row_bytes(cols).is_some(), "sketch of {cols} columns");
        }
    }
}
