//! What the tensors of a source are called, by role.

use forebay_format::model::Role;

/// Names of a layer's expert matrices, after the layer's prefix.
#[derive(Clone, Copy, Debug)]
pub(super) enum ExpertNames {
    /// A tensor per expert and matrix; `{}` is the expert: gate, up, down.
    Each([&'static str; 3]),
    /// One tensor per matrix, `[experts, rows, cols]`: gate, up, down.
    Stacked([&'static str; 3]),
    /// Gate rows, then up rows of each expert in one tensor `[experts, 2 * inner, hidden]`; and down `[experts, hidden, inner]`.
    GateUp([&'static str; 2]),
}

/// Names of a source's tensors.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// The embedding.
    pub embedding: String,
    /// Norm before the head.
    pub final_norm: String,
    /// The head.
    pub head: String,
    /// Names of tensors outside the layers that few sources have.
    pub globals: &'static [(Role, &'static str)],
    /// What comes before the number of a layer; after the number comes a dot.
    pub layer: String,
    /// Names that differ from those of `roles`.
    pub overrides: &'static [(Role, &'static str)],
    /// Names after the layer's prefix.
    pub roles: &'static [(Role, &'static str)],
    /// Forms in which the experts may come; the first one that is there is taken.
    pub experts: &'static [ExpertNames],
}

impl Names {
    /// Hugging Face names, all of them after `prefix` (`model.`) but the head's.
    pub fn hf(prefix: &str) -> Self {
        Names {
            embedding: format!("{prefix}embed_tokens.weight"),
            final_norm: format!("{prefix}norm.weight"),
            head: "lm_head.weight".into(),
            globals: &[],
            layer: format!("{prefix}layers."),
            overrides: &[],
            roles: HF_ROLES,
            experts: &[ExpertNames::Each([
                "mlp.experts.{}.gate_proj.weight",
                "mlp.experts.{}.up_proj.weight",
                "mlp.experts.{}.down_proj.weight",
            ])],
        }
    }

    /// GGUF names.
    pub fn gguf() -> Self {
        Names {
            embedding: "token_embd.weight".into(),
            final_norm: "output_norm.weight".into(),
            head: "output.weight".into(),
            globals: &[],
            layer: "blk.".into(),
            overrides: &[],
            roles: GGUF_ROLES,
            experts: &[
                ExpertNames::Stacked(["ffn_gate_exps.weight", "ffn_up_exps.weight", "ffn_down_exps.weight"]),
                ExpertNames::GateUp(["ffn_gate_up_exps.weight", "ffn_down_exps.weight"]),
                // Files written before the experts were stacked (early 2024).
                ExpertNames::Each(["ffn_gate.{}.weight", "ffn_up.{}.weight", "ffn_down.{}.weight"]),
            ],
        }
    }

    /// Name of a tensor inside layer `layer`.
    pub fn in_layer(&self, layer: usize, suffix: &str) -> String {
        format!("{}{layer}.{suffix}", self.layer)
    }

    /// Name of the tensor with this role in layer `layer`.
    pub fn role(&self, layer: usize, role: Role) -> Option<String> {
        let found = self.overrides.iter().chain(self.roles).find(|(r, _)| *r == role);
        found.map(|(_, suffix)| self.in_layer(layer, suffix))
    }

    /// Names of a layer's expert matrices in the first form, with their shapes.
    pub fn expert_tensors(&self, layer: usize, experts: u32, inner: u32, hidden: u32) -> Vec<(String, Vec<u32>)> {
        let one = |name: &str, shape: &[u32]| (self.in_layer(layer, name), shape.to_vec());
        match self.experts.first() {
            None => Vec::new(),
            Some(ExpertNames::Each([gate, up, down])) => {
                let name = |part: &str, e: u32| part.replace("{}", &e.to_string());
                let of_expert =
                    |e| [one(&name(gate, e), &[inner, hidden]), one(&name(up, e), &[inner, hidden]), one(&name(down, e), &[hidden, inner])];
                (0..experts).flat_map(of_expert).collect()
            }
            Some(ExpertNames::Stacked([gate, up, down])) => {
                let part = [experts, inner, hidden];
                vec![one(gate, &part), one(up, &part), one(down, &[experts, hidden, inner])]
            }
            Some(ExpertNames::GateUp([gate_up, down])) => {
                vec![one(gate_up, &[experts, inner.saturating_mul(2), hidden]), one(down, &[experts, hidden, inner])]
            }
        }
    }

    /// Name of the tensor outside the layers with this role.
    pub fn global(&self, role: Role) -> Option<&str> {
        match role {
            Role::Embedding => Some(&self.embedding),
            Role::FinalNorm => Some(&self.final_norm),
            Role::Head => Some(&self.head),
            _ => self.globals.iter().find(|(r, _)| *r == role).map(|(_, name)| *name),
        }
    }

    /// The layer whose tensor `name` is.
    pub fn layer_of(&self, name: &str) -> Option<u64> {
        let (number, _) = name.strip_prefix(&self.layer)?.split_once('.')?;
        number.parse().ok()
    }
}

const HF_ROLES: &[(Role, &str)] = &[
    (Role::MixerNorm, "input_layernorm.weight"),
    (Role::FfnNorm, "post_attention_layernorm.weight"),
    (Role::Q, "self_attn.q_proj.weight"),
    (Role::K, "self_attn.k_proj.weight"),
    (Role::V, "self_attn.v_proj.weight"),
    (Role::O, "self_attn.o_proj.weight"),
    (Role::QBias, "self_attn.q_proj.bias"),
    (Role::KBias, "self_attn.k_proj.bias"),
    (Role::VBias, "self_attn.v_proj.bias"),
    (Role::OBias, "self_attn.o_proj.bias"),
    (Role::QNorm, "self_attn.q_norm.weight"),
    (Role::KNorm, "self_attn.k_norm.weight"),
    (Role::DeltaQkv, "linear_attn.in_proj_qkv.weight"),
    (Role::DeltaZ, "linear_attn.in_proj_z.weight"),
    (Role::DeltaB, "linear_attn.in_proj_b.weight"),
    (Role::DeltaA, "linear_attn.in_proj_a.weight"),
    (Role::DeltaConv, "linear_attn.conv1d.weight"),
    (Role::DeltaDecay, "linear_attn.A_log"),
    (Role::DeltaDtBias, "linear_attn.dt_bias"),
    (Role::DeltaNorm, "linear_attn.norm.weight"),
    (Role::DeltaOut, "linear_attn.out_proj.weight"),
    (Role::FfnGate, "mlp.gate_proj.weight"),
    (Role::FfnUp, "mlp.up_proj.weight"),
    (Role::FfnDown, "mlp.down_proj.weight"),
    (Role::FfnGateBias, "mlp.gate_proj.bias"),
    (Role::FfnUpBias, "mlp.up_proj.bias"),
    (Role::FfnDownBias, "mlp.down_proj.bias"),
    (Role::Router, "mlp.gate.weight"),
    (Role::SharedGate, "mlp.shared_expert.gate_proj.weight"),
    (Role::SharedUp, "mlp.shared_expert.up_proj.weight"),
    (Role::SharedDown, "mlp.shared_expert.down_proj.weight"),
    (Role::SharedExpertGate, "mlp.shared_expert_gate.weight"),
];

const GGUF_ROLES: &[(Role, &str)] = &[
    (Role::MixerNorm, "attn_norm.weight"),
    (Role::FfnNorm, "ffn_norm.weight"),
    (Role::Q, "attn_q.weight"),
    (Role::K, "attn_k.weight"),
    (Role::V, "attn_v.weight"),
    (Role::O, "attn_output.weight"),
    (Role::QBias, "attn_q.bias"),
    (Role::KBias, "attn_k.bias"),
    (Role::VBias, "attn_v.bias"),
    (Role::OBias, "attn_output.bias"),
    (Role::QNorm, "attn_q_norm.weight"),
    (Role::KNorm, "attn_k_norm.weight"),
    (Role::DeltaQkv, "attn_qkv.weight"),
    (Role::DeltaZ, "attn_gate.weight"),
    (Role::DeltaB, "ssm_beta.weight"),
    (Role::DeltaA, "ssm_alpha.weight"),
    (Role::DeltaConv, "ssm_conv1d.weight"),
    (Role::DeltaDecay, "ssm_a"),
    (Role::DeltaDtBias, "ssm_dt.bias"),
    (Role::DeltaNorm, "ssm_norm.weight"),
    (Role::DeltaOut, "ssm_out.weight"),
    (Role::FfnGate, "ffn_gate.weight"),
    (Role::FfnUp, "ffn_up.weight"),
    (Role::FfnDown, "ffn_down.weight"),
    (Role::FfnGateBias, "ffn_gate.bias"),
    (Role::FfnUpBias, "ffn_up.bias"),
    (Role::FfnDownBias, "ffn_down.bias"),
    (Role::Router, "ffn_gate_inp.weight"),
    (Role::SharedGate, "ffn_gate_shexp.weight"),
    (Role::SharedUp, "ffn_up_shexp.weight"),
    (Role::SharedDown, "ffn_down_shexp.weight"),
    (Role::SharedExpertGate, "ffn_gate_inp_shexp.weight"),
];
