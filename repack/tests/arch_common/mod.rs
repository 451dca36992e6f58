//! Shared by the tests of this crate.
#![allow(dead_code)] // each test binary uses a part

use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// `../shared`, or what `FOREBAY_SHARED` names; `None` (said on stderr) where it does not exist.
pub fn shared(part: &str) -> Option<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    let path = std::env::var_os("FOREBAY_SHARED").map_or_else(beside, PathBuf::from).join(part);
    if path.exists() {
        return Some(path);
    }
    drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("SKIP: {} does not exist\n", path.display())));
    None
}

/// A Hugging Face directory to be: every value of every tensor is `fill`.
#[derive(Clone)]
pub struct Toy {
    pub config: Value,
    /// Name, type in safetensors' spelling, shape, byte to fill with.
    pub tensors: Vec<(String, &'static str, Vec<u64>, u8)>,
    /// Further files: name and content.
    pub files: Vec<(&'static str, Value)>,
}

impl Toy {
    fn add(&mut self, name: impl Into<String>, shape: &[u64]) {
        self.tensors.push((name.into(), "BF16", shape.to_vec(), 0));
    }

    /// Removes the tensors whose names contain `part`.
    pub fn drop_tensors(&mut self, part: &str) {
        self.tensors.retain(|t| !t.0.contains(part));
    }

    /// The tensor of this name.
    pub fn tensor(&mut self, name: &str) -> &mut (String, &'static str, Vec<u64>, u8) {
        self.tensors.iter_mut().find(|t| t.0 == name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// Writes the directory.
    pub fn write(&self, dir: &Path) {
        fs::write(dir.join("config.json"), self.config.to_string()).unwrap();
        for (name, content) in &self.files {
            fs::write(dir.join(name), content.to_string()).unwrap();
        }
        let mut header = Map::new();
        let mut data: Vec<u8> = Vec::new();
        for (name, dtype, shape, fill) in &self.tensors {
            let width = match *dtype {
                "BF16" | "F16" => 2,
                "F32" | "I32" => 4,
                "F8_E4M3" => 1,
                other => panic!("{other}"),
            };
            let bytes = shape.iter().product::<u64>() as usize * width;
            let start = data.len();
            data.resize(start + bytes, *fill);
            header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, start + bytes]}));
        }
        let header = Value::Object(header).to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(&data);
        fs::write(dir.join("model.safetensors"), file).unwrap();
    }
}

/// A dense toy of 2 layers: hidden 16, 2 heads of 8, 1 key/value head, 24 neurons, 32 tokens.
pub fn llama() -> Toy {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 24, "vocab_size": 32, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2
    });
    let mut toy = Toy { config, tensors: Vec::new(), files: Vec::new() };
    ends(&mut toy, "model.");
    for i in 0..2 {
        let p = format!("model.layers.{i}.");
        attention(&mut toy, &p, 16);
        for (name, shape) in [("gate_proj", [24, 16]), ("up_proj", [24, 16]), ("down_proj", [16, 24])] {
            toy.add(format!("{p}mlp.{name}.weight"), &shape);
        }
    }
    toy
}

/// A toy with 4 experts of 8 neurons, 2 used, otherwise as [`llama`], with per-head norms.
pub fn qwen3_moe() -> Toy {
    let mut toy = llama();
    for (key, value) in [
        ("model_type", json!("qwen3_moe")),
        ("architectures", json!(["Qwen3MoeForCausalLM"])),
        ("num_experts", json!(4)),
        ("num_experts_per_tok", json!(2)),
        ("moe_intermediate_size", json!(8)),
        ("norm_topk_prob", json!(true)),
    ] {
        toy.config[key] = value;
    }
    toy.drop_tensors("mlp.");
    for i in 0..2 {
        let p = format!("model.layers.{i}.");
        toy.add(format!("{p}self_attn.q_norm.weight"), &[8]);
        toy.add(format!("{p}self_attn.k_norm.weight"), &[8]);
        toy.add(format!("{p}mlp.gate.weight"), &[4, 16]);
        for e in 0..4 {
            experts(&mut toy, &format!("{p}mlp.experts.{e}."));
        }
    }
    toy
}

/// A multimodal hybrid toy: one delta net layer, one attention layer, fused experts, shared expert, vision tower, MTP.
pub fn qwen3_5_moe() -> Toy {
    let config = json!({
        "architectures": ["Qwen3_5MoeForConditionalGeneration"], "model_type": "qwen3_5_moe", "tie_word_embeddings": false,
        "text_config": {
            "model_type": "qwen3_5_moe_text", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 8, "vocab_size": 32, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "hidden_act": "silu",
            "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 4,
            "linear_key_head_dim": 4, "linear_value_head_dim": 4, "linear_conv_kernel_dim": 4, "num_experts": 4, "num_experts_per_tok": 2,
            "moe_intermediate_size": 8, "shared_expert_intermediate_size": 12, "eos_token_id": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "mrope_section": [1, 0, 0]}
        },
        "vision_config": {"depth": 1}
    });
    let mut toy = Toy { config, tensors: Vec::new(), files: Vec::new() };
    ends(&mut toy, "model.language_model.");
    let p = "model.language_model.layers.0.";
    for (name, shape) in [
        ("in_proj_qkv.weight", vec![32, 16]),
        ("in_proj_z.weight", vec![16, 16]),
        ("in_proj_b.weight", vec![4, 16]),
        ("in_proj_a.weight", vec![4, 16]),
        ("conv1d.weight", vec![32, 1, 4]),
        ("A_log", vec![4]),
        ("dt_bias", vec![4]),
        ("norm.weight", vec![4]),
        ("out_proj.weight", vec![16, 16]),
    ] {
        toy.add(format!("{p}linear_attn.{name}"), &shape);
    }
    toy.add(format!("{p}input_layernorm.weight"), &[16]);
    toy.add(format!("{p}post_attention_layernorm.weight"), &[16]);
    let p = "model.language_model.layers.1.";
    attention(&mut toy, p, 32);
    toy.add(format!("{p}self_attn.q_norm.weight"), &[8]);
    toy.add(format!("{p}self_attn.k_norm.weight"), &[8]);
    for i in 0..2 {
        let p = format!("model.language_model.layers.{i}.mlp.");
        toy.add(format!("{p}gate.weight"), &[4, 16]);
        toy.add(format!("{p}experts.gate_up_proj"), &[4, 16, 16]);
        toy.add(format!("{p}experts.down_proj"), &[4, 16, 8]);
        toy.add(format!("{p}shared_expert.gate_proj.weight"), &[12, 16]);
        toy.add(format!("{p}shared_expert.up_proj.weight"), &[12, 16]);
        toy.add(format!("{p}shared_expert.down_proj.weight"), &[16, 12]);
        toy.add(format!("{p}shared_expert_gate.weight"), &[1, 16]);
    }
    toy.add("model.visual.patch_embed.proj.weight", &[4, 3, 2, 2, 2]);
    toy.add("model.visual.patch_embed.proj.bias", &[4]);
    toy.add("mtp.fc.weight", &[16, 32]);
    toy
}

fn ends(toy: &mut Toy, prefix: &str) {
    toy.add(format!("{prefix}embed_tokens.weight"), &[32, 16]);
    toy.add(format!("{prefix}norm.weight"), &[16]);
    toy.add("lm_head.weight", &[32, 16]);
}

fn attention(toy: &mut Toy, p: &str, q: u64) {
    for name in ["input_layernorm", "post_attention_layernorm"] {
        toy.add(format!("{p}{name}.weight"), &[16]);
    }
    for (name, shape) in [("q_proj", [q, 16]), ("k_proj", [8, 16]), ("v_proj", [8, 16]), ("o_proj", [16, 16])] {
        toy.add(format!("{p}self_attn.{name}.weight"), &shape);
    }
}

fn experts(toy: &mut Toy, p: &str) {
    for (name, shape) in [("gate_proj", [8, 16]), ("up_proj", [8, 16]), ("down_proj", [16, 8])] {
        toy.add(format!("{p}{name}.weight"), &shape);
    }
}
