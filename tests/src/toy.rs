//! Toy checkpoints, written from nothing: small enough for frozen packs and exhaustive damage, real enough for every mechanism.
//! All values come from one fixed generator, so the same call writes the same bytes everywhere.

use std::fs;
use std::io;
use std::path::Path;

mod mixed;
pub use mixed::{Mixed, write_mixed_gguf};

/// Words of the toy vocabulary: 256 bytes, five merges, three specials.
pub const VOCAB: usize = 264;
const HIDDEN: usize = 32;
const MERGES: [(&str, &str); 5] = [("t", "h"), ("th", "e"), ("a", "n"), ("an", "d"), ("Ġ", "the")];
const SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// SplitMix64 (Steele et al. 2014): tiny, and the same on every platform.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in -1 .. 1.
    fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// The byte-level alphabet: the character that stands for each byte.
fn byte_characters() -> Vec<char> {
    let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 256;
    (0..256u32)
        .map(|b| {
            let code = if printable(b) {
                b
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).unwrap_or('?')
        })
        .collect()
}

/// Tokens by id.
fn tokens() -> Vec<String> {
    let bytes = byte_characters().into_iter().map(String::from);
    bytes.chain(MERGES.iter().map(|(a, b)| format!("{a}{b}"))).chain(SPECIALS.iter().map(|s| s.to_string())).collect()
}

fn tokenizer_json() -> String {
    let tokens = tokens();
    let vocab: serde_json::Map<String, serde_json::Value> =
        tokens[..VOCAB - SPECIALS.len()].iter().enumerate().map(|(i, t)| (t.clone(), i.into())).collect();
    let added: Vec<_> = SPECIALS
        .iter()
        .enumerate()
        .map(|(i, s)| {
            serde_json::json!({ "id": VOCAB - SPECIALS.len() + i, "content": s, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true })
        })
        .collect();
    let merges: Vec<_> = MERGES.iter().map(|(a, b)| [a, b]).collect();
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocab, "merges": merges }
    })
    .to_string()
}

/// A tensor of a toy safetensors file: name, shape, standard deviation or fixed value.
struct Spec(String, Vec<usize>, f32);

/// Writes a Hugging Face directory of a hybrid mixture of experts: one gated-delta layer, one gated-attention layer, four experts.
pub fn write_hybrid_moe(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let config = serde_json::json!({
        "architectures": ["Qwen3_5MoeForCausalLM"], "model_type": "qwen3_5_moe_text", "attention_bias": false, "eos_token_id": 263,
        "head_dim": 16, "hidden_act": "silu", "hidden_size": HIDDEN, "layer_types": ["linear_attention", "full_attention"],
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 16, "linear_num_key_heads": 1, "linear_num_value_heads": 2,
        "linear_value_head_dim": 16, "max_position_embeddings": 512, "moe_intermediate_size": 32, "num_attention_heads": 2,
        "num_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 2, "num_key_value_heads": 1, "partial_rotary_factor": 0.5,
        "rms_norm_eps": 1e-6, "rope_parameters": { "rope_theta": 10000.0, "rope_type": "default", "partial_rotary_factor": 0.5 },
        "shared_expert_intermediate_size": 32, "tie_word_embeddings": false, "vocab_size": VOCAB
    });
    fs::write(dir.join("config.json"), config.to_string())?;
    fs::write(dir.join("tokenizer.json"), tokenizer_json())?;
    let template = "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}\
                    {%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}";
    let tokenizer_config = serde_json::json!({ "eos_token": "<|im_end|>", "chat_template": template });
    fs::write(dir.join("tokenizer_config.json"), tokenizer_config.to_string())?;
    let h = HIDDEN;
    let mut tensors = vec![
        Spec("model.embed_tokens.weight".into(), vec![VOCAB, h], 1.0),
        Spec("model.norm.weight".into(), vec![h], 0.1),
        Spec("lm_head.weight".into(), vec![VOCAB, h], 0.5),
    ];
    for layer in 0..2 {
        let p = format!("model.layers.{layer}.");
        let mut add = |name: &str, shape: &[usize], std: f32| tensors.push(Spec(format!("{p}{name}"), shape.to_vec(), std));
        add("input_layernorm.weight", &[h], 0.1);
        add("post_attention_layernorm.weight", &[h], 0.1);
        if layer == 0 {
            add("linear_attn.in_proj_qkv.weight", &[64, h], 0.3);
            add("linear_attn.in_proj_z.weight", &[32, h], 0.3);
            add("linear_attn.in_proj_b.weight", &[2, h], 0.3);
            add("linear_attn.in_proj_a.weight", &[2, h], 0.3);
            add("linear_attn.conv1d.weight", &[64, 1, 4], 0.4);
            add("linear_attn.A_log", &[2], 0.5);
            add("linear_attn.dt_bias", &[2], 0.5);
            add("linear_attn.norm.weight", &[16], 1.0);
            add("linear_attn.out_proj.weight", &[h, 32], 0.3);
        } else {
            add("self_attn.q_proj.weight", &[64, h], 0.3);
            add("self_attn.k_proj.weight", &[16, h], 0.3);
            add("self_attn.v_proj.weight", &[16, h], 0.3);
            add("self_attn.o_proj.weight", &[h, 32], 0.3);
            add("self_attn.q_norm.weight", &[16], 0.1);
            add("self_attn.k_norm.weight", &[16], 0.1);
        }
        add("mlp.gate.weight", &[4, h], 0.5);
        add("mlp.shared_expert_gate.weight", &[1, h], 0.3);
        for part in ["gate", "up", "down"] {
            add(&format!("mlp.shared_expert.{part}_proj.weight"), &[32, h], 0.3);
            for expert in 0..4 {
                add(&format!("mlp.experts.{expert}.{part}_proj.weight"), &[32, h], 0.3);
            }
        }
    }
    fs::write(dir.join("model.safetensors"), safetensors(&tensors))
}

/// Writes a Hugging Face directory of a dense model whose neurons fire or are exactly zero: two layers of 160 neurons, in bf16.
pub fn write_sparse(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let (h, inner) = (HIDDEN, 160);
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "eos_token_id": 263, "hidden_act": "relu", "hidden_size": h,
        "intermediate_size": inner, "max_position_embeddings": 512, "num_attention_heads": 2, "num_hidden_layers": 2,
        "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false, "vocab_size": VOCAB
    });
    fs::write(dir.join("config.json"), config.to_string())?;
    fs::write(dir.join("tokenizer.json"), tokenizer_json())?;
    let mut tensors = vec![
        Spec("model.embed_tokens.weight".into(), vec![VOCAB, h], 1.0),
        Spec("model.norm.weight".into(), vec![h], 1.0),
        Spec("lm_head.weight".into(), vec![VOCAB, h], 0.5),
    ];
    for layer in 0..2 {
        let mut add = |name: &str, shape: &[usize], std: f32| {
            tensors.push(Spec(format!("model.layers.{layer}.{name}.weight"), shape.to_vec(), std));
        };
        add("input_layernorm", &[h], 1.0);
        add("post_attention_layernorm", &[h], 1.0);
        add("self_attn.q_proj", &[h, h], 0.3);
        add("self_attn.k_proj", &[16, h], 0.3);
        add("self_attn.v_proj", &[16, h], 0.3);
        add("self_attn.o_proj", &[h, h], 0.3);
        add("mlp.gate_proj", &[inner, h], 0.3);
        add("mlp.up_proj", &[inner, h], 0.3);
        add("mlp.down_proj", &[h, inner], 0.3);
    }
    fs::write(dir.join("model.safetensors"), safetensors(&tensors))
}

/// A bf16 safetensors file (`A_log` in f32, as released checkpoints have it).
fn safetensors(tensors: &[Spec]) -> Vec<u8> {
    let mut random = Random(2026);
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for Spec(name, shape, std) in tensors {
        let start = data.len();
        let f32s = name.ends_with("A_log");
        for _ in 0..shape.iter().product::<usize>() {
            let value = random.uniform() * std;
            if f32s {
                data.extend_from_slice(&value.to_le_bytes());
            } else {
                // Truncation to bf16: exact, and free of rounding rules.
                data.extend_from_slice(&value.to_le_bytes()[2..]);
            }
        }
        let dtype = if f32s { "F32" } else { "BF16" };
        header.insert(name.clone(), serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, data.len()] }));
    }
    let mut text = serde_json::Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(&text);
    file.extend_from_slice(&data);
    file
}

/// A GGUF value of a key-value pair.
pub enum Value {
    /// u32.
    U32(u32),
    /// f32.
    F32(f32),
    /// bool.
    Bool(bool),
    /// String.
    Text(String),
    /// Array of strings.
    Texts(Vec<String>),
    /// Array of i32.
    Ints(Vec<i32>),
    /// Array of f32.
    Floats(Vec<f32>),
}

/// Writes a GGUF v3 file of a dense model: one layer, Q8_0 matrices, F32 norms, a byte-level vocabulary.
pub fn write_dense_gguf(path: &Path) -> io::Result<()> {
    write_deep_gguf(path, 1)
}

/// The same model with more layers.
pub fn write_deep_gguf(path: &Path, layers: usize) -> io::Result<()> {
    write_gguf(path, layers, VOCAB, vocabulary())
}

/// The toy vocabulary as GGUF has it.
fn vocabulary() -> impl Iterator<Item = (String, Value)> {
    let text = |s: &str| Value::Text(s.into());
    let kinds = (0..VOCAB).map(|i| if i < VOCAB - SPECIALS.len() { 1 } else { 3 }).collect();
    let pairs = [
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("gpt-2")),
        ("tokenizer.ggml.tokens", Value::Texts(tokens())),
        ("tokenizer.ggml.token_type", Value::Ints(kinds)),
        ("tokenizer.ggml.merges", Value::Texts(MERGES.iter().map(|(a, b)| format!("{a} {b}")).collect())),
        ("tokenizer.ggml.eos_token_id", Value::U32(263)),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_string(), value))
}

/// The same model around another vocabulary of `vocab` tokens.
pub fn write_dense_gguf_with(path: &Path, vocab: usize, vocabulary: impl IntoIterator<Item = (String, Value)>) -> io::Result<()> {
    write_gguf(path, 1, vocab, vocabulary)
}

fn write_gguf(path: &Path, layers: usize, vocab: usize, vocabulary: impl IntoIterator<Item = (String, Value)>) -> io::Result<()> {
    let text = |s: &str| Value::Text(s.into());
    let model = [
        ("general.architecture", text("llama")),
        ("general.name", text("toy")),
        ("llama.block_count", Value::U32(layers as u32)),
        ("llama.context_length", Value::U32(512)),
        ("llama.embedding_length", Value::U32(HIDDEN as u32)),
        ("llama.feed_forward_length", Value::U32(64)),
        ("llama.attention.head_count", Value::U32(2)),
        ("llama.attention.head_count_kv", Value::U32(1)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(10000.0)),
    ];
    let pairs: Vec<(String, Value)> = model.into_iter().map(|(key, value)| (key.to_string(), value)).chain(vocabulary).collect();
    let (h, kv, inner) = (HIDDEN, 16, 64);
    let mut tensors: Vec<(String, usize, usize)> =
        vec![("token_embd.weight".into(), vocab, h), ("output_norm.weight".into(), 0, h), ("output.weight".into(), vocab, h)];
    for layer in 0..layers {
        let of_layer = [
            ("attn_norm", 0, h),
            ("attn_q", h, h),
            ("attn_k", kv, h),
            ("attn_v", kv, h),
            ("attn_output", h, h),
            ("ffn_norm", 0, h),
            ("ffn_gate", inner, h),
            ("ffn_up", inner, h),
            ("ffn_down", h, inner),
        ];
        tensors.extend(of_layer.map(|(name, rows, cols)| (format!("blk.{layer}.{name}.weight"), rows, cols)));
    }
    let mut random = Random(1);
    let stored = tensors.into_iter().map(|(name, rows, cols)| {
        let dims = if rows == 0 { vec![cols] } else { vec![cols, rows] };
        let mut bytes = Vec::new();
        put_tensor(&mut bytes, rows, cols, &mut random);
        Stored { name, dims, code: if rows == 0 { 0 } else { 8 }, bytes }
    });
    fs::write(path, gguf_bytes(&pairs, &stored.collect::<Vec<_>>()))
}

/// A tensor of a GGUF file; the first dimension is the row's.
struct Stored {
    name: String,
    dims: Vec<usize>,
    /// GGUF's type id.
    code: u32,
    bytes: Vec<u8>,
}

/// A GGUF v3 file.
fn gguf_bytes(pairs: &[(String, Value)], tensors: &[Stored]) -> Vec<u8> {
    let mut file = b"GGUF".to_vec();
    file.extend_from_slice(&3u32.to_le_bytes());
    file.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    file.extend_from_slice(&(pairs.len() as u64).to_le_bytes());
    for (key, value) in pairs {
        put_text(&mut file, key);
        put_value(&mut file, value);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        put_text(&mut file, &tensor.name);
        file.extend_from_slice(&(tensor.dims.len() as u32).to_le_bytes());
        tensor.dims.iter().for_each(|&d| file.extend_from_slice(&(d as u64).to_le_bytes()));
        file.extend_from_slice(&tensor.code.to_le_bytes());
        file.extend_from_slice(&offset.to_le_bytes());
        offset += tensor.bytes.len().next_multiple_of(32) as u64;
    }
    file.resize(file.len().next_multiple_of(32), 0);
    for tensor in tensors {
        file.extend_from_slice(&tensor.bytes);
        file.resize(file.len().next_multiple_of(32), 0);
    }
    file
}

/// A norm (`rows == 0`, f32 near one) or a Q8_0 matrix.
fn put_tensor(file: &mut Vec<u8>, rows: usize, cols: usize, random: &mut Random) {
    if rows == 0 {
        (0..cols).for_each(|_| file.extend_from_slice(&(1.0 + 0.1 * random.uniform()).to_le_bytes()));
        return;
    }
    for _ in 0..rows * cols / 32 {
        // 0x1C00 is 2^-8 in half precision: weights up to 0.5.
        file.extend_from_slice(&0x1C00u16.to_le_bytes());
        file.extend((0..32).map(|_| random.next() as u8));
    }
}

fn put_text(file: &mut Vec<u8>, text: &str) {
    file.extend_from_slice(&(text.len() as u64).to_le_bytes());
    file.extend_from_slice(text.as_bytes());
}

fn put_value(file: &mut Vec<u8>, value: &Value) {
    let mut code = |c: u32| file.extend_from_slice(&c.to_le_bytes());
    match value {
        Value::U32(v) => {
            code(4);
            code(*v);
        }
        Value::F32(v) => {
            code(6);
            code(v.to_bits());
        }
        Value::Bool(v) => {
            code(7);
            file.push(u8::from(*v));
        }
        Value::Text(v) => {
            code(8);
            put_text(file, v);
        }
        Value::Texts(v) => {
            code(9);
            code(8);
            file.extend_from_slice(&(v.len() as u64).to_le_bytes());
            v.iter().for_each(|t| put_text(file, t));
        }
        Value::Ints(v) => {
            code(9);
            code(5);
            file.extend_from_slice(&(v.len() as u64).to_le_bytes());
            v.iter().for_each(|i| file.extend_from_slice(&i.to_le_bytes()));
        }
        Value::Floats(v) => {
            code(9);
            code(6);
            file.extend_from_slice(&(v.len() as u64).to_le_bytes());
            v.iter().for_each(|f| file.extend_from_slice(&f.to_le_bytes()));
        }
    }
}
