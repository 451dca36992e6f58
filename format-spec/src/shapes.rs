//! Which tensors a spec needs, in execution order, and their shapes. Converters bind to this list; readers check a manifest against it.

use crate::error::FormatError;
use crate::model::{Attention, Ffn, GatedDelta, GatedFfn, LayerSpec, Mixer, ModelSpec, Norm, NormKind, QkNorm, Role, Routed};

/// A tensor that a spec needs: `rows` rows of `cols` values. Vectors have one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorShape {
    /// Purpose.
    pub role: Role,
    /// Rows.
    pub rows: u32,
    /// Values in a row.
    pub cols: u32,
}

impl ModelSpec {
    /// Tensors of the embedding run.
    pub fn embedding_tensors(&self) -> Vec<TensorShape> {
        let mut list = vec![shape(Role::Embedding, self.vocab, self.embedding_width())];
        if self.embedding_width.is_some() {
            list.push(shape(Role::ProjectIn, self.hidden, self.embedding_width()));
        }
        if let Some(p) = &self.positions {
            list.push(shape(Role::Positions, p.rows, self.hidden));
        }
        list
    }

    /// Tensors of the head run.
    pub fn head_tensors(&self) -> Vec<TensorShape> {
        let mut list = Vec::new();
        norm(&self.final_norm, self.hidden, [Role::FinalNorm, Role::FinalNormBias], &mut list);
        if self.embedding_width.is_some() {
            list.push(shape(Role::ProjectOut, self.embedding_width(), self.hidden));
        }
        if !self.tied_head {
            list.push(shape(Role::Head, self.vocab, self.embedding_width()));
        }
        list
    }

    /// Values in a row of the embedding and of the head.
    pub fn embedding_width(&self) -> u32 {
        self.embedding_width.unwrap_or(self.hidden)
    }
}

impl LayerSpec {
    /// Tensors of this layer's trunk run in execution order; `hidden` is the model's width. Fails only if a product of sizes overflows,
    /// which [`ModelSpec::validate`] rules out.
    pub fn tensors(&self, hidden: u32) -> Result<Vec<TensorShape>, FormatError> {
        let mut list = Vec::new();
        norm(&self.mixer_norm, hidden, [Role::MixerNorm, Role::MixerNormBias], &mut list);
        match &self.mixer {
            Mixer::Attention(a) => attention(a, hidden, &mut list)?,
            Mixer::GatedDelta(d) => gated_delta(d, hidden, &mut list)?,
        }
        norm(&self.ffn_norm, hidden, [Role::FfnNorm, Role::FfnNormBias], &mut list);
        match &self.ffn {
            Ffn::Dense(f) => dense(f, hidden, &mut list),
            Ffn::Routed(r) => routed(r, hidden, &mut list),
        }
        Ok(list)
    }

    /// As [`LayerSpec::tensors`] for a layer whose neurons are in groups: without the matrices that the groups hold, and with the sketch. It comes last, so that
    /// whoever does not want it can stop in front of it.
    pub fn tensors_beside_groups(&self, hidden: u32) -> Result<Vec<TensorShape>, FormatError> {
        let mut list = self.tensors(hidden)?;
        if let Ffn::Dense(f) = &self.ffn {
            list.retain(|t| !in_group(t.role));
            list.push(shape(Role::NeuronSketch, f.inner, hidden));
        }
        Ok(list)
    }
}

/// A matrix of a dense layer that neuron groups hold. Biases stay in the trunk run.
pub fn in_group(role: Role) -> bool {
    matches!(role, Role::FfnGate | Role::FfnUp | Role::FfnDown)
}

fn norm(n: &Norm, width: u32, [weight, bias]: [Role; 2], list: &mut Vec<TensorShape>) {
    match n.kind {
        NormKind::Rms => list.push(shape(weight, 1, width)),
        NormKind::Layer => list.extend([shape(weight, 1, width), shape(bias, 1, width)]),
        NormKind::None => {}
    }
}

fn dense(f: &GatedFfn, hidden: u32, list: &mut Vec<TensorShape>) {
    let gate = (Role::FfnGate, Role::FfnGateBias, f.inner, hidden);
    let rest = [(Role::FfnUp, Role::FfnUpBias, f.inner, hidden), (Role::FfnDown, Role::FfnDownBias, hidden, f.inner)];
    for (matrix, bias, rows, cols) in Some(gate).filter(|_| !f.ungated).into_iter().chain(rest) {
        list.push(shape(matrix, rows, cols));
        if f.bias {
            list.push(shape(bias, 1, rows));
        }
    }
}

fn shape(role: Role, rows: u32, cols: u32) -> TensorShape {
    TensorShape { role, rows, cols }
}

fn product(factors: &[u32]) -> Result<u32, FormatError> {
    let overflow = || FormatError::invalid("size", format!("the product of {factors:?} does not fit"));
    factors.iter().try_fold(1u32, |all, &f| all.checked_mul(f)).ok_or_else(overflow)
}

fn attention(a: &Attention, hidden: u32, list: &mut Vec<TensorShape>) -> Result<(), FormatError> {
    let heads = product(&[a.heads, a.head_dim])?;
    let q = if a.output_gate { product(&[heads, 2])? } else { heads };
    let kv = product(&[a.kv_heads, a.head_dim])?;
    for (matrix, bias, rows) in [(Role::Q, Role::QBias, q), (Role::K, Role::KBias, kv), (Role::V, Role::VBias, kv)] {
        list.push(shape(matrix, rows, hidden));
        if a.qkv_bias {
            list.push(shape(bias, 1, rows));
        }
    }
    match a.qk_norm {
        QkNorm::None => {}
        QkNorm::PerHead(_) => list.extend([shape(Role::QNorm, 1, a.head_dim), shape(Role::KNorm, 1, a.head_dim)]),
        QkNorm::FullWidth(_) => list.extend([shape(Role::QNorm, 1, heads), shape(Role::KNorm, 1, kv)]),
    }
    list.push(shape(Role::O, hidden, heads));
    if a.out_bias {
        list.push(shape(Role::OBias, 1, hidden));
    }
    Ok(())
}

fn gated_delta(d: &GatedDelta, hidden: u32, list: &mut Vec<TensorShape>) -> Result<(), FormatError> {
    let values = product(&[d.value_heads, d.value_dim])?;
    let channels = product(&[2, d.key_heads, d.key_dim])?
        .checked_add(values)
        .ok_or_else(|| FormatError::invalid("convolution channels", "their number does not fit"))?;
    list.extend([
        shape(Role::DeltaQkv, channels, hidden),
        shape(Role::DeltaZ, values, hidden),
        shape(Role::DeltaB, d.value_heads, hidden),
        shape(Role::DeltaA, d.value_heads, hidden),
        shape(Role::DeltaConv, channels, d.conv_kernel),
        shape(Role::DeltaDtBias, 1, d.value_heads),
        shape(Role::DeltaDecay, 1, d.value_heads),
        shape(Role::DeltaNorm, 1, d.value_dim),
        shape(Role::DeltaOut, hidden, values),
    ]);
    Ok(())
}

fn routed(r: &Routed, hidden: u32, list: &mut Vec<TensorShape>) {
    list.push(shape(Role::Router, r.experts, hidden));
    let Some(shared) = &r.shared else { return };
    if shared.gated {
        list.push(shape(Role::SharedExpertGate, 1, hidden));
    }
    list.push(shape(Role::SharedGate, shared.ffn.inner, hidden));
    list.push(shape(Role::SharedUp, shared.ffn.inner, hidden));
    list.push(shape(Role::SharedDown, hidden, shared.ffn.inner));
}
