//! Every family from every source: the oracles and trained models bind, and both sources of one model give the same spec up to
//! the differences that the formats have.

mod arch_common;

use arch_common::shared;
use forebay_format::model::*;
use forebay_repack::arch::{Binding, bind};
use forebay_repack::source::{self, Checkpoint};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

fn bound(path: &Path) -> (Checkpoint, Binding) {
    let checkpoint = source::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let binding = bind(&checkpoint).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (checkpoint, binding)
}

/// Every tensor is bound once, carried or left out, and every bound row is inside its tensor.
fn account(checkpoint: &Checkpoint, b: &Binding) {
    let mut bound = HashSet::new();
    let trunk = b.embedding.iter().chain(b.trunk.iter().flatten()).chain(&b.head);
    for t in trunk {
        let tensor = &checkpoint.tensors[t.source.tensor];
        assert!(bound.insert(t.source.tensor), "{} bound twice", tensor.name);
        assert_eq!(u64::from(t.rows) * u64::from(t.cols), tensor.rows() * tensor.cols(), "{}", tensor.name);
        assert_eq!((t.source.first, t.source.count), (0, tensor.rows()), "{}", tensor.name);
    }
    let mut rows: HashSet<(usize, u64)> = HashSet::new();
    for (layer, experts) in b.experts.iter().enumerate() {
        let expected = match &b.spec.layers[layer].ffn {
            Ffn::Dense(_) => 0,
            Ffn::Routed(r) => r.experts as usize,
        };
        assert_eq!(experts.len(), expected);
        for part in experts.iter().flat_map(|e| [e.gate, e.up, e.down]) {
            for row in part.first..part.first + part.count {
                assert!(row < checkpoint.tensors[part.tensor].rows());
                assert!(rows.insert((part.tensor, row)), "row {row} of {} twice", checkpoint.tensors[part.tensor].name);
            }
        }
    }
    let expert_tensors: HashSet<usize> = rows.iter().map(|&(t, _)| t).collect();
    for &t in &expert_tensors {
        assert!(bound.insert(t), "{} is trunk and expert", checkpoint.tensors[t].name);
        let covered = rows.iter().filter(|(u, _)| *u == t).count() as u64;
        assert_eq!(covered, checkpoint.tensors[t].rows(), "{}", checkpoint.tensors[t].name);
    }
    let unused: u64 = b.unused.iter().map(|u| u.tensors).sum();
    assert_eq!(bound.len() as u64 + b.carried.len() as u64 + unused, checkpoint.tensors.len() as u64);
}

/// The spec with the differences removed that a source format makes: rotary pairs, baked norms, head order, decay.
fn without_format(mut spec: ModelSpec) -> ModelSpec {
    let plain = |n: &mut Norm| n.weight = NormWeight::Plain;
    plain(&mut spec.final_norm);
    for layer in &mut spec.layers {
        plain(&mut layer.mixer_norm);
        plain(&mut layer.ffn_norm);
        match &mut layer.mixer {
            Mixer::Attention(a) => {
                rope_mut(a).pairing = RopePairing::Halves;
                if let QkNorm::PerHead(n) | QkNorm::FullWidth(n) = &mut a.qk_norm {
                    plain(n);
                }
                if let RopeScaling::Factors { factors } = &mut rope_mut(a).scaling {
                    // The two computations agree to a few units in the last place; the comparison is on 5 digits.
                    factors.iter_mut().for_each(|f| *f = (*f * 1e5).round() / 1e5);
                }
            }
            Mixer::GatedDelta(d) => {
                d.value_head_order = ValueHeadOrder::Grouped;
                d.decay = Decay::Log;
            }
        }
    }
    spec
}

fn attention(b: &Binding, layer: usize) -> &Attention {
    match &b.spec.layers[layer].mixer {
        Mixer::Attention(a) => a,
        Mixer::GatedDelta(_) => panic!("layer {layer} is not attention"),
    }
}

fn rope(a: &Attention) -> &Rope {
    a.rope.as_ref().expect("a rotary encoding")
}

fn rope_mut(a: &mut Attention) -> &mut Rope {
    a.rope.as_mut().expect("a rotary encoding")
}

fn delta(b: &Binding, layer: usize) -> &GatedDelta {
    match &b.spec.layers[layer].mixer {
        Mixer::GatedDelta(d) => d,
        Mixer::Attention(_) => panic!("layer {layer} is not a delta net"),
    }
}

fn routed(b: &Binding, layer: usize) -> &Routed {
    match &b.spec.layers[layer].ffn {
        Ffn::Routed(r) => r,
        Ffn::Dense(_) => panic!("layer {layer} has no experts"),
    }
}

fn gguf_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "gguf"));
    files.sort();
    files
}

#[test]
fn every_oracle_binds_and_both_sources_agree() {
    let Some(root) = shared("oracles") else { return };
    let folders = ["llama", "llama-rope3", "llama-relu", "qwen2", "qwen3", "mixtral", "olmoe", "qwen3_moe", "qwen3_moe-256", "qwen3_5_moe"];
    for folder in folders {
        let dir = root.join(folder);
        let (checkpoint, hf) = bound(&dir);
        account(&checkpoint, &hf);
        let expected = without_format(hf.spec.clone());
        for file in gguf_files(&dir) {
            let name = file.file_name().unwrap().to_str().unwrap();
            let (checkpoint, gguf) = bound(&file);
            account(&checkpoint, &gguf);
            assert_eq!(without_format(gguf.spec.clone()), expected, "{folder}/{name}");
            assert_eq!(gguf.generation.stop_tokens, hf.generation.stop_tokens, "{folder}/{name}");
            assert_eq!(gguf.chat_template, hf.chat_template, "{folder}/{name}");
            assert_eq!(gguf.generation.eos_text.as_deref(), Some("<|im_end|>"), "{folder}/{name}");
            assert_eq!((gguf.generation.temperature, gguf.generation.top_k), (Some(0.7), Some(20)), "{folder}/{name}");
            assert!(gguf.tokenizer.is_some(), "{folder}/{name}");
            assert!(gguf.remarks.iter().all(|r| r.starts_with("multi-token prediction")), "{folder}/{name}: {:?}", gguf.remarks);
        }
        assert_eq!(hf.generation.stop_tokens, [509, 511], "{folder}");
        assert_eq!(hf.tokenizer.as_ref().unwrap().bos, None, "{folder}");
        assert_eq!(hf.tokenizer.as_ref().unwrap().json, std::fs::read_to_string(dir.join("tokenizer.json")).unwrap());
    }
}

#[test]
fn what_the_folders_exercise_is_in_the_specs() {
    let Some(root) = shared("oracles") else { return };
    let of = |folder: &str, file: &str| bound(&root.join(folder).join(file)).1;
    let llama = of("llama", "");
    let a = attention(&llama, 0);
    assert_eq!((a.heads, a.kv_heads, a.head_dim, a.scale), (4, 2, 16, 0.25));
    assert_eq!(*rope(a), Rope { theta: 1e4, dim: 16, pairing: RopePairing::Halves, scaling: RopeScaling::None });
    assert!(!llama.spec.tied_head);
    assert_eq!(rope(attention(&of("llama", "model-f16.gguf"), 0)).pairing, RopePairing::Adjacent);
    assert_eq!(rope(attention(&of("mixtral", "model-f16.gguf"), 0)).pairing, RopePairing::Adjacent);
    assert_eq!(rope(attention(&of("qwen2", "model-f16.gguf"), 0)).pairing, RopePairing::Halves);

    let relu = of("llama-relu", "");
    assert!(matches!(
        relu.spec.layers[2].ffn,
        Ffn::Dense(GatedFfn { inner: 192, activation: Activation::Relu, ungated: false, bias: false })
    ));

    let qwen2 = of("qwen2", "");
    assert!(attention(&qwen2, 1).qkv_bias && !attention(&qwen2, 1).out_bias);
    assert_eq!((attention(&qwen2, 1).sliding_window, qwen2.spec.vocab, qwen2.spec.tied_head), (None, 544, true));

    let norm = Norm::rms(1e-6, NormWeight::Plain);
    assert_eq!(attention(&of("qwen3", ""), 0).qk_norm, QkNorm::PerHead(norm));
    assert_eq!(attention(&of("olmoe", ""), 0).qk_norm, QkNorm::FullWidth(Norm { eps: 1e-5, ..norm }));
    assert_eq!(routed(&of("olmoe", ""), 0).router, Router::Softmax { renormalize: false });
    assert_eq!(routed(&of("qwen3_moe", ""), 0).router, Router::Softmax { renormalize: true });
    assert_eq!((routed(&of("mixtral", ""), 1).experts, routed(&of("mixtral", ""), 1).top_k), (8, 2));
}

/// The stored factors of a GGUF file and ours agree to a unit in the last place or two.
#[test]
fn llama3_factors_are_those_of_the_other_source() {
    let Some(root) = shared("oracles/llama-rope3") else { return };
    let factors = |file: &str| match rope(attention(&bound(&root.join(file)).1, 0)).scaling.clone() {
        RopeScaling::Factors { factors } => factors,
        other => panic!("{other:?}"),
    };
    let (ours, stored) = (factors(""), factors("model-f16.gguf"));
    assert_eq!(ours.len(), 16);
    assert!(ours.contains(&1.0) && ours.contains(&8.0));
    for (a, b) in ours.iter().zip(&stored) {
        assert!((a - b).abs() <= 4.0 * f32::EPSILON * b, "{a} {b}");
    }
}

#[test]
fn the_hybrid_from_both_sources() {
    let Some(root) = shared("oracles/qwen3_5_moe") else { return };
    let (_, hf) = bound(&root);
    assert_eq!(hf.architecture, "qwen3_5_moe");
    let kinds: Vec<bool> = hf.spec.layers.iter().map(|l| matches!(l.mixer, Mixer::GatedDelta(_))).collect();
    assert_eq!(kinds, [true, true, true, false]);
    let d = delta(&hf, 0);
    assert_eq!((d.key_heads, d.value_heads, d.key_dim, d.value_dim, d.conv_kernel), (2, 4, 16, 16, 4));
    assert_eq!((d.value_head_order, d.decay, d.norm.weight), (ValueHeadOrder::Grouped, Decay::Log, NormWeight::Plain));
    assert_eq!(hf.spec.layers[0].ffn_norm.weight, NormWeight::ZeroCentered);
    let a = attention(&hf, 3);
    assert!(a.output_gate && a.qk_norm == QkNorm::PerHead(Norm::rms(1e-6, NormWeight::ZeroCentered)));
    assert_eq!((rope(a).dim, rope(a).theta), (8, 1e7));
    let r = routed(&hf, 1);
    assert_eq!((r.experts, r.top_k, r.expert.inner), (8, 3, 32));
    assert_eq!(r.shared, Some(SharedExpert { ffn: GatedFfn::new(64, Activation::Silu), gated: true }));
    assert!(!hf.carried.is_empty());
    assert_eq!(hf.unused.len(), 1);
    assert_eq!(hf.unused[0].what, "vision tower");
    assert!(hf.remarks.iter().any(|r| r.starts_with("vision tower not used: 21 tensors, ")), "{:?}", hf.remarks);
    assert!(hf.remarks.iter().any(|r| r.starts_with("multi-token prediction carried, not used: ")), "{:?}", hf.remarks);

    let (_, gguf) = bound(&root.join("model-f16.gguf"));
    let d = delta(&gguf, 0);
    assert_eq!((d.value_head_order, d.decay, d.norm.weight), (ValueHeadOrder::Tiled, Decay::Factor, NormWeight::Plain));
    assert_eq!(gguf.spec.final_norm.weight, NormWeight::Plain);
    assert_eq!((gguf.spec.layers.len(), gguf.carried.len()), (4, 20));
}

#[test]
fn the_trained_models_bind() {
    let Some(root) = shared("models") else { return };
    let (checkpoint, b) = bound(&root.join("q35-moe-45m"));
    account(&checkpoint, &b);
    assert_eq!((b.spec.layers.len(), routed(&b, 0).experts, b.spec.context), (8, 64, 4096));
    assert_eq!(b.generation.stop_tokens, [8130]);
    assert_eq!(b.generation.eos_text.as_deref(), Some("<|im_end|>"));
    assert!(b.chat_template.as_deref().is_some_and(|t| t.contains("<|im_start|>")));
    let (checkpoint, b) = bound(&root.join("relu-llama-19m"));
    account(&checkpoint, &b);
    assert!(matches!(b.spec.layers[7].ffn, Ffn::Dense(GatedFfn { inner: 2048, activation: Activation::Relu, .. })));
}

/// The bundled model: its list of recurrent blocks contradicts its interval, and wins.
#[test]
fn the_bundled_model_binds() {
    let (checkpoint, b) = bound(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/pocket-moe-10m-q8_0.gguf"));
    account(&checkpoint, &b);
    let kinds: Vec<bool> = b.spec.layers.iter().map(|l| matches!(l.mixer, Mixer::GatedDelta(_))).collect();
    assert_eq!(kinds, [true, true, false, true, true, false]);
    assert!(b.spec.tied_head);
    assert_eq!(rope(attention(&b, 2)).dim, 24);
    assert!(b.carried.is_empty() && b.unused.is_empty() && b.remarks.is_empty());
}

#[test]
fn opt_has_positions_biases_and_no_gate() {
    let Some(root) = shared("oracles") else { return };
    let (checkpoint, b) = bound(&root.join("opt"));
    account(&checkpoint, &b);
    assert_eq!(b.spec.positions, Some(LearnedPositions { rows: 386, offset: 2 }));
    assert!(b.spec.tied_head && b.spec.embedding_width.is_none() && b.spec.final_norm.kind == NormKind::Layer);
    let layer = &b.spec.layers[1];
    assert_eq!((layer.norm_order, layer.mixer_norm.kind, layer.mixer_norm.eps), (NormOrder::Pre, NormKind::Layer, 1e-5));
    assert_eq!(layer.ffn, Ffn::Dense(GatedFfn { inner: 256, activation: Activation::Relu, ungated: true, bias: true }));
    let a = attention(&b, 1);
    assert!(a.rope.is_none() && a.qkv_bias && a.out_bias && a.scale == 0.25);
}

#[test]
fn other_families_are_refused_by_name() {
    let Some(root) = shared("oracles") else { return };
    let table = [
        ("deepseek_v3", "model type \"deepseek_v3\" is not supported"),
        ("deepseek_v3/model-f16.gguf", "architecture \"deepseek2\" is not supported"),
        ("deepseek_v3-fp8", "model type \"deepseek_v3\" is not supported"),
        ("gpt_oss", "model type \"gpt_oss\" is not supported"),
        ("gpt_oss/model-f16.gguf", "architecture \"gpt-oss\" is not supported"),
        ("gpt_oss-mxfp4", "model type \"gpt_oss\" is not supported"),
        ("glm4_moe", "model type \"glm4_moe\" is not supported"),
        ("glm4_moe/model-f16.gguf", "architecture \"glm4moe\" is not supported"),
        ("minimax_m2", "model type \"minimax_m2\" is not supported"),
        ("minimax_m2/model-f16.gguf", "architecture \"minimax-m2\" is not supported"),
        ("qwen3_next", "model type \"qwen3_next\" is not supported"),
        ("qwen3_next/model-f16.gguf", "architecture \"qwen3next\" is not supported"),
    ];
    for (path, expected) in table {
        let error = bind(&source::open(&root.join(path)).unwrap()).expect_err(path);
        assert!(error.to_string().contains(expected), "{path}: {error}");
        assert_eq!(error.exit_code(), 4, "{path}");
    }
}
