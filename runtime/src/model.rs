//! The model ready to run: every tensor found once and kept by handle, every small tensor decoded to f32 once.

use crate::error::{Error, Result};
use crate::ffn::coarse::CoarseRouter;
use crate::ffn::dense::{Biases, DenseFfn};
use crate::ffn::neurons::{NeuronFfn, Selection};
use crate::ffn::routed::{self, RoutedFfn, Shared};
use crate::kernels::Pool;
use crate::mixer::attention::{self, AttentionLayer, QkNorms};
use crate::mixer::conv::Conv;
use crate::mixer::gated_delta::{self, GatedDeltaLayer};
use crate::mixer::rope::RopeTable;
use crate::norm::{RmsNorm, StreamNorm};
use crate::store::Store;
use crate::trunk::{RunId, TensorHandle};
use forebay_format::layout::manifest::{Manifest, TensorPlace};
use forebay_format::model::{
    Attention, Decay, Ffn, GatedDelta, GatedFfn, LayerSpec, Mixer, ModelSpec, Norm, NormKind, NormOrder, NormWeight, QkNorm, Role, Rope,
    Routed,
};
use forebay_format::shapes::TensorShape;
use forebay_format::validate_pack::role_name;
use forebay_format::{FormatError, QuantType};

/// Token mixing of a layer.
#[derive(Debug)]
pub enum MixerLayer {
    /// Softmax attention.
    Attention(AttentionLayer),
    /// Gated delta net.
    GatedDelta(GatedDeltaLayer),
}

/// Channel mixing of a layer.
#[derive(Debug)]
pub enum FfnLayer {
    /// One network.
    Dense(DenseFfn),
    /// One network, whose neurons are in groups.
    Neurons(NeuronFfn),
    /// Experts.
    Routed(RoutedFfn),
}

/// A layer.
#[derive(Debug)]
pub struct Layer {
    /// Norm of the mixer.
    pub mixer_norm: StreamNorm,
    /// Token mixing.
    pub mixer: MixerLayer,
    /// Norm of the feed-forward part.
    pub ffn_norm: StreamNorm,
    /// Channel mixing.
    pub ffn: FfnLayer,
    /// Where the norms are.
    pub order: NormOrder,
}

/// A table of positions.
#[derive(Clone, Copy, Debug)]
pub struct Positions {
    /// `[rows, hidden]`.
    pub table: TensorHandle,
    /// Row of position 0.
    pub offset: usize,
}

/// The model.
#[derive(Debug)]
pub struct Model {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Rows of the embedding and of the head.
    pub vocab: usize,
    /// `[vocab, width]`.
    pub embedding: TensorHandle,
    /// `[vocab, width]`; the embedding itself if the head is tied.
    pub head: TensorHandle,
    /// Width of embedding and head.
    pub width: usize,
    /// From the embedding's width to `hidden`, and back before the head.
    pub projections: Option<[TensorHandle; 2]>,
    /// Learned positions.
    pub positions: Option<Positions>,
    /// Norm before the head.
    pub final_norm: StreamNorm,
    /// Distinct rotary encodings.
    pub ropes: Vec<RopeTable>,
    /// In execution order.
    pub layers: Vec<Layer>,
}

/// Checks that the spec can be computed and that each run has exactly the tensors it calls for, in their shapes. Pure; after it every product
/// of sizes is bounded by the bytes of a tensor that the index holds.
pub fn check(manifest: &Manifest) -> std::result::Result<(), FormatError> {
    let spec = &manifest.spec;
    spec.validate()?;
    check_run("embedding", &manifest.embedding, &spec.embedding_tensors())?;
    check_run("head", &manifest.head, &spec.head_tensors())?;
    for (l, (layer, places)) in spec.layers.iter().zip(&manifest.trunk).enumerate() {
        let grouped = manifest.neurons.get(l).is_some_and(Option::is_some);
        let tensors = if grouped { layer.tensors_beside_groups(spec.hidden)? } else { layer.tensors(spec.hidden)? };
        check_run(&format!("layer {l}"), places, &tensors)?;
        if let Mixer::Attention(Attention { qk_norm: QkNorm::FullWidth(_), output_gate: true, .. }) = layer.mixer {
            return Err(FormatError::invalid(format!("layer {l}"), "a full-width norm of queries that have output gates is not defined"));
        }
    }
    Ok(())
}

fn check_run(run: &str, places: &[TensorPlace], wanted: &[TensorShape]) -> std::result::Result<(), FormatError> {
    let invalid = |role: Role, why: String| Err(FormatError::invalid(format!("{run}, {}", role_name(role)), why));
    for w in wanted {
        match places.iter().find(|p| p.role == w.role) {
            None => return invalid(w.role, "the model needs it and the pack does not have it".into()),
            Some(p) if (p.rows, p.cols) != (w.rows, w.cols) => {
                return invalid(w.role, format!("is {} x {}, the model needs {} x {}", p.rows, p.cols, w.rows, w.cols));
            }
            Some(_) => {}
        }
    }
    match places.iter().find(|p| wanted.iter().all(|w| w.role != p.role)) {
        Some(p) => invalid(p.role, "the model has no use for it".into()),
        None => Ok(()),
    }
}

/// Sizes of an attention layer.
pub fn attention_shape(a: &Attention) -> attention::Shape {
    let [heads, kv_heads, head_dim] = [a.heads, a.kv_heads, a.head_dim].map(|n| n as usize);
    attention::Shape { heads, kv_heads, head_dim, output_gate: a.output_gate }
}

/// Sizes of a gated delta layer.
pub fn delta_shape(d: &GatedDelta) -> gated_delta::Shape {
    let [key_heads, value_heads, key_dim, value_dim] = [d.key_heads, d.value_heads, d.key_dim, d.value_dim].map(|n| n as usize);
    gated_delta::Shape { key_heads, value_heads, key_dim, value_dim }
}

/// Sizes of a routed layer.
pub fn routed_shape(r: &Routed, hidden: usize) -> routed::Shape {
    let [experts, top_k, inner] = [r.experts, r.top_k, r.expert.inner].map(|n| n as usize);
    routed::Shape { hidden, experts, top_k, inner, shared: r.shared.as_ref().map_or(0, |s| s.ffn.inner as usize) }
}

/// Distinct rotary encodings of a model, in order of first use.
pub fn ropes(spec: &ModelSpec) -> Vec<&Rope> {
    let mut list: Vec<&Rope> = Vec::new();
    for layer in &spec.layers {
        if let Mixer::Attention(Attention { rope: Some(rope), .. }) = &layer.mixer
            && !list.contains(&rope)
        {
            list.push(rope);
        }
    }
    list
}

/// Tensors that are decoded once and kept in f32: vectors and convolutions, everything that no matrix product reads.
fn is_small(role: Role, rows: u32) -> bool {
    role == Role::DeltaConv || (rows == 1 && !matches!(role, Role::DeltaA | Role::DeltaB | Role::Router | Role::Embedding | Role::Head))
}

/// Bytes of all tensors that [`Model::load`] decodes, and of the routers' copies; saturates.
pub fn decoded_bytes(manifest: &Manifest) -> u64 {
    let places = manifest.trunk.iter().flatten().chain(&manifest.head);
    places.fold(0u64, |sum, p| {
        let (rows, cols) = (p.rows as u64, p.cols as u64);
        let copy = if p.role == Role::Router { CoarseRouter::bytes(rows, cols) } else { 0 };
        let values = if is_small(p.role, p.rows) { rows.saturating_mul(cols * size_of::<f32>() as u64) } else { 0 };
        sum.saturating_add(copy).saturating_add(values)
    })
}

impl Model {
    /// Finds and decodes. The manifest must have passed [`check`].
    ///
    /// # Errors
    /// Those of [`Store::enter`]: every layer is read once, those that do not stay in memory too.
    pub fn load(store: &mut Store, pool: &Pool) -> Result<Model> {
        let spec = &store.pack().manifest.spec.clone();
        let ropes = ropes(spec);
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (layer, l) in spec.layers.iter().zip(0..) {
            store.enter(l, pool)?;
            let experts = store.pack().manifest.experts.get(l as usize).and_then(Option::as_ref);
            let types = experts.map(|e| [e.gate, e.up, e.down]);
            layers.push(load_layer(Run { store, id: RunId::Trunk(l) }, l, layer, types, spec.hidden as usize, &ropes)?);
        }
        let (embedding, head) = (Run { store, id: RunId::Embedding }, Run { store, id: RunId::Head });
        Ok(Model {
            hidden: spec.hidden as usize,
            vocab: spec.vocab as usize,
            embedding: embedding.find(Role::Embedding)?,
            width: spec.embedding_width() as usize,
            projections: match spec.embedding_width {
                Some(_) => Some([embedding.find(Role::ProjectIn)?, head.find(Role::ProjectOut)?]),
                None => None,
            },
            positions: match &spec.positions {
                Some(p) => Some(Positions { table: embedding.find(Role::Positions)?, offset: p.offset as usize }),
                None => None,
            },
            head: if spec.tied_head { embedding.find(Role::Embedding)? } else { head.find(Role::Head)? },
            final_norm: head.stream_norm([Role::FinalNorm, Role::FinalNormBias], &spec.final_norm)?,
            layers,
            ropes: ropes.into_iter().map(RopeTable::new).collect(),
        })
    }
}

/// One run of the trunk, while loading.
#[derive(Clone, Copy)]
struct Run<'a> {
    store: &'a Store,
    id: RunId,
}

impl Run<'_> {
    fn format_error(&self, error: FormatError) -> Error {
        Error::Format { file: self.store.pack().path.clone(), error }
    }

    fn find(&self, role: Role) -> Result<TensorHandle> {
        let missing = || FormatError::invalid(format!("{}, {}", self.id.bundle(), role_name(role)), "the pack does not have it");
        self.store.find(self.id, role).ok_or_else(|| self.format_error(missing()))
    }

    fn find_all<const N: usize>(&self, roles: [Role; N]) -> Result<[TensorHandle; N]> {
        // The handle of the first stands in until each has its own.
        let mut handles = [self.find(roles[0])?; N];
        for (handle, role) in handles.iter_mut().zip(roles) {
            *handle = self.find(role)?;
        }
        Ok(handles)
    }

    /// All values of a small tensor.
    fn values(&self, role: Role) -> Result<Vec<f32>> {
        let matrix = self.store.tensor(self.find(role)?);
        let mut values = vec![0.0; matrix.rows * matrix.cols];
        matrix.qtype.decode(matrix.bytes, &mut values).map_err(|e| self.format_error(e))?;
        Ok(values)
    }

    fn norm(&self, role: Role, spec: &Norm) -> Result<RmsNorm> {
        let mut factor = self.values(role)?;
        match spec.weight {
            NormWeight::Plain => {}
            NormWeight::ZeroCentered => factor.iter_mut().for_each(|w| *w += 1.0),
        }
        Ok(RmsNorm { eps: spec.eps, factor })
    }

    fn stream_norm(&self, [weight, bias]: [Role; 2], spec: &Norm) -> Result<StreamNorm> {
        Ok(match spec.kind {
            NormKind::Rms => StreamNorm::Rms(self.norm(weight, spec)?),
            NormKind::Layer => {
                let RmsNorm { eps, factor } = self.norm(weight, spec)?;
                StreamNorm::Layer { eps, factor, bias: self.values(bias)? }
            }
            NormKind::None => StreamNorm::None,
        })
    }
}

fn load_layer(run: Run, number: u32, spec: &LayerSpec, types: Option<[QuantType; 3]>, hidden: usize, ropes: &[&Rope]) -> Result<Layer> {
    let mixer = match &spec.mixer {
        Mixer::Attention(a) => MixerLayer::Attention(load_attention(run, a, ropes)?),
        Mixer::GatedDelta(d) => MixerLayer::GatedDelta(load_delta(run, d)?),
    };
    let ffn = match (&spec.ffn, types) {
        (Ffn::Dense(f), _) if run.store.group_shape(number).is_some() => FfnLayer::Neurons(load_neurons(run, number, f)?),
        (Ffn::Dense(f), _) => FfnLayer::Dense(load_dense(run, f, [Role::FfnGate, Role::FfnUp, Role::FfnDown])?),
        (Ffn::Routed(r), Some(types)) => FfnLayer::Routed(load_routed(run, number, r, types, hidden)?),
        (Ffn::Routed(_), None) => {
            return Err(
                run.format_error(FormatError::invalid(format!("layer {number} experts"), "the manifest does not say where they are"))
            );
        }
    };
    let mixer_norm = run.stream_norm([Role::MixerNorm, Role::MixerNormBias], &spec.mixer_norm)?;
    let ffn_norm = run.stream_norm([Role::FfnNorm, Role::FfnNormBias], &spec.ffn_norm)?;
    Ok(Layer { mixer_norm, mixer, ffn_norm, ffn, order: spec.norm_order })
}

fn load_attention(run: Run, a: &Attention, ropes: &[&Rope]) -> Result<AttentionLayer> {
    let norms = |q: &Norm| Ok::<_, Error>((run.norm(Role::QNorm, q)?, run.norm(Role::KNorm, q)?));
    let qk_norm = match &a.qk_norm {
        QkNorm::None => QkNorms::None,
        QkNorm::PerHead(n) => norms(n).map(|(q, k)| QkNorms::PerHead(q, k))?,
        QkNorm::FullWidth(n) => norms(n).map(|(q, k)| QkNorms::FullWidth(q, k))?,
    };
    let qkv_bias = match a.qkv_bias {
        true => Some([run.values(Role::QBias)?, run.values(Role::KBias)?, run.values(Role::VBias)?]),
        false => None,
    };
    Ok(AttentionLayer {
        shape: attention_shape(a),
        scale: a.scale,
        window: a.sliding_window.map_or(usize::MAX, |w| w as usize),
        rope: a.rope.as_ref().and_then(|own| ropes.iter().position(|r| *r == own)),
        matrices: run.find_all([Role::Q, Role::K, Role::V, Role::O])?,
        qkv_bias,
        out_bias: if a.out_bias { Some(run.values(Role::OBias)?) } else { None },
        qk_norm,
    })
}

fn load_delta(run: Run, d: &GatedDelta) -> Result<GatedDeltaLayer> {
    let shape = delta_shape(d);
    let mut decay = run.values(Role::DeltaDecay)?;
    match d.decay {
        Decay::Log => decay.iter_mut().for_each(|a| *a = -a.exp()),
        Decay::Factor => {}
    }
    Ok(GatedDeltaLayer {
        shape,
        order: d.value_head_order,
        l2_eps: d.l2_eps,
        matrices: run.find_all([Role::DeltaQkv, Role::DeltaZ, Role::DeltaB, Role::DeltaA, Role::DeltaOut])?,
        conv: Conv::new(&run.values(Role::DeltaConv)?, shape.channels()),
        decay,
        dt_bias: run.values(Role::DeltaDtBias)?,
        norm: run.norm(Role::DeltaNorm, &d.norm)?,
    })
}

/// Every group is wanted until the engine says otherwise.
fn load_neurons(run: Run, layer: u32, f: &GatedFfn) -> Result<NeuronFfn> {
    let shape = run.store.group_shape(layer).cloned();
    let shape = shape.ok_or_else(|| run.format_error(FormatError::invalid(format!("layer {layer}"), "no neuron groups")))?;
    let sketch = run.find(Role::NeuronSketch)?;
    Ok(NeuronFfn { layer, shape, activation: f.activation, sketch, biases: load_biases(run, f)?, selection: Selection::All })
}

fn load_biases(run: Run, f: &GatedFfn) -> Result<Option<Biases>> {
    Ok(match f.bias {
        true => {
            let gate = if f.ungated { Vec::new() } else { run.values(Role::FfnGateBias)? };
            Some(Biases { gate, up: run.values(Role::FfnUpBias)?, down: run.values(Role::FfnDownBias)? })
        }
        false => None,
    })
}

fn load_dense(run: Run, f: &GatedFfn, roles: [Role; 3]) -> Result<DenseFfn> {
    let [gate, up, down] = roles;
    let gate = if f.ungated { None } else { Some(run.find(gate)?) };
    let biases = load_biases(run, f)?;
    Ok(DenseFfn { inner: f.inner as usize, activation: f.activation, gate, up: run.find(up)?, down: run.find(down)?, biases })
}

fn load_routed(run: Run, layer: u32, r: &Routed, types: [QuantType; 3], hidden: usize) -> Result<RoutedFfn> {
    let shared = match &r.shared {
        Some(s) => Some(Shared {
            ffn: load_dense(run, &s.ffn, [Role::SharedGate, Role::SharedUp, Role::SharedDown])?,
            gate: if s.gated { Some(run.values(Role::SharedExpertGate)?) } else { None },
        }),
        None => None,
    };
    Ok(RoutedFfn {
        shape: routed_shape(r, hidden),
        layer,
        router: r.router.clone(),
        logits: run.find(Role::Router)?,
        coarse: CoarseRouter::new(&run.values(Role::Router)?, hidden),
        types,
        activation: r.expert.activation,
        shared,
    })
}
