//! What is contradictory or unknown is refused by name (classes M1 to M12 of hostile configurations), and what is merely unusual is not.

mod arch_common;

use arch_common::{Toy, llama, qwen3_5_moe, qwen3_moe};
use forebay_format::model::*;
use forebay_repack::arch::{Binding, bind};
use forebay_repack::source::{self, Checkpoint, Dtype, GgufValue, Meta};
use forebay_repack::{Error, Result};
use serde_json::json;
use std::path::Path;

fn bind_toy(toy: &Toy) -> Result<Binding> {
    let dir = tempfile::tempdir().unwrap();
    toy.write(dir.path());
    bind(&source::open(dir.path()).unwrap())
}

/// Base toy, what is done to it, the message, the exit code.
type Row = (fn() -> Toy, fn(&mut Toy), &'static str, u8);

fn check(rows: &[Row]) {
    for (i, (base, change, expected, code)) in rows.iter().enumerate() {
        let mut toy = base();
        change(&mut toy);
        let error = bind_toy(&toy).expect_err(expected);
        let text = error.to_string();
        assert!(text.contains(expected), "row {i}: {text:?} does not contain {expected:?}");
        assert!(text.len() < 500, "row {i}: {text}");
        assert_eq!(error.exit_code(), *code, "row {i}: {text}");
    }
}

#[test]
fn the_toys_themselves_bind() {
    for toy in [llama(), qwen3_moe(), qwen3_5_moe()] {
        bind_toy(&toy).unwrap();
    }
}

#[test]
fn impossible_sizes() {
    check(&[
        // M1
        (llama, |t| t.config["num_hidden_layers"] = json!(0), "config.json: num_hidden_layers is 0; it must be between 1 and 1024", 1),
        (llama, |t| t.config["num_hidden_layers"] = json!(1431655766), "num_hidden_layers is 1431655766; it must be between 1 and 1024", 1),
        // M2
        (llama, |t| t.config["num_attention_heads"] = json!(0), "the number of attention heads is 0", 1),
        (llama, |t| t.config["num_attention_heads"] = json!(3), "the hidden size 16 is not a multiple of the 3 attention heads", 1),
        (llama, |t| t.config["num_key_value_heads"] = json!(0), "layer 0: key/value heads is invalid: 0 is not between", 1),
        (llama, |t| t.config["num_key_value_heads"] = json!(4), "layer 0: key/value heads is invalid: 4 does not divide heads (2)", 1),
        (llama, |t| t.config["head_dim"] = json!(0), "layer 0: head width is invalid: 0", 1),
        (llama, |t| t.config["head_dim"] = json!(4), "q_proj.weight has shape [16, 16], but the configuration needs [8, 16]", 1),
        (llama, |t| t.config["hidden_size"] = json!(0), "hidden is invalid: 0", 1),
        (llama, |t| t.config["intermediate_size"] = json!(0), "layer 0: ffn neurons is invalid: 0", 1),
        // M3
        (qwen3_moe, |t| t.config["num_experts"] = json!(0), "layer 0: experts is invalid: 0", 1),
        (qwen3_moe, |t| t.config["num_experts_per_tok"] = json!(0), "layer 0: experts per token is invalid: 0 of 4 experts", 1),
        (qwen3_moe, |t| t.config["num_experts_per_tok"] = json!(5), "layer 0: experts per token is invalid: 5 of 4 experts", 1),
        (qwen3_moe, |t| t.config["num_experts"] = json!(5), "mlp.gate.weight has shape [4, 16], but the configuration needs [5, 16]", 1),
        (qwen3_moe, |t| t.config["decoder_sparse_step"] = json!(0), "decoder_sparse_step is 0", 1),
        (
            qwen3_5_moe,
            |t| t.config["text_config"]["shared_expert_intermediate_size"] = json!(16),
            "shared_expert.gate_proj.weight has shape [12, 16], but the configuration needs [16, 16]",
            1,
        ),
        (
            qwen3_5_moe,
            |t| t.config["text_config"]["linear_num_key_heads"] = json!(3),
            "key heads is invalid: 3 does not divide value heads (4)",
            1,
        ),
        (
            qwen3_5_moe,
            |t| t.config["text_config"]["num_experts"] = json!(8),
            "mlp.gate.weight has shape [4, 16], but the configuration needs [8, 16]",
            1,
        ),
        // M4
        (llama, |t| t.config["vocab_size"] = json!(33), "embed_tokens.weight has shape [32, 16], but the configuration needs [33, 16]", 1),
        (llama, |t| t.config["vocab_size"] = json!(0), "vocab is invalid: 0", 1),
        (llama, |t| t.config["eos_token_id"] = json!([2, 32]), "an end token is 32, but the vocabulary has 32 rows", 1),
        // M6
        (llama, |t| t.config["max_position_embeddings"] = json!(0), "context is invalid: 0", 1),
        (
            llama,
            |t| t.config["max_position_embeddings"] = json!(4294967296u64),
            "max_position_embeddings is 4294967296; the limit is 4294967295",
            1,
        ),
    ]);
}

#[test]
fn impossible_numbers() {
    check(&[
        // M5
        (llama, |t| t.config["rope_theta"] = json!(0), "layer 0: rope theta is invalid: 0 is not a number above zero", 1),
        (llama, |t| t.config["rope_theta"] = json!(-10000.0), "layer 0: rope theta is invalid: -10000", 1),
        (llama, |t| t.config["rope_theta"] = json!("NaN"), "rope_theta is \"NaN\"; a number is needed", 1),
        (llama, |t| t.config["rms_norm_eps"] = json!(0), "final norm epsilon is invalid: 0 is not a number above zero", 1),
        (llama, |t| t.config["rms_norm_eps"] = json!("NaN"), "rms_norm_eps is \"NaN\"; a number is needed", 1),
        (llama, |t| t.config["rope_scaling"] = json!({"rope_type": "longrope"}), "rope type \"longrope\" is not supported", 4),
        (llama, |t| t.config["rope_scaling"] = json!({"type": "dynamic", "factor": 2.0}), "rope type \"dynamic\" is not supported", 4),
        (llama, |t| t.config["rope_scaling"] = json!({"type": "linear"}), "rope_scaling.factor is missing", 1),
        (llama, |t| t.config["rope_scaling"] = json!({"type": "linear", "factor": 0}), "rope_scaling.factor is 0; it must be above 0", 1),
        (llama, |t| t.config["rope_scaling"] = json!([1]), "rope_scaling is [1]; an object is needed", 1),
        (
            llama,
            |t| {
                t.config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32})
            },
            "high_freq_factor is 4; it must be above low_freq_factor (4)",
            1,
        ),
        (
            llama,
            |t| t.config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 5.0}),
            "rope_theta is given twice, as 5 and as 10000",
            1,
        ),
        (llama, |t| t.config["partial_rotary_factor"] = json!(0.5), "partial_rotary_factor = 0.5 is not supported", 4),
        (
            qwen3_5_moe,
            |t| t.config["text_config"]["rope_parameters"]["partial_rotary_factor"] = json!(0.0),
            "partial_rotary_factor is 0; it must be above 0",
            1,
        ),
        // M10
        (llama, |t| t.config["hidden_size"] = json!("16"), "hidden_size is \"16\"; a whole number of at least 0 is needed", 1),
        (llama, |t| t.config["num_hidden_layers"] = json!(2.5), "num_hidden_layers is 2.5; a whole number", 1),
        (llama, |t| t.config["num_hidden_layers"] = json!(-2), "num_hidden_layers is -2; a whole number", 1),
        (llama, |t| t.config["num_hidden_layers"] = json!(true), "num_hidden_layers is true; a whole number", 1),
        (llama, |t| t.config["num_hidden_layers"] = json!(null), "num_hidden_layers is missing", 1),
        (llama, |t| t.config["tie_word_embeddings"] = json!(1), "tie_word_embeddings is 1; true or false is needed", 1),
        (llama, |t| t.config["hidden_act"] = json!(7), "hidden_act is 7; a text is needed", 1),
        (llama, |t| t.config["eos_token_id"] = json!("2"), "eos_token_id is \"2\"; a token id or a list of them is needed", 1),
        (qwen3_5_moe, |t| t.config["text_config"] = json!(3), "text_config is 3; an object is needed", 1),
        (
            qwen3_5_moe,
            |t| t.config["text_config"]["layer_types"] = json!(["full_attention"]),
            "text_config.layer_types has 1 entries, but there are 2 layers",
            1,
        ),
        (qwen3_5_moe, |t| t.config["text_config"]["layer_types"] = json!([1, 2]), "layer_types holds something other than texts", 1),
        (
            llama,
            |t| {
                t.config.as_object_mut().unwrap().remove("model_type");
                t.config["architectures"] = json!(null);
            },
            "model_type is missing",
            1,
        ),
    ]);
}

#[test]
fn unknown_mechanisms() {
    check(&[
        (llama, |t| t.config["model_type"] = json!("llama5"), "model type \"llama5\" is not supported: supported are llama,", 4),
        (
            llama,
            |t| t.config["architectures"] = json!(["LlamaForSequenceClassification"]),
            "model class \"LlamaForSequenceClassification\" is not supported",
            4,
        ),
        (llama, |t| t.config["hidden_act"] = json!("mish"), "activation \"mish\" is not supported", 4),
        (llama, |t| t.config["hidden_act"] = json!("fatrelu"), "hidden_act_param is missing", 1),
        (
            llama,
            |t| t.config["quantization_config"] = json!({"quant_method": "gptq", "bits": 4}),
            "quantisation \"gptq\" of a Hugging Face checkpoint is not supported",
            4,
        ),
        (qwen3_5_moe, |t| t.config["quantization_config"] = json!({"quant_method": "fp8"}), "quantisation \"fp8\"", 4),
        (qwen3_5_moe, |t| t.config["text_config"]["quantization_config"] = json!({"quant_method": "awq"}), "quantisation \"awq\"", 4),
        (qwen3_5_moe, |t| t.config["text_config"]["layer_types"][0] = json!("mamba"), "layer type \"mamba\" is not supported", 4),
        (qwen3_5_moe, |t| t.config["text_config"]["attn_output_gate"] = json!(false), "attn_output_gate = false is not supported", 4),
        (
            qwen3_moe,
            |t| t.config["layer_types"] = json!(["full_attention", "sliding_attention"]),
            "layer_types makes layer 1 a sliding one, but use_sliding_window is not set",
            1,
        ),
        // M7: scales of a quantisation that the configuration does not mention
        (
            llama,
            |t| t.tensors.push(("model.layers.0.mlp.up_proj.weight_scale_inv".into(), "F32", vec![1, 1], 0)),
            "a model of this family with 1 more tensors than known (model.layers.0.mlp.up_proj.weight_scale_inv)",
            4,
        ),
        (
            llama,
            |t| t.tensor("model.layers.0.mlp.up_proj.weight").1 = "F8_E4M3",
            "weight type F8_E4M3 (tensor model.layers.0.mlp.up_proj.weight, model.safetensors) is not supported: not yet",
            4,
        ),
        (llama, |t| t.tensor("lm_head.weight").1 = "I32", "weight type I32 (tensor lm_head.weight", 4),
        (
            llama,
            |t| t.tensors.push(("model.layers.1.mlp.up_proj.bias".into(), "BF16", vec![24], 0)),
            "(model.layers.1.mlp.up_proj.bias)",
            4,
        ),
    ]);
}

#[test]
fn tensors_that_do_not_fit() {
    check(&[
        // M9
        (llama, |t| t.drop_tensors("lm_head"), "the model needs tensor lm_head.weight, which is missing", 1),
        (
            llama,
            |t| {
                t.config["tie_word_embeddings"] = json!(true);
                t.tensor("lm_head.weight").3 = 1;
            },
            "tensor lm_head.weight differs from model.embed_tokens.weight, but config.json says that they are tied",
            1,
        ),
        // M11
        (
            llama,
            |t| t.drop_tensors("layers.1.mlp.up_proj"),
            "the model needs tensor model.layers.1.mlp.up_proj.weight, which is missing",
            1,
        ),
        (
            llama,
            |t| t.config["num_hidden_layers"] = json!(3),
            "the model needs tensor model.layers.2.input_layernorm.weight, which is missing",
            1,
        ),
        (llama, |t| t.config["num_hidden_layers"] = json!(1), "belongs to layer 1, but config.json says 1 layers", 1),
        (
            qwen3_moe,
            |t| t.drop_tensors("layers.1.mlp.experts.2.down"),
            "model.layers.1.mlp.experts.2.down_proj.weight, which is missing (expert 2 of 4)",
            1,
        ),
        (qwen3_moe, |t| t.drop_tensors("experts"), "model.layers.0.mlp.experts.0.gate_proj.weight, which is missing (expert 0 of 4)", 1),
        (
            qwen3_moe,
            |t| {
                t.config["num_experts"] = json!(3);
                for i in 0..2 {
                    t.tensor(&format!("model.layers.{i}.mlp.gate.weight")).2[0] = 3;
                }
            },
            "belongs to expert 3, but config.json says 3 experts",
            1,
        ),
        (
            qwen3_5_moe,
            |t| t.tensor("model.language_model.layers.1.mlp.experts.gate_up_proj").2 = vec![4, 8, 32],
            "experts.gate_up_proj has shape [4, 8, 32], but the configuration needs [4, 16, 16]",
            1,
        ),
        (
            qwen3_moe,
            |t| t.tensor("model.layers.0.mlp.experts.1.down_proj.weight").2 = vec![8, 16],
            "has shape [8, 16], but the configuration needs [16, 8]",
            1,
        ),
    ]);
}

#[test]
fn what_is_unusual_but_clear() {
    let mut toy = llama();
    toy.config["tie_word_embeddings"] = json!(true);
    toy.config["auto_map"] = json!({"AutoModelForCausalLM": "evil.Model"});
    toy.tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), "F32", vec![4], 0));
    let b = bind_toy(&toy).unwrap();
    assert!(b.spec.tied_head && b.head.len() == 1);
    let whats: Vec<&str> = b.unused.iter().map(|u| u.what.as_str()).collect();
    assert_eq!(whats, ["head (a copy of the embedding)", "rotary frequency buffers"]);
    assert!(b.remarks.iter().any(|r| r.contains("its own code (auto_map), which is not run")), "{:?}", b.remarks);

    // Biases are found by looking.
    let mut toy = llama();
    for i in 0..2 {
        for (part, n) in [("q", 16), ("k", 8), ("v", 8), ("o", 16)] {
            toy.tensors.push((format!("model.layers.{i}.self_attn.{part}_proj.bias"), "BF16", vec![n], 0));
        }
    }
    let b = bind_toy(&toy).unwrap();
    assert!(matches!(&b.spec.layers[1].mixer, Mixer::Attention(a) if a.qkv_bias && a.out_bias));

    // A sliding window of Mistral, whose class has one by default.
    let mut toy = llama();
    toy.config["model_type"] = json!("mistral");
    toy.config["architectures"] = json!(["MistralForCausalLM"]);
    assert!(matches!(&bind_toy(&toy).unwrap().spec.layers[0].mixer, Mixer::Attention(a) if a.sliding_window == Some(4096)));
    toy.config["sliding_window"] = json!(null);
    assert!(matches!(&bind_toy(&toy).unwrap().spec.layers[0].mixer, Mixer::Attention(a) if a.sliding_window.is_none()));

    // Windows of the Qwen family, and what a missing key means.
    let mut toy = qwen3_moe();
    toy.config["use_sliding_window"] = json!(true);
    toy.config["sliding_window"] = json!(32);
    toy.config.as_object_mut().unwrap().remove("norm_topk_prob");
    toy.config["layer_types"] = json!(["full_attention", "sliding_attention"]);
    let b = bind_toy(&toy).unwrap();
    let windows: Vec<Option<u32>> = b
        .spec
        .layers
        .iter()
        .map(|l| match &l.mixer {
            Mixer::Attention(a) => a.sliding_window,
            Mixer::GatedDelta(_) => None,
        })
        .collect();
    assert_eq!(windows, [None, Some(32)]);
    assert!(matches!(&b.spec.layers[0].ffn, Ffn::Routed(r) if r.router == Router::Softmax { renormalize: false }));
}

#[test]
fn fused_experts_have_gate_rows_first() {
    let b = bind_toy(&qwen3_5_moe()).unwrap();
    let e = b.experts[1][3];
    assert_eq!((e.gate.first, e.gate.count), (3 * 16, 8));
    assert_eq!((e.up.first, e.up.count), (3 * 16 + 8, 8));
    assert_eq!((e.down.first, e.down.count), (3 * 16, 16));
    assert_eq!(e.gate.tensor, e.up.tensor);
    assert_eq!(b.carried.len(), 1);
    assert_eq!(b.remarks[0], "vision tower not used: 2 tensors, 200 B");
    assert_eq!(b.remarks[1], "multi-token prediction carried, not used: 1 tensor, 1024 B");
}

/// The dense hybrid, made of the one with experts: from both sources.
#[test]
fn the_dense_hybrid() {
    let mut toy = qwen3_5_moe();
    toy.config = toy.config["text_config"].clone();
    toy.config["model_type"] = json!("qwen3_5_text");
    toy.config["architectures"] = json!(["Qwen3_5ForCausalLM"]);
    toy.config["intermediate_size"] = json!(24);
    toy.drop_tensors(".mlp.");
    for i in 0..2 {
        for (name, shape) in [("gate_proj", [24, 16]), ("up_proj", [24, 16]), ("down_proj", [16, 24])] {
            toy.tensors.push((format!("model.language_model.layers.{i}.mlp.{name}.weight"), "BF16", shape.to_vec(), 0));
        }
    }
    let b = bind_toy(&toy).unwrap();
    assert!(b.spec.layers.iter().all(|l| matches!(l.ffn, Ffn::Dense(GatedFfn { inner: 24, .. }))));
    assert!(matches!(&b.spec.layers[0].mixer, Mixer::GatedDelta(d) if d.decay == Decay::Log));
    assert!(matches!(&b.spec.layers[1].mixer, Mixer::Attention(a) if a.output_gate && a.rope.as_ref().is_some_and(|r| r.dim == 2)));

    let b = gguf(|pairs, c| {
        for (key, value) in pairs.iter_mut() {
            *key = key.replace("qwen35moe.", "qwen35.");
            if key == "general.architecture" {
                *value = GgufValue::Text("qwen35".into());
            }
        }
        pairs.retain(|(k, _)| !k.contains("expert"));
        set(pairs, "qwen35.feed_forward_length", Some(GgufValue::Uint(128)));
        c.tensors.retain(|t| !t.name.contains("_exps") && !t.name.contains("ffn_gate_inp"));
        for t in &mut c.tensors {
            t.name = t.name.replace("_shexp", "");
        }
        c.by_name = c.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
    })
    .unwrap();
    assert!(b.spec.layers.iter().all(|l| matches!(l.ffn, Ffn::Dense(GatedFfn { inner: 128, .. }))));
    assert!(matches!(&b.spec.layers[0].mixer, Mixer::GatedDelta(d) if d.value_head_order == ValueHeadOrder::Tiled));
    assert!(b.experts.iter().all(Vec::is_empty) && b.remarks.is_empty());
}

#[test]
fn yarn_as_the_qwen_family_writes_it() {
    let mut toy = llama();
    toy.config["rope_scaling"] = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
    let b = bind_toy(&toy).unwrap();
    assert_eq!(b.spec.context, 256);
    let Mixer::Attention(a) = &b.spec.layers[0].mixer else { panic!("not attention") };
    let RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, truncate } =
        a.rope.as_ref().expect("a rotary encoding").scaling
    else {
        panic!("{:?}", a.rope)
    };
    assert_eq!((factor, original_context, beta_fast, beta_slow, truncate), (4.0, 64, 32.0, 1.0, true));
    assert!((attention_factor - (0.1 * 4f32.ln() + 1.0)).abs() < 1e-6);
}

/// A tokenizer of two added tokens, with or without a template that adds the first.
fn with_tokenizer(adds: bool, config: serde_json::Value) -> Toy {
    let mut toy = llama();
    let template = json!({"type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}}});
    let document = json!({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "post_processor": if adds { template } else { json!(null) },
        "added_tokens": [{"id": 3, "content": "<s>", "special": true}, {"id": 4, "content": "<|im_end|>", "special": true}]});
    toy.files = vec![("tokenizer.json", document), ("tokenizer_config.json", config)];
    toy
}

#[test]
fn text_around_the_model() {
    let plain = json!({"add_bos_token": true, "bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "<|im_end|>",
        "chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D<|im_end|>"}]});
    let mut toy = with_tokenizer(false, plain);
    toy.files.push(("generation_config.json", json!({"eos_token_id": [5, 2], "temperature": 0.6, "top_p": 0.9, "top_k": -1})));
    let b = bind_toy(&toy).unwrap();
    assert_eq!(b.tokenizer.as_ref().unwrap().bos, Some(3));
    assert_eq!(b.chat_template.as_deref(), Some("D<|im_end|>"));
    assert_eq!(b.generation.stop_tokens, [2, 4, 5]);
    assert_eq!((b.generation.temperature, b.generation.top_p, b.generation.top_k), (Some(0.6), Some(0.9), None));
    assert_eq!((b.generation.bos_text.as_deref(), b.generation.eos_text.as_deref()), (Some("<s>"), Some("<|im_end|>")));
    // A template of the post-processor counts as well: the runtime adds the token by itself and never runs the post-processor.
    assert_eq!(bind_toy(&with_tokenizer(true, json!({}))).unwrap().tokenizer.unwrap().bos, Some(3));
    assert_eq!(bind_toy(&with_tokenizer(false, json!({}))).unwrap().tokenizer.unwrap().bos, None);

    check(&[
        (|| with_tokenizer(false, json!({"eos_token": [1]})), |_| {}, "eos_token is [1]; a text or an object with content is needed", 1),
        (
            || with_tokenizer(false, json!({"bos_token": "<s>", "add_bos_token": true})),
            |t| t.files[0].1["added_tokens"][0]["id"] = json!(40),
            "the token in front of a text is 40, but the vocabulary has 32 rows",
            1,
        ),
        (
            llama,
            |t| t.files = vec![("generation_config.json", json!({"temperature": "hot"}))],
            "generation_config.json: temperature is \"hot\"; a number",
            1,
        ),
    ]);
}

/// The bundled GGUF file with one thing changed in what its header says.
fn gguf(change: impl Fn(&mut Vec<(String, GgufValue)>, &mut Checkpoint)) -> Result<Binding> {
    let mut checkpoint = source::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/pocket-moe-10m-q8_0.gguf")).unwrap();
    let Meta::Gguf(mut pairs) = checkpoint.meta.clone() else { panic!("not a GGUF file") };
    change(&mut pairs, &mut checkpoint);
    checkpoint.meta = Meta::Gguf(pairs);
    bind(&checkpoint)
}

fn set(pairs: &mut Vec<(String, GgufValue)>, key: &str, value: Option<GgufValue>) {
    pairs.retain(|(k, _)| k != key);
    pairs.extend(value.map(|v| (key.to_owned(), v)));
}

#[test]
fn gguf_metadata() {
    use GgufValue::*;
    let table: &[(&str, Option<GgufValue>, &str)] = &[
        ("general.architecture", None, "general.architecture is missing"),
        ("general.architecture", Some(Uint(1)), "general.architecture is 1; a text is needed"),
        ("general.architecture", Some(Text("gemma4".into())), "architecture \"gemma4\" is not supported: supported are llama, olmoe,"),
        ("qwen35moe.block_count", None, "qwen35moe.block_count is missing"),
        ("qwen35moe.block_count", Some(Uint(0)), "qwen35moe.block_count is 0; it must be between 1 and 1024"),
        ("qwen35moe.block_count", Some(Uint(1431655766)), "qwen35moe.block_count is 1431655766; it must be between 1 and 1024"),
        ("qwen35moe.block_count", Some(Text("6".into())), "qwen35moe.block_count is \"6\"; a whole number"),
        ("qwen35moe.block_count", Some(Uint(5)), "belongs to layer 5, but pocket-moe-10m-q8_0.gguf says 5 layers"),
        ("qwen35moe.block_count", Some(Uint(7)), "qwen35moe.attention.recurrent_layers has 6 entries for 7 layers"),
        ("qwen35moe.nextn_predict_layers", Some(Uint(6)), "qwen35moe.nextn_predict_layers is 6, but there are only 6 blocks"),
        ("qwen35moe.attention.head_count", Some(Uint(0)), "layer 2: heads is invalid: 0"),
        ("qwen35moe.attention.head_count_kv", Some(Uint(3)), "key/value heads is invalid: 3 does not divide heads (4)"),
        ("qwen35moe.attention.head_count_kv", Some(Array(vec![Uint(2), Uint(1)])), "with different values per layer is not supported"),
        ("qwen35moe.attention.value_length", Some(Uint(32)), "qwen35moe.attention.value_length 32 beside key_length 48 is not supported"),
        ("qwen35moe.context_length", Some(Uint(0)), "context is invalid: 0"),
        ("qwen35moe.context_length", Some(Uint(1 << 32)), "qwen35moe.context_length is 4294967296; the limit"),
        ("qwen35moe.rope.freq_base", Some(Float(f64::NAN)), "rope theta is invalid: NaN"),
        ("qwen35moe.rope.freq_base", Some(Float(0.0)), "rope theta is invalid: 0"),
        ("qwen35moe.rope.dimension_count", Some(Uint(64)), "rotary width is invalid: 64"),
        ("qwen35moe.rope.scaling.type", Some(Text("longrope".into())), "rope scaling \"longrope\" is not supported"),
        ("qwen35moe.rope.scaling.type", Some(Text("yarn".into())), "qwen35moe.rope.scaling.factor is missing"),
        ("qwen35moe.attention.layer_norm_rms_epsilon", Some(Float(0.0)), "final norm epsilon is invalid: 0"),
        ("qwen35moe.attention.layer_norm_rms_epsilon", Some(Float(f64::NAN)), "final norm epsilon is invalid: NaN"),
        ("qwen35moe.attention.layer_norm_rms_epsilon", None, "layer_norm_rms_epsilon is missing"),
        ("qwen35moe.expert_count", Some(Uint(0)), "experts is invalid: 0"),
        ("qwen35moe.expert_count", Some(Uint(33)), "ffn_gate_inp.weight has shape [32, 192], but the configuration needs [33, 192]"),
        ("qwen35moe.expert_used_count", Some(Uint(33)), "experts per token is invalid: 33 of 32 experts"),
        ("qwen35moe.expert_used_count", Some(Uint(0)), "experts per token is invalid: 0 of 32 experts"),
        ("qwen35moe.expert_gating_func", Some(Uint(2)), "qwen35moe.expert_gating_func = 2 is not supported"),
        ("qwen35moe.expert_weights_norm", Some(Bool(false)), "qwen35moe.expert_weights_norm = false is not supported"),
        ("qwen35moe.ssm.time_step_rank", Some(Uint(0)), "qwen35moe.ssm.inner_size 192 is not a multiple of 0 value heads"),
        ("qwen35moe.ssm.group_count", Some(Uint(4)), "key heads is invalid: 4 does not divide value heads (6)"),
        ("qwen35moe.attention.recurrent_layers", Some(Array(vec![Bool(true)])), "recurrent_layers has 1 entries for 6 layers"),
        ("qwen35moe.attention.recurrent_layers", None, "the model needs tensor blk.2.attn_qkv.weight, which is missing"),
        ("qwen35moe.vocab_size", Some(Uint(8193)), "qwen35moe.vocab_size is 8193, but token_embd.weight has 8192 rows"),
        ("general.sampling.temp", Some(Text("hot".into())), "general.sampling.temp is \"hot\"; a number is needed"),
    ];
    for (key, value, expected) in table {
        let error = gguf(|pairs, _| set(pairs, key, value.clone())).expect_err(expected);
        assert!(error.to_string().contains(expected), "{key}: {error:?} does not contain {expected:?}");
        let code = if expected.contains("not supported") { 4 } else { 1 };
        assert_eq!(error.exit_code(), code, "{key}: {error}");
    }
}

#[test]
fn gguf_metadata_that_nobody_reads_is_named() {
    let b = gguf(|pairs, _| {
        set(pairs, "qwen35moe.attention.sliding_window", Some(GgufValue::Uint(128)));
        set(pairs, "qwen35moe.feed_forward_length", Some(GgufValue::Uint(1)));
    })
    .unwrap();
    assert_eq!(b.remarks, ["metadata without a meaning for this architecture, ignored: qwen35moe.attention.sliding_window"]);
}

#[test]
fn gguf_tensors() {
    let other = gguf(|_, c| {
        let i = c.by_name["blk.1.ffn_up_exps.weight"];
        c.tensors[i].dtype = Dtype::Other { name: "Q1_0", block_len: 128, block_bytes: 18 };
    });
    let text = other.expect_err("an unknown type").to_string();
    assert!(
        text.starts_with("weight type Q1_0 (tensor blk.1.ffn_up_exps.weight, pocket-moe-10m-q8_0.gguf) is not supported: not yet"),
        "{text}"
    );

    let norm = gguf(|_, c| {
        let (from, to) = (c.by_name["blk.1.attn_qkv.weight"], c.by_name["blk.1.attn_norm.weight"]);
        c.tensors[to].dtype = c.tensors[from].dtype;
    });
    let text = norm.expect_err("a quantised norm").to_string();
    assert!(text.contains("q8_0 for tensor blk.1.attn_norm.weight"), "{text}");

    let unknown = gguf(|_, c| {
        let i = c.by_name["blk.0.ffn_gate_inp_shexp.weight"];
        let mut more = c.tensors[i].clone();
        more.name = "blk.0.exp_probs_b.bias".into();
        c.tensors.push(more);
    });
    assert!(matches!(unknown, Err(Error::Unsupported { .. })), "{unknown:?}");

    // NVFP4's second scale, as files converted from NVIDIA's have it.
    let scaled = gguf(|_, c| {
        let i = c.by_name["blk.0.ffn_gate_inp_shexp.weight"];
        let mut more = c.tensors[i].clone();
        more.name = "blk.1.ffn_up_exps.scale".into();
        c.tensors.push(more);
    });
    let text = scaled.expect_err("a scale a tensor").to_string();
    assert!(text.contains("blk.1.ffn_up_exps.scale") && text.contains("not supported"), "{text}");
}
