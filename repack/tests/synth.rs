//! Made-up packs: the shape of the configuration, valid to the last byte, the same on any number of threads, and honest about shared places.

use forebay_format::layout::{FEATURE_ALIASED, FEATURE_EXPERTS, FEATURE_NEURON_GROUPS, FEATURE_TILED_ROWS};
use forebay_format::model::{Ffn, Role};
use forebay_format::reference::Reader;
use forebay_format::{BundleId, Kind, QuantType};
use forebay_repack::encode::encode_row;
use forebay_repack::plan::{Neurons, Quantize};
use forebay_repack::synth::{Firing, Options, Synthesis};
use forebay_repack::verify::{Depth, Findings, verify};
use forebay_repack::write::{self, GROUP_BYTES, Silent, media};
use serde_json::{Value, json};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

static NEVER: AtomicBool = AtomicBool::new(false);
const EXPERTS: u32 = 10;

fn hybrid() -> Value {
    json!({
        "architectures": ["Qwen3_5MoeForCausalLM"], "model_type": "qwen3_5_moe_text", "head_dim": 64, "hidden_size": 256,
        "layer_types": ["linear_attention", "full_attention"], "linear_key_head_dim": 32, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "linear_value_head_dim": 32, "max_position_embeddings": 512, "moe_intermediate_size": 256,
        "num_attention_heads": 4, "num_experts": EXPERTS, "num_experts_per_tok": 2, "num_hidden_layers": 2, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6, "shared_expert_intermediate_size": 256, "tie_word_embeddings": false, "vocab_size": 600
    })
}

fn options(alias: u32) -> Options {
    Options { quantize: Quantize::To(QuantType::Q4_K), neurons: Neurons::Off, firing: None, alias, skew: 1.0, seed: 7 }
}

fn plan(dir: &Path, config: &Value, options: Options) -> forebay_repack::Result<Synthesis> {
    let path = dir.join("shape.json");
    std::fs::write(&path, config.to_string()).unwrap();
    Synthesis::new(&path, options)
}

fn made(dir: &Path, name: &str, config: &Value, options: Options, threads: usize) -> PathBuf {
    let synthesis = plan(dir, config, options).unwrap();
    let out = dir.join(name);
    let how = write::Options {
        resume: false,
        force: false,
        threads,
        group_bytes: GROUP_BYTES,
        cancel: &NEVER,
        media: &media::System,
        watch: &Silent,
    };
    write::make_up(&synthesis.checkpoint, &synthesis.weights().unwrap(), &synthesis.plan, &out, &how).unwrap();
    out
}

fn check(path: &Path) -> Findings {
    verify(path, &Depth::Full, 2, &NEVER, &Silent).unwrap()
}

#[test]
fn a_pack_has_the_shape_of_its_configuration_and_sane_values() {
    let dir = tempfile::tempdir().unwrap();
    let path = made(dir.path(), "one.fby", &hybrid(), options(1), 1);
    assert_eq!(check(&path).problems, []);
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.superblock.required, FEATURE_EXPERTS | FEATURE_TILED_ROWS);
    assert_eq!(reader.manifest.spec.vocab, 600);
    assert!(reader.manifest.provenance.notes["synthetic"].contains("seed 7"));
    assert_eq!(reader.manifest.provenance.format, "synthetic");
    let rms = |values: &[f32]| (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
    let values = |run, role| reader.tensor(run, role).unwrap().unwrap().values();
    let embedding = values(BundleId::global(Kind::Embedding, 0), Role::Embedding);
    assert!((rms(&embedding) - 1.0).abs() < 0.1, "{}", rms(&embedding));
    let [gate, up, down] = reader.expert(1, 9).unwrap();
    assert_eq!([gate.qtype, up.qtype], [QuantType::Q4_K; 2]);
    assert!((rms(&gate.values()) * 16.0 - 1.0).abs() < 0.1 && gate.bytes != up.bytes);
    assert!(rms(&down.values()) < 0.02);
    assert!(values(BundleId::trunk(0), Role::MixerNorm).iter().all(|&v| v == 0.0), "zero-centred norms");
    assert!(values(BundleId::trunk(0), Role::DeltaNorm).iter().all(|&v| v == 1.0));
    assert_eq!(reader.tensor(BundleId::trunk(1), Role::Router).unwrap().unwrap().qtype, QuantType::F32);
    assert_ne!(reader.bundle(BundleId::expert(0, 0)).unwrap(), reader.bundle(BundleId::expert(0, 1)).unwrap());
}

#[test]
fn bytes_depend_on_the_options_and_not_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = |name: &str, options, threads| std::fs::read(made(dir.path(), name, &hybrid(), options, threads)).unwrap();
    let one = bytes("a.fby", options(4), 1);
    assert!(one == bytes("b.fby", options(4), 5));
    assert!(one != bytes("c.fby", Options { seed: 8, ..options(4) }, 1));
    assert!(one[48..64] != bytes("d.fby", Options { skew: 0.5, ..options(4) }, 1)[48..64], "another pack id");
}

#[test]
fn experts_that_share_a_place_are_bundles_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = made(dir.path(), "aliased.fby", &hybrid(), options(4), 2);
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.superblock.required, FEATURE_EXPERTS | FEATURE_TILED_ROWS | FEATURE_ALIASED);
    assert_eq!(reader.manifest.provenance.notes["alias"], "4");
    // Ten experts in places of four, four and two.
    assert_eq!((reader.index.count(Kind::Expert, 0), reader.index.aliased()), (EXPERTS, 2 * (EXPERTS as usize - 3)));
    let bundle = |e| reader.bundle(BundleId::expert(0, e)).unwrap();
    assert!(bundle(0) == bundle(3) && bundle(3) != bundle(4) && bundle(8) == bundle(9));
    let sums = |e| reader.index.sums(reader.index.get(BundleId::expert(0, e)).unwrap(), reader.superblock.chunk_bytes).to_vec();
    assert_ne!(sums(0), sums(1), "sums are bound to the expert");
    let found = check(&path);
    assert_eq!((found.problems.as_slice(), found.bundles), (&[][..], found.bundles_total));
    let place = reader.index.get(BundleId::expert(0, 5)).unwrap().offset;
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, place + 1000).unwrap();
    file.write_all_at(&[byte[0] ^ 4], place + 1000).unwrap();
    let problems = check(&path).problems;
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].place, "layer 0 expert 4 and 3 more in its place");
}

fn sparse(neurons: Neurons) -> (Value, Options) {
    let config = json!({
        "architectures": ["OPTForCausalLM"], "model_type": "opt", "hidden_size": 512, "ffn_dim": 2048, "num_hidden_layers": 2,
        "num_attention_heads": 8, "vocab_size": 400, "max_position_embeddings": 128, "word_embed_proj_dim": 512
    });
    let firing = Some(Firing { active: 0.05, overlap: 0.75 });
    (config, Options { quantize: Quantize::To(QuantType::F16), neurons, firing, ..options(1) })
}

#[test]
fn neurons_fire_as_asked_and_their_sketch_is_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, neurons, threads| {
        let (config, options) = sparse(neurons);
        made(dir.path(), name, &config, options, threads)
    };
    let path = make("auto.fby", Neurons::Auto, 1);
    assert_eq!(check(&path).problems, []);
    assert!(std::fs::read(&path).unwrap() == std::fs::read(make("again.fby", Neurons::Auto, 5)).unwrap());
    let (auto, off) = (Reader::open(&path).unwrap(), Reader::open(&make("off.fby", Neurons::Off, 2)).unwrap());
    assert_eq!((auto.superblock.required, off.superblock.required), (FEATURE_NEURON_GROUPS, 0));
    assert!(auto.manifest.provenance.notes["firing"].starts_with("5.000% of neurons fire for a token, 75.000% of them"));
    for layer in 0..2 {
        let trunk = |r: &Reader, role| r.tensor(BundleId::trunk(layer), role).unwrap().unwrap();
        let (gate, up, down) = auto.neurons(layer).unwrap();
        assert!(gate.is_none() && up == trunk(&off, Role::FfnUp) && down == trunk(&off, Role::FfnDown), "the same network");
        let sketch = trunk(&auto, Role::NeuronSketch);
        let row = sketch.bytes.len() / 2048;
        for n in [0, 77, 2047] {
            let mut expected = vec![0; row];
            encode_row(sketch.qtype, &up.row(n).unwrap(), &mut expected).unwrap();
            assert!(sketch.bytes[n as usize * row..][..row] == expected, "sketch of neuron {n}");
        }
        // The layers hardly change the stream: what a network gets is nearly its norm of the embedding.
        let bias = trunk(&auto, Role::FfnUpBias).values();
        let embedding = embedding_of(&auto);
        let rows: Vec<Vec<f32>> = (0..2048).map(|n| up.row(n).unwrap()).collect();
        let fired: Vec<Vec<bool>> = (0..24).map(|t| fires(&embedding.row(t * 16).unwrap(), &rows, &bias)).collect();
        let count = |f: &[bool]| f.iter().filter(|&&x| x).count() as f64;
        let share = fired.iter().map(|f| count(f)).sum::<f64>() / (24.0 * 2048.0);
        assert!((share / 0.05 - 1.0).abs() < 0.15, "{share}");
        let shared = |a: &Vec<bool>, b: &Vec<bool>| a.iter().zip(b).filter(|&(x, y)| *x && *y).count() as f64 / count(a);
        let overlap = fired.windows(2).map(|w| shared(&w[0], &w[1])).sum::<f64>() / 23.0;
        assert!((overlap - 0.75).abs() < 0.05, "{overlap}");
    }
}

fn embedding_of(r: &Reader) -> forebay_format::reference::Matrix {
    r.tensor(BundleId::global(Kind::Embedding, 0), Role::Embedding).unwrap().unwrap()
}

/// Neurons that fire for an embedding.
fn fires(x: &[f32], rows: &[Vec<f32>], bias: &[f32]) -> Vec<bool> {
    let mean = x.iter().sum::<f32>() / x.len() as f32;
    let deviation = (x.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / x.len() as f32).sqrt();
    let z = |row: &Vec<f32>| row.iter().zip(x).map(|(w, v)| w * (v - mean) / deviation).sum::<f32>();
    rows.iter().zip(bias).map(|(row, b)| z(row) + b > 0.0).collect()
}

#[test]
fn an_outline_opens_like_the_pack_and_holds_no_weights() {
    let dir = tempfile::tempdir().unwrap();
    let synthesis = plan(dir.path(), &hybrid(), options(1)).unwrap();
    let out = dir.path().join("outline.fby");
    write::outline::outline(&synthesis.plan, &out).unwrap();
    assert!(write::outline::outline(&synthesis.plan, &out).is_err(), "nothing is replaced");
    let (outline, whole) = (Reader::open(&out).unwrap(), Reader::open(&made(dir.path(), "w.fby", &hybrid(), options(1), 1)).unwrap());
    let places = |r: &Reader| r.records().iter().map(|x| (x.id, x.offset, x.length)).collect::<Vec<_>>();
    assert_eq!(places(&outline), places(&whole));
    assert_eq!(outline.manifest.spec, whole.manifest.spec);
    assert!(outline.bundle(BundleId::expert(0, 0)).is_err());
}

#[test]
fn the_published_shapes_have_the_published_sizes() {
    let shapes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/shapes");
    // Parameters in billions: all, and of experts; from the model cards.
    for (name, all, routed) in [
        ("moe-397b-a17b", 396.3, 386.5),
        ("moe-35b-a3b", 34.7, 32.2),
        ("moe-30b-a3b", 30.5, 29.0),
        ("dense-8b", 8.03, 0.0),
        ("sparse-6.7b", 6.66, 0.0),
    ] {
        let synthesis = Synthesis::new(&shapes.join(format!("{name}.json")), Options { quantize: Quantize::Keep, ..options(1) }).unwrap();
        let tensors = synthesis.checkpoint.tensors.iter();
        let values = tensors.map(|t| t.shape.iter().product::<u64>()).sum::<u64>() as f64 / 1e9;
        assert!((values / all - 1.0).abs() < 0.01, "{name}: {values}");
        let spec = &synthesis.plan.manifest.spec;
        let experts = spec.layers.iter().map(|l| match &l.ffn {
            Ffn::Routed(r) => 3 * u64::from(r.experts) * u64::from(r.expert.inner) * u64::from(spec.hidden),
            _ => 0,
        });
        let experts = experts.sum::<u64>() as f64 / 1e9;
        assert!((experts - routed).abs() <= 0.01 * routed, "{name}: {experts}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let refusal = |config: &Value, options: Options| match plan(dir.path(), config, options) {
        Ok(_) => panic!("{config} was taken"),
        Err(e) => (e.exit_code(), e.to_string()),
    };
    let with = |key: &str, value: Value| {
        let mut config = hybrid();
        config[key] = value;
        config
    };
    for (config, code, text) in [
        (json!([1]), 1, "shape.json"),
        (with("model_type", json!("unheard_of")), 4, "unheard_of"),
        (with("num_experts", json!(4_000_000_000u32)), 1, "experts is invalid"),
        (with("num_hidden_layers", json!(900)), 1, "layer_types has 2 entries"),
        (with("hidden_size", json!(null)), 1, "hidden_size is missing"),
        (with("num_hidden_layers", json!(100_000)), 1, "num_hidden_layers"),
    ] {
        let (got, message) = refusal(&config, options(1));
        assert!(got == code && message.contains(text), "{got} {message}");
    }
    assert_eq!(refusal(&hybrid(), options(0)).0, 2);
    let firing = |active, overlap| Options { firing: Some(Firing { active, overlap }), ..sparse(Neurons::Off).1 };
    assert_eq!(refusal(&sparse(Neurons::Off).0, firing(0.7, 0.8)).0, 2);
    let (code, message) = refusal(&hybrid(), firing(0.03, 0.5));
    assert!(code == 2 && message.contains("this model has none"), "{message}");
    assert_eq!(refusal(&hybrid(), Options { skew: f32::NAN, ..options(1) }).0, 2);
}

#[test]
fn every_family_can_be_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let common = json!({ "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "num_key_value_heads": 2,
        "num_hidden_layers": 2, "vocab_size": 300, "max_position_embeddings": 512 });
    for (kind, more) in [
        ("llama", json!({})),
        ("mistral", json!({})),
        ("mixtral", json!({ "num_local_experts": 4 })),
        ("olmoe", json!({ "num_experts": 4, "num_experts_per_tok": 2 })),
        ("arcee", json!({})),
        ("opt", json!({ "ffn_dim": 512 })),
        ("qwen2", json!({ "tie_word_embeddings": true })),
        ("qwen3", json!({ "head_dim": 64 })),
        (
            "qwen3_moe",
            json!({ "head_dim": 64, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "mlp_only_layers": [0] }),
        ),
    ] {
        let mut config = common.clone();
        config["model_type"] = kind.into();
        more.as_object().unwrap().iter().for_each(|(k, v)| config[k] = v.clone());
        let path = made(dir.path(), &format!("{kind}.fby"), &config, options(1), 1);
        assert_eq!(check(&path).problems, [], "{kind}");
    }
}
