//! Is a [`ModelSpec`] one that can be computed? Asked by the converter before it plans and by a reader before it allocates.

use crate::error::FormatError;
use crate::model::{
    Activation, Attention, Ffn, GatedDelta, GatedFfn, LayerSpec, Mixer, ModelSpec, Norm, NormKind, QkNorm, Rope, RopeScaling, Routed,
    SharedExpert,
};

/// Most layers a model may have.
pub const MAX_LAYERS: u32 = 1024;
/// Most experts a layer may have.
pub const MAX_EXPERTS: u32 = 4096;
/// Most rows of an embedding.
pub const MAX_VOCAB: u32 = 4 << 20;
/// Widest residual stream, attention (all heads together) and delta net.
pub const MAX_WIDTH: u32 = 1 << 20;
/// Most neurons of a feed-forward network.
pub const MAX_INNER: u32 = 16 << 20;
/// Longest context, in tokens.
pub const MAX_CONTEXT: u32 = 1 << 30;
/// Most taps of a causal convolution.
pub const MAX_CONV_KERNEL: u32 = 64;

type Result<T> = std::result::Result<T, FormatError>;

impl ModelSpec {
    /// Checks ranges, divisibility and limits. The error names the layer and the field. A spec that passes has sizes whose
    /// products fit: [`LayerSpec::tensors`] cannot fail on it.
    pub fn validate(&self) -> Result<()> {
        between("hidden", self.hidden, 1, MAX_WIDTH)?;
        between("vocab", self.vocab, 1, MAX_VOCAB)?;
        between("context", self.context, 1, MAX_CONTEXT)?;
        if let Some(width) = self.embedding_width {
            between("embedding width", width, 1, MAX_WIDTH)?;
        }
        if let Some(p) = &self.positions {
            let needed = self.context.saturating_add(p.offset);
            if p.rows < needed || p.rows > MAX_VOCAB {
                return Err(FormatError::invalid("learned positions", format!("{} rows are not between {needed} and {MAX_VOCAB}", p.rows)));
            }
        }
        let layers = u32::try_from(self.layers.len()).unwrap_or(u32::MAX);
        between("number of layers", layers, 1, MAX_LAYERS)?;
        norm("final norm", &self.final_norm)?;
        for (i, layer) in self.layers.iter().enumerate() {
            layer.validate(self.hidden).map_err(|e| in_layer(i, e))?;
        }
        Ok(())
    }
}

impl LayerSpec {
    fn validate(&self, hidden: u32) -> Result<()> {
        norm("mixer norm", &self.mixer_norm)?;
        norm("ffn norm", &self.ffn_norm)?;
        match &self.mixer {
            Mixer::Attention(a) => attention(a)?,
            Mixer::GatedDelta(d) => gated_delta(d)?,
        }
        match &self.ffn {
            Ffn::Dense(f) => gated_ffn("ffn", f)?,
            Ffn::Routed(r) => routed(r)?,
        }
        self.tensors(hidden).map(|_| ())
    }
}

fn in_layer(layer: usize, e: FormatError) -> FormatError {
    match e {
        FormatError::Invalid { what, why } => FormatError::Invalid { what: format!("layer {layer}: {what}"), why },
        other => other,
    }
}

fn between(what: &str, value: u32, least: u32, most: u32) -> Result<()> {
    if value < least || value > most {
        return Err(FormatError::invalid(what, format!("{value} is not between {least} and {most}")));
    }
    Ok(())
}

/// `value` is a finite number above zero.
fn positive(what: &str, value: f64) -> Result<()> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(FormatError::invalid(what, format!("{value} is not a number above zero")))
}

/// `parts` divides `whole`.
fn divides(what: &str, parts: u32, whole_name: &str, whole: u32) -> Result<()> {
    if parts == 0 || !whole.is_multiple_of(parts) {
        return Err(FormatError::invalid(what, format!("{parts} does not divide {whole_name} ({whole})")));
    }
    Ok(())
}

/// `a * b` at most [`MAX_WIDTH`].
fn width(what: &str, a: u32, b: u32) -> Result<()> {
    match a.checked_mul(b) {
        Some(w) if w <= MAX_WIDTH => Ok(()),
        _ => Err(FormatError::invalid(what, format!("{a} x {b} is more than {MAX_WIDTH}"))),
    }
}

fn norm(what: &str, n: &Norm) -> Result<()> {
    positive(&format!("{what} epsilon"), f64::from(n.eps))?;
    // An epsilon of 1 or more would drown the signal: a misread field, never a model.
    if n.eps >= 1.0 {
        return Err(FormatError::invalid(format!("{what} epsilon"), format!("{} is not below 1", n.eps)));
    }
    Ok(())
}

/// Inside a mixer only RMS norms are known.
fn rms_norm(what: &str, n: &Norm) -> Result<()> {
    if n.kind != NormKind::Rms {
        return Err(FormatError::invalid(what, "is not an RMS norm"));
    }
    norm(what, n)
}

fn attention(a: &Attention) -> Result<()> {
    between("heads", a.heads, 1, MAX_WIDTH)?;
    between("key/value heads", a.kv_heads, 1, MAX_WIDTH)?;
    between("head width", a.head_dim, 1, MAX_WIDTH)?;
    divides("key/value heads", a.kv_heads, "heads", a.heads)?;
    width("width of all heads", a.heads, a.head_dim)?;
    positive("attention scale", f64::from(a.scale))?;
    match &a.qk_norm {
        QkNorm::None => {}
        QkNorm::PerHead(n) | QkNorm::FullWidth(n) => rms_norm("query/key norm", n)?,
    }
    if a.sliding_window == Some(0) {
        return Err(FormatError::invalid("sliding window", "0 positions; a query must see at least itself"));
    }
    a.rope.as_ref().map_or(Ok(()), |r| rope(r, a.head_dim))
}

fn rope(r: &Rope, head_dim: u32) -> Result<()> {
    positive("rope theta", r.theta)?;
    between("rotary width", r.dim, 2, head_dim.max(2))?;
    divides("rotary pair width", 2, "the rotary width", r.dim)?;
    if r.dim > head_dim {
        return Err(FormatError::invalid("rotary width", format!("{} is more than the head width {head_dim}", r.dim)));
    }
    match &r.scaling {
        RopeScaling::None => Ok(()),
        RopeScaling::Linear { factor } => positive("rope factor", f64::from(*factor)),
        RopeScaling::Factors { factors } => {
            if factors.len() as u64 != u64::from(r.dim / 2) {
                let why = format!("{} entries, {} pairs", factors.len(), r.dim / 2);
                return Err(FormatError::invalid("rope factors", why));
            }
            factors.iter().try_for_each(|&f| positive("rope factor", f64::from(f)))
        }
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, truncate: _ } => {
            positive("rope factor", f64::from(*factor))?;
            between("original context", *original_context, 1, MAX_CONTEXT)?;
            positive("YaRN beta_fast", f64::from(*beta_fast))?;
            positive("YaRN beta_slow", f64::from(*beta_slow))?;
            positive("YaRN attention factor", f64::from(*attention_factor))
        }
    }
}

fn gated_delta(d: &GatedDelta) -> Result<()> {
    between("key heads", d.key_heads, 1, MAX_WIDTH)?;
    between("value heads", d.value_heads, 1, MAX_WIDTH)?;
    between("key head width", d.key_dim, 1, MAX_WIDTH)?;
    between("value head width", d.value_dim, 1, MAX_WIDTH)?;
    divides("key heads", d.key_heads, "value heads", d.value_heads)?;
    width("width of all key heads", d.key_heads, d.key_dim)?;
    width("width of all value heads", d.value_heads, d.value_dim)?;
    between("convolution taps", d.conv_kernel, 1, MAX_CONV_KERNEL)?;
    rms_norm("delta net norm", &d.norm)?;
    positive("L2 epsilon", f64::from(d.l2_eps))
}

fn gated_ffn(what: &str, f: &GatedFfn) -> Result<()> {
    between(&format!("{what} neurons"), f.inner, 1, MAX_INNER)?;
    match f.activation {
        Activation::FatRelu { threshold } if !(threshold.is_finite() && threshold >= 0.0) => {
            Err(FormatError::invalid(format!("{what} threshold"), format!("{threshold} is not a number of at least 0")))
        }
        _ => Ok(()),
    }
}

/// An expert has the plain form: its bundle has gate, up and down, and no biases.
fn expert(what: &str, f: &GatedFfn) -> Result<()> {
    if f.ungated || f.bias {
        return Err(FormatError::invalid(what, "experts have a gate and no biases"));
    }
    gated_ffn(what, f)
}

fn routed(r: &Routed) -> Result<()> {
    between("experts", r.experts, 1, MAX_EXPERTS)?;
    if r.top_k == 0 || r.top_k > r.experts {
        return Err(FormatError::invalid("experts per token", format!("{} of {} experts", r.top_k, r.experts)));
    }
    expert("expert", &r.expert)?;
    match &r.shared {
        Some(SharedExpert { ffn, gated: _ }) => expert("shared expert", ffn),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::*;

    fn spec() -> ModelSpec {
        let norm = Norm::rms(1e-6, NormWeight::Plain);
        let attention = Attention {
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            scale: 0.25,
            qkv_bias: false,
            out_bias: false,
            qk_norm: QkNorm::PerHead(norm),
            output_gate: true,
            rope: Some(Rope { theta: 1e4, dim: 8, pairing: RopePairing::Halves, scaling: RopeScaling::Factors { factors: vec![1.0; 4] } }),
            sliding_window: Some(7),
        };
        let delta = GatedDelta {
            key_heads: 2,
            value_heads: 4,
            key_dim: 8,
            value_dim: 16,
            conv_kernel: 4,
            value_head_order: ValueHeadOrder::Grouped,
            decay: Decay::Log,
            norm,
            l2_eps: 1e-6,
        };
        let ffn = GatedFfn::new(32, Activation::Silu);
        let routed = Routed {
            experts: 8,
            top_k: 2,
            expert: ffn.clone(),
            router: Router::Softmax { renormalize: true },
            shared: Some(SharedExpert { ffn: ffn.clone(), gated: true }),
        };
        let layer = |mixer, ffn| LayerSpec { mixer_norm: norm, mixer, ffn_norm: norm, ffn, norm_order: NormOrder::Pre };
        ModelSpec {
            hidden: 64,
            vocab: 512,
            context: 2048,
            tied_head: false,
            embedding_width: None,
            positions: None,
            final_norm: norm,
            layers: vec![layer(Mixer::Attention(attention), Ffn::Dense(ffn)), layer(Mixer::GatedDelta(delta), Ffn::Routed(routed))],
        }
    }

    fn attention_of(s: &mut ModelSpec) -> &mut Attention {
        match &mut s.layers[0].mixer {
            Mixer::Attention(a) => a,
            Mixer::GatedDelta(_) => unreachable!("layer 0 of the fixture is attention"),
        }
    }

    fn delta_of(s: &mut ModelSpec) -> &mut GatedDelta {
        match &mut s.layers[1].mixer {
            Mixer::GatedDelta(d) => d,
            Mixer::Attention(_) => unreachable!("layer 1 of the fixture is a delta net"),
        }
    }

    fn rope_of(s: &mut ModelSpec) -> &mut Rope {
        attention_of(s).rope.as_mut().expect("the fixture has a rotary encoding")
    }

    fn dense_of(s: &mut ModelSpec) -> &mut GatedFfn {
        match &mut s.layers[0].ffn {
            Ffn::Dense(f) => f,
            Ffn::Routed(_) => unreachable!("layer 0 of the fixture is dense"),
        }
    }

    fn routed_of(s: &mut ModelSpec) -> &mut Routed {
        match &mut s.layers[1].ffn {
            Ffn::Routed(r) => r,
            Ffn::Dense(_) => unreachable!("layer 1 of the fixture is routed"),
        }
    }

    #[test]
    fn a_sound_spec_passes() {
        assert_eq!(spec().validate(), Ok(()));
    }

    #[test]
    fn each_broken_field_is_named() {
        type Break = fn(&mut ModelSpec);
        let table: &[(Break, &str)] = &[
            (|s| s.hidden = 0, "hidden is invalid: 0 is not between 1 and 1048576"),
            (|s| s.hidden = MAX_WIDTH + 1, "hidden is invalid: 1048577 is not between"),
            (|s| s.vocab = 0, "vocab is invalid: 0"),
            (|s| s.vocab = MAX_VOCAB + 1, "vocab is invalid: 4194305"),
            (|s| s.context = 0, "context is invalid: 0"),
            (|s| s.layers.clear(), "number of layers is invalid: 0"),
            (|s| s.layers = vec![s.layers[0].clone(); 1025], "number of layers is invalid: 1025"),
            (|s| s.final_norm.eps = 0.0, "final norm epsilon is invalid: 0 is not a number above zero"),
            (|s| s.layers[1].ffn_norm.eps = f32::NAN, "layer 1: ffn norm epsilon is invalid: NaN"),
            (|s| s.layers[0].mixer_norm.eps = 2.0, "layer 0: mixer norm epsilon is invalid: 2 is not below 1"),
            (|s| attention_of(s).heads = 0, "layer 0: heads is invalid: 0"),
            (|s| attention_of(s).kv_heads = 3, "layer 0: key/value heads is invalid: 3 does not divide heads (4)"),
            (|s| attention_of(s).head_dim = 0, "layer 0: head width is invalid: 0"),
            (|s| attention_of(s).head_dim = 1 << 19, "layer 0: width of all heads is invalid"),
            (|s| attention_of(s).scale = f32::INFINITY, "layer 0: attention scale is invalid: inf"),
            (|s| attention_of(s).sliding_window = Some(0), "layer 0: sliding window is invalid"),
            (|s| rope_of(s).theta = 0.0, "layer 0: rope theta is invalid: 0"),
            (|s| rope_of(s).theta = -1.0, "layer 0: rope theta is invalid: -1"),
            (|s| rope_of(s).theta = f64::NAN, "layer 0: rope theta is invalid: NaN"),
            (|s| rope_of(s).dim = 7, "layer 0: rotary pair width is invalid: 2 does not divide"),
            (|s| rope_of(s).dim = 18, "layer 0: rotary width is invalid: 18"),
            (|s| rope_of(s).scaling = RopeScaling::Factors { factors: vec![1.0] }, "layer 0: rope factors is invalid: 1 entries, 4 pairs"),
            (|s| rope_of(s).scaling = RopeScaling::Linear { factor: 0.0 }, "layer 0: rope factor is invalid: 0"),
            (|s| delta_of(s).key_heads = 3, "layer 1: key heads is invalid: 3 does not divide value heads (4)"),
            (|s| delta_of(s).conv_kernel = 0, "layer 1: convolution taps is invalid: 0"),
            (|s| delta_of(s).value_dim = u32::MAX, "layer 1: value head width is invalid"),
            (|s| delta_of(s).l2_eps = -1.0, "layer 1: L2 epsilon is invalid: -1"),
            (|s| routed_of(s).experts = 0, "layer 1: experts is invalid: 0"),
            (|s| routed_of(s).experts = 4097, "layer 1: experts is invalid: 4097"),
            (|s| routed_of(s).top_k = 0, "layer 1: experts per token is invalid: 0 of 8 experts"),
            (|s| routed_of(s).top_k = 9, "layer 1: experts per token is invalid: 9 of 8 experts"),
            (|s| s.embedding_width = Some(0), "embedding width is invalid: 0"),
            (
                |s| attention_of(s).qk_norm = QkNorm::PerHead(Norm { kind: NormKind::Layer, ..Norm::rms(1e-6, NormWeight::Plain) }),
                "layer 0: query/key norm is invalid: is not an RMS norm",
            ),
            (
                |s| s.positions = Some(LearnedPositions { rows: 2049, offset: 2 }),
                "learned positions is invalid: 2049 rows are not between 2050",
            ),
            (|s| dense_of(s).activation = Activation::FatRelu { threshold: f32::NAN }, "layer 0: ffn threshold is invalid: NaN"),
            (|s| routed_of(s).expert.ungated = true, "layer 1: expert is invalid: experts have a gate"),
            (|s| routed_of(s).expert.inner = 0, "layer 1: expert neurons is invalid: 0"),
            (|s| routed_of(s).shared.as_mut().unwrap().ffn.inner = 0, "layer 1: shared expert neurons is invalid: 0"),
        ];
        for (i, (breaks, expected)) in table.iter().enumerate() {
            let mut s = spec();
            breaks(&mut s);
            let message = s.validate().expect_err(expected).to_string();
            assert!(message.starts_with(expected), "row {i}: {message:?} does not start with {expected:?}");
        }
    }

    #[test]
    fn the_tensors_of_a_layer_follow_its_mechanisms() {
        let s = spec();
        let text = |layer: usize| -> Vec<String> {
            let tensors = s.layers[layer].tensors(s.hidden).unwrap();
            tensors.iter().map(|t| format!("{:?} {}x{}", t.role, t.rows, t.cols)).collect()
        };
        assert_eq!(
            text(0),
            [
                "MixerNorm 1x64",
                "Q 128x64",
                "K 32x64",
                "V 32x64",
                "QNorm 1x16",
                "KNorm 1x16",
                "O 64x64",
                "FfnNorm 1x64",
                "FfnGate 32x64",
                "FfnUp 32x64",
                "FfnDown 64x32"
            ]
        );
        assert_eq!(
            text(1),
            [
                "MixerNorm 1x64",
                "DeltaQkv 96x64",
                "DeltaZ 64x64",
                "DeltaB 4x64",
                "DeltaA 4x64",
                "DeltaConv 96x4",
                "DeltaDtBias 1x4",
                "DeltaDecay 1x4",
                "DeltaNorm 1x16",
                "DeltaOut 64x64",
                "FfnNorm 1x64",
                "Router 8x64",
                "SharedExpertGate 1x64",
                "SharedGate 32x64",
                "SharedUp 32x64",
                "SharedDown 64x32"
            ]
        );
    }
}
