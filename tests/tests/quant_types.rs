//! One model with a matrix of every block type: what the pack holds, what is computed from it, and what is refused.

use forebay::kernels::ActivationMode;
use forebay::{Engine, Options, Wanted};
use forebay_format::QuantType;
use forebay_format::quant::QUANTS;
use forebay_repack::plan::{Plan, Quantize};
use forebay_repack::verify::{Depth, verify};
use forebay_repack::write::Silent;
use forebay_repack::{arch, source};
use forebay_tests::numbers::{deviation, kl, median, rms_difference};
use forebay_tests::packs;
use forebay_tests::toy::{Mixed, VOCAB, write_mixed_gguf};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// All types with blocks.
fn types() -> Vec<QuantType> {
    QUANTS.iter().map(|q| q.qtype).filter(|t| !t.is_float()).collect()
}

/// A GGUF file and its pack, in folders of their own.
fn pack(dir: &Path, name: &str, mixed: &Mixed<'_>) -> forebay_repack::Result<(PathBuf, PathBuf)> {
    let dir = dir.join(name);
    std::fs::create_dir_all(&dir).expect("a folder");
    let gguf = dir.join("model.gguf");
    write_mixed_gguf(&gguf, mixed).unwrap_or_else(|e| panic!("{e}"));
    packs::convert(&gguf, &dir).map(|pack| (gguf, pack))
}

/// Logits of a prompt in one feed, then of single tokens.
fn logits(pack: &Path, activations: ActivationMode) -> Vec<f32> {
    let options = Options { activations, context: Some(64), threads: Some(2), ..Options::default() };
    let mut engine = Engine::open(pack, &options).unwrap_or_else(|e| panic!("{e}"));
    let tokens: Vec<u32> = (0..40u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) % VOCAB as u32).collect();
    let mut all = Vec::new();
    let mut keep = |_: usize, row: &[f32]| all.extend_from_slice(row);
    engine.feed(&tokens[..33], Wanted::All, &mut keep).unwrap_or_else(|e| panic!("{e}"));
    for token in &tokens[33..] {
        engine.feed(&[*token], Wanted::Last, &mut keep).unwrap_or_else(|e| panic!("{e}"));
    }
    assert!(all.len() == tokens.len() * VOCAB && all.iter().all(|v| v.is_finite()));
    all
}

#[test]
fn every_type_in_one_model() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let types = types();
    // Another order, so that neighbours (gate, up and down of an expert) are of different families, with other block lengths.
    let turns: Vec<QuantType> = (0..types.len()).map(|i| types[i * 7 % types.len()]).collect();
    assert_eq!(turns.iter().collect::<BTreeSet<_>>().len(), types.len());
    let mixed = Mixed { types: &turns, layers: 4, decoded: false, damaged: None };
    let (gguf, stored) = pack(dir.path(), "stored", &mixed).unwrap_or_else(|e| panic!("{e}"));
    let (_, decoded) = pack(dir.path(), "decoded", &Mixed { decoded: true, ..mixed }).unwrap_or_else(|e| panic!("{e}"));

    let checkpoint = source::open(&gguf).unwrap_or_else(|e| panic!("{e}"));
    let plan = arch::bind(&checkpoint).and_then(|b| Plan::new(&checkpoint, &b, Quantize::Keep)).unwrap_or_else(|e| panic!("{e}"));
    let depth = Depth::Source { checkpoint: &checkpoint, plan: Box::new(plan) };
    let findings = verify(&stored, &depth, 2, &AtomicBool::new(false), &Silent).unwrap_or_else(|e| panic!("{e}"));
    assert!(findings.problems.is_empty(), "{:?}", findings.problems);

    // The exact path decodes the same floats and adds them in the same order.
    let truth = logits(&decoded, ActivationMode::F32);
    let exact = logits(&stored, ActivationMode::F32);
    assert!(truth.iter().zip(&exact).all(|(a, b)| a.to_bits() == b.to_bits()), "the exact path differs from f32 weights");

    let rough = logits(&stored, ActivationMode::Int8);
    let rows = || truth.chunks_exact(VOCAB).zip(rough.chunks_exact(VOCAB));
    let kls: Vec<f64> = rows().map(|(t, r)| kl(t, r)).collect();
    let errors: Vec<f64> = rows().map(|(t, r)| rms_difference(t, r) / deviation(t)).collect();
    eprintln!("int8: median KL {:.4}, median rms error {:.4}", median(&kls), median(&errors));
    assert!(median(&kls) < 0.01 && median(&errors) < 0.04, "median KL {:.4}, rms {:.4}", median(&kls), median(&errors));
}

#[test]
fn a_scale_that_is_no_number_is_refused_in_every_type() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for qtype in types() {
        let mixed = Mixed { types: &[qtype], layers: 1, decoded: false, damaged: Some(qtype) };
        let text = pack(dir.path(), qtype.name(), &mixed).expect_err(qtype.name()).to_string();
        assert!(text.contains("blk.0.ffn_down_exps.weight") && text.contains("not finite"), "{}: {text}", qtype.name());
    }
}
