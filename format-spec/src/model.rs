//! What a model *is*, as mechanisms and sizes. No model family is named here: a family is a combination of these values,
//! decided once by the converter.

use serde::{Deserialize, Serialize};

/// Everything the runtime must know to compute logits, one [`LayerSpec`] per layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// Width of the residual stream.
    pub hidden: u32,
    /// Rows of the embedding and of the head.
    pub vocab: u32,
    /// Longest context the model was trained or configured for, in tokens.
    pub context: u32,
    /// The head reuses the embedding matrix; the pack then has no head matrix.
    pub tied_head: bool,
    /// Width of the embedding and of the head where it is not `hidden`: rows of the embedding then go through `ProjectIn [hidden, width]`, and
    /// what the head reads comes from `ProjectOut [width, hidden]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_width: Option<u32>,
    /// Learned positions, added to the embedding (after `ProjectIn`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions: Option<LearnedPositions>,
    /// Norm before the head.
    pub final_norm: Norm,
    /// Layers in execution order.
    pub layers: Vec<LayerSpec>,
}

/// A position encoding that is a table: the token at position `p` gets row `p + offset` of `Positions [rows, hidden]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnedPositions {
    /// Rows of the table; at least `context + offset`.
    pub rows: u32,
    /// Row of position 0.
    pub offset: u32,
}

/// One residual layer. [`NormOrder::Pre`]: `x += mixer(norm(x)); x += ffn(norm(x))`; [`NormOrder::Post`]: `x = norm(x + mixer(x)); x = norm(x + ffn(x))`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerSpec {
    /// Norm of the mixer, in front of it or behind.
    pub mixer_norm: Norm,
    /// Token mixing.
    pub mixer: Mixer,
    /// Norm of the feed-forward part, in front of it or behind.
    pub ffn_norm: Norm,
    /// Channel mixing.
    pub ffn: Ffn,
    /// Where the norms are.
    #[serde(default, skip_serializing_if = "NormOrder::is_pre")]
    pub norm_order: NormOrder,
}

/// Where a layer's norms are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormOrder {
    /// In front of mixer and feed-forward part.
    #[default]
    Pre,
    /// Behind the sum of the stream and the part's output.
    Post,
}

impl NormOrder {
    /// The order of nearly all models, which manifests leave out.
    pub fn is_pre(&self) -> bool {
        *self == NormOrder::Pre
    }
}

/// A norm over the values of a row.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Norm {
    /// Added to the mean square.
    pub eps: f32,
    /// How the stored weight is read.
    pub weight: NormWeight,
    /// What is computed.
    #[serde(default, skip_serializing_if = "NormKind::is_rms")]
    pub kind: NormKind,
}

impl Norm {
    /// An RMS norm.
    pub fn rms(eps: f32, weight: NormWeight) -> Norm {
        Norm { eps, weight, kind: NormKind::Rms }
    }
}

/// What a norm computes; `w` is the factor that [`NormWeight`] gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// `x * rsqrt(mean(x^2) + eps) * w` (Zhang and Sennrich 2019).
    #[default]
    Rms,
    /// `(x - mean(x)) * rsqrt(variance(x) + eps) * w + b`, with a bias `b` (Ba et al. 2016).
    Layer,
    /// `x`: no norm, and no weight.
    None,
}

impl NormKind {
    /// The kind of nearly all models, which manifests leave out.
    pub fn is_rms(&self) -> bool {
        *self == NormKind::Rms
    }
}

/// How a stored norm weight becomes a factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormWeight {
    /// The factor is `w`.
    Plain,
    /// The factor is `1 + w` (zero-centred weights).
    ZeroCentered,
}

/// Token mixing mechanism.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Mixer {
    /// Softmax attention with grouped key/value heads.
    Attention(Attention),
    /// Gated delta rule with a causal convolution (Yang et al. 2024, "Gated Delta Networks").
    GatedDelta(GatedDelta),
}

/// Softmax attention. `Q` is `[heads * head_dim, hidden]`, or `[heads * 2 * head_dim, hidden]` laid out per head as
/// `[query | gate]` when `output_gate` is set. `K` and `V` are `[kv_heads * head_dim, hidden]`, `O` is `[hidden, heads * head_dim]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Query heads.
    pub heads: u32,
    /// Key/value heads; divides `heads`. Query head `h` reads key/value head `h / (heads / kv_heads)`.
    pub kv_heads: u32,
    /// Width of one head.
    pub head_dim: u32,
    /// Multiplies the scores before the softmax.
    pub scale: f32,
    /// Q, K and V have biases.
    pub qkv_bias: bool,
    /// O has a bias.
    pub out_bias: bool,
    /// Norm of queries and keys before the rotation.
    pub qk_norm: QkNorm,
    /// The heads' output is multiplied by `sigmoid(gate)` before O.
    pub output_gate: bool,
    /// Rotary position encoding of queries and keys; `None` where positions are learned ([`ModelSpec::positions`]) or not encoded.
    pub rope: Option<Rope>,
    /// A query sees this many positions, itself included; `None` means all before it.
    pub sliding_window: Option<u32>,
}

/// Norm of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// None.
    None,
    /// One weight of `head_dim`, applied to each head by itself.
    PerHead(Norm),
    /// One weight over all heads together (`heads * head_dim` for queries, `kv_heads * head_dim` for keys).
    FullWidth(Norm),
}

/// Rotary position encoding (Su et al. 2021). Pair `i` turns by `position * frequency(i)`, `frequency(i) = theta^(-2 i / dim)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// The first `dim` dimensions of a head rotate; the rest pass unchanged. Even, at most `head_dim`.
    pub dim: u32,
    /// Which two dimensions form pair `i`.
    pub pairing: RopePairing,
    /// Change of the frequencies for long contexts.
    pub scaling: RopeScaling,
}

/// Which dimensions rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RopePairing {
    /// `(i, i + dim / 2)`.
    Halves,
    /// `(2 i, 2 i + 1)`.
    Adjacent,
}

/// Frequency scaling of the rotary encoding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RopeScaling {
    /// Frequencies as they are.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// Divisor.
        factor: f32,
    },
    /// The frequency of pair `i` is divided by `factors[i]` (as GGUF stores them); `dim / 2` entries. Converters
    /// compute the entries of the "llama3" rule in f32 and store them here.
    Factors {
        /// Divisors, one a pair.
        factors: Vec<f32>,
    },
    /// YaRN (Peng et al. 2023): interpolation below `low`, none above, a ramp between, and scaled cosines and sines.
    Yarn {
        /// Context extension factor.
        factor: f32,
        /// Context length before the extension.
        original_context: u32,
        /// Rotations above which a frequency stays.
        beta_fast: f32,
        /// Rotations below which a frequency is interpolated.
        beta_slow: f32,
        /// Multiplies cosines and sines.
        attention_factor: f32,
        /// The ramp's ends are rounded to whole pairs.
        truncate: bool,
    },
}

/// Gated delta net. Per value head a state `S [key_dim, value_dim]`, per token
/// `S *= exp(g); S += k (beta (v - S^T k))^T; o = S^T q`, with L2-normalised q (then divided by `sqrt(key_dim)`) and k,
/// `beta = sigmoid(b)`, `g = decay * softplus(a + dt_bias)`. Projections: `Qkv [2 key_heads key_dim + value_heads value_dim, hidden]`
/// in the order q, k, v; `Z [value_heads value_dim, hidden]`; `B` and `A` `[value_heads, hidden]`.
/// A causal depthwise convolution and SiLU act on q, k and v together. The output is `norm(o) * silu(z)` per value head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatedDelta {
    /// Heads of queries and keys.
    pub key_heads: u32,
    /// Heads of values; a multiple of `key_heads`.
    pub value_heads: u32,
    /// Width of a query or key head.
    pub key_dim: u32,
    /// Width of a value head.
    pub value_dim: u32,
    /// Taps of the convolution, the current token's included.
    pub conv_kernel: u32,
    /// Which key head a value head uses.
    pub value_head_order: ValueHeadOrder,
    /// How the stored decay is read.
    pub decay: Decay,
    /// Norm of each value head's output.
    pub norm: Norm,
    /// Added to the sum of squares in the L2 norm of q and k.
    pub l2_eps: f32,
}

/// Which key head value head `h` uses; `r = value_heads / key_heads`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueHeadOrder {
    /// Key head `h / r`.
    Grouped,
    /// Key head `h % key_heads`.
    Tiled,
}

/// How the stored per-head decay becomes the factor of `softplus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Stored as `A_log`; the factor is `-exp(A_log)`.
    Log,
    /// Stored as the factor.
    Factor,
}

/// Channel mixing mechanism.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ffn {
    /// One feed-forward network: its matrices are in the layer's trunk run, or in neuron groups.
    Dense(GatedFfn),
    /// Routed experts, each a bundle of its own.
    Routed(Routed),
}

/// `down(activation(gate x) * (up x))`: gate and up `[inner, hidden]`, down `[hidden, inner]`. Without a gate `down(activation(up x))`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatedFfn {
    /// Neurons.
    pub inner: u32,
    /// Applied to the gate projection; without a gate, to the up projection.
    pub activation: Activation,
    /// There is no gate matrix. Dense layers only.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ungated: bool,
    /// Each matrix has a bias. Dense layers only.
    #[serde(default, skip_serializing_if = "is_false")]
    pub bias: bool,
}

impl GatedFfn {
    /// With a gate and without biases.
    pub fn new(inner: u32, activation: Activation) -> GatedFfn {
        GatedFfn { inner, activation, ungated: false, bias: false }
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// A mixture of experts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routed {
    /// Experts of the layer.
    pub experts: u32,
    /// Experts used per token.
    pub top_k: u32,
    /// Shape of one expert.
    pub expert: GatedFfn,
    /// How router logits become choices and weights.
    pub router: Router,
    /// An expert that every token uses, in the layer's trunk run.
    pub shared: Option<SharedExpert>,
}

/// From router logits to weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Router {
    /// Softmax over all experts, the `top_k` largest (ties: the lower id), divided by their sum if `renormalize`.
    Softmax {
        /// Divide the chosen weights by their sum.
        renormalize: bool,
    },
}

/// The expert that every token uses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedExpert {
    /// Its shape.
    pub ffn: GatedFfn,
    /// Its output is multiplied by `sigmoid(gate . x)`, gate `[1, hidden]`.
    pub gated: bool,
}

/// Activation function of a gated feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// `max(x, 0)`.
    Relu,
    /// Tanh approximation of GELU.
    GeluTanh,
    /// `x` above the threshold, else 0 (Song et al. 2024, "ProSparse").
    FatRelu {
        /// At least 0.
        threshold: f32,
    },
    /// `max(x, 0)^2` (So et al. 2021, "Primer").
    SquaredRelu,
}

impl Activation {
    /// The result is exactly zero for a range of inputs, so that a neuron may be left out.
    pub fn is_sparse(self) -> bool {
        match self {
            Activation::Relu | Activation::FatRelu { .. } | Activation::SquaredRelu => true,
            Activation::Silu | Activation::GeluTanh => false,
        }
    }
}

/// What a tensor of the trunk is for. Serialised by its snake-case name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// `[vocab, hidden]`, or `[vocab, embedding_width]`.
    Embedding,
    /// `[rows, hidden]`, see [`LearnedPositions`].
    Positions,
    /// `[hidden, embedding_width]`.
    ProjectIn,
    /// `[embedding_width, hidden]`.
    ProjectOut,
    /// `[1, hidden]`.
    FinalNorm,
    /// `[1, hidden]`.
    FinalNormBias,
    /// `[vocab, hidden]`; absent when the head is tied.
    Head,
    /// `[1, hidden]`.
    MixerNorm,
    /// `[1, hidden]`.
    MixerNormBias,
    /// `[1, hidden]`.
    FfnNorm,
    /// `[1, hidden]`.
    FfnNormBias,
    /// Attention queries (and output gates).
    Q,
    /// Attention keys.
    K,
    /// Attention values.
    V,
    /// Attention output.
    O,
    /// `[1, rows of Q]`.
    QBias,
    /// `[1, rows of K]`.
    KBias,
    /// `[1, rows of V]`.
    VBias,
    /// `[1, hidden]`.
    OBias,
    /// `[1, head_dim]` or `[1, heads * head_dim]`.
    QNorm,
    /// `[1, head_dim]` or `[1, kv_heads * head_dim]`.
    KNorm,
    /// Delta net q, k and v.
    DeltaQkv,
    /// Delta net output gate.
    DeltaZ,
    /// Delta net beta, before the sigmoid.
    DeltaB,
    /// Delta net decay input.
    DeltaA,
    /// `[channels, conv_kernel]`.
    DeltaConv,
    /// `[1, value_heads]`, see [`Decay`].
    DeltaDecay,
    /// `[1, value_heads]`.
    DeltaDtBias,
    /// `[1, value_dim]`.
    DeltaNorm,
    /// `[hidden, value_heads * value_dim]`.
    DeltaOut,
    /// `[inner, hidden]`, dense.
    FfnGate,
    /// `[inner, hidden]`, dense.
    FfnUp,
    /// `[hidden, inner]`, dense.
    FfnDown,
    /// `[1, inner]`, dense.
    FfnGateBias,
    /// `[1, inner]`, dense.
    FfnUpBias,
    /// `[1, hidden]`, dense.
    FfnDownBias,
    /// `[inner, hidden]`: a copy in few bits of the rows that decide whether a neuron fires, for layers whose neurons are in groups.
    NeuronSketch,
    /// `[experts, hidden]`; rows are never permuted.
    Router,
    /// `[shared inner, hidden]`.
    SharedGate,
    /// `[shared inner, hidden]`.
    SharedUp,
    /// `[hidden, shared inner]`.
    SharedDown,
    /// `[1, hidden]`, the scalar gate of the shared expert.
    SharedExpertGate,
}

impl Role {
    /// A matrix that is only ever multiplied with activations, so that its rows may be interleaved. Others are looked up row by row, added, or read in parts.
    pub fn is_projection(self) -> bool {
        use Role::*;
        matches!(
            self,
            Head | Q
                | K
                | V
                | O
                | DeltaQkv
                | DeltaZ
                | DeltaB
                | DeltaA
                | DeltaOut
                | FfnGate
                | FfnUp
                | FfnDown
                | SharedGate
                | SharedUp
                | SharedDown
        )
    }
}
