//! A made-up pack runs: finite logits, the same for every window, and the window takes experts that share a place on disk for different ones.

use forebay_tests::programs::run;
use serde_json::{Value, json};
use std::path::Path;

fn config() -> Value {
    json!({
        "architectures": ["Qwen3_5MoeForCausalLM"], "model_type": "qwen3_5_moe_text", "head_dim": 64, "hidden_size": 512,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"], "linear_key_head_dim": 64, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_value_head_dim": 64, "max_position_embeddings": 512, "moe_intermediate_size": 512,
        "num_attention_heads": 4, "num_experts": 64, "num_experts_per_tok": 4, "num_hidden_layers": 3, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6, "shared_expert_intermediate_size": 256, "tie_word_embeddings": false, "vocab_size": 1000
    })
}

fn made(dir: &Path, more: &[&str]) -> String {
    let (config_path, out) = (dir.join("config.json"), dir.join("made.fby").to_string_lossy().into_owned());
    std::fs::write(&config_path, config().to_string()).expect("a temporary file");
    let shape = config_path.to_string_lossy().into_owned();
    run("forebay-repack", &[&["synth", &shape, "-o", &out, "--json"], more].concat()).expect(0);
    out
}

#[test]
fn a_made_up_pack_runs_and_repeats_that_it_is_one() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let pack = made(dir.path(), &["--alias", "8"]);
    let logits = |ram: &str, out: &str| {
        let out = dir.path().join(out).to_string_lossy().into_owned();
        run("forebay", &["logits", &pack, "--tokens", "5,900,17,300,301,5", "-o", &out, "--ram", ram]).expect(0);
        std::fs::read(out).expect("logits")
    };
    let all = logits("2G", "all");
    assert!(all == logits("92M", "few"), "the window changes logits");
    let tensors = safetensors::SafeTensors::deserialize(&all).expect("safetensors");
    let values = tensors.tensor("logits").expect("logits");
    let values: Vec<f32> = values.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let rms = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
    assert!((0.2..5.0).contains(&rms), "{rms}");
    let told = run("forebay", &["run", &pack, "hello", "-n", "4", "--no-warm-start", "--ram", "1G"]).expect(0);
    assert!(told.err.contains("8 experts share"), "{}", told.err);
    let bench =
        run("forebay", &["bench", &pack, "-p", "8", "-n", "4", "--warmup", "4", "-r", "1", "-o", "json", "--ram", "92M"]).expect(0).json();
    assert_eq!(bench["settings"]["alias"], json!("8"));
    assert!(bench["settings"]["synthetic"].as_str().is_some_and(|s| s.contains("seed 7")), "{bench}");
    // Six choices of four out of 64: were experts of one place one bundle, most of them would be hits.
    assert!(bench["median"]["cold"]["hit_rate"].as_f64().is_some_and(|h| h < 0.9), "{bench}");
}
