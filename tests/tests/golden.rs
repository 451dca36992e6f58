//! Frozen packs: today's writer reproduces them byte for byte. `format-spec/tests/golden.rs` reads them.
//!
//! After a deliberate change of the writer (and of its number, `plan::WRITER`), `FOREBAY_FREEZE=1 cargo test -p forebay-tests --test golden` writes them anew.

use forebay_format::QuantType;
use forebay_repack::plan::{Choices, Neurons, Plan, Quantize, Tilings};
use forebay_repack::write::media::System;
use forebay_repack::write::{GROUP_BYTES, Options, Silent, convert};
use forebay_repack::{arch, source};
use forebay_tests::toy;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../format-spec/vectors/v1")
}

fn pack(source_path: &Path, quantize: Quantize, threads: usize) -> Vec<u8> {
    pack_with(source_path, Choices { quantize, neurons: Neurons::Off, tilings: Tilings::Auto, copies: 1 }, threads)
}

fn pack_with(source_path: &Path, choices: Choices, threads: usize) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("temporary directory");
    let out = dir.path().join("toy.fby");
    let checkpoint = source::open(source_path).expect("toy source");
    let binding = arch::bind(&checkpoint).expect("toy binding");
    let plan = Plan::with(&checkpoint, &binding, choices).expect("toy plan");
    let cancel = AtomicBool::new(false);
    let options =
        Options { resume: false, force: false, threads, group_bytes: GROUP_BYTES, cancel: &cancel, media: &System, watch: &Silent };
    convert(&checkpoint, &plan, &out, &options).expect("conversion");
    std::fs::read(&out).expect("the pack")
}

fn check(name: &str, made: impl Fn(usize) -> Vec<u8>) {
    let path = vectors().join(name);
    let first = made(1);
    if std::env::var_os("FOREBAY_FREEZE").is_some() {
        std::fs::create_dir_all(vectors()).expect("vectors folder");
        std::fs::write(&path, &first).expect("frozen pack");
    }
    let frozen = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    for (threads, bytes) in [(1, first), (2, made(2)), (5, made(5))] {
        let differ = bytes.iter().zip(&frozen).position(|(a, b)| a != b);
        assert!(
            bytes.len() == frozen.len() && differ.is_none(),
            "{name}, {threads} threads: differs from the frozen pack at byte {differ:?}"
        );
    }
}

#[test]
fn hybrid_mixture_from_hugging_face() {
    let dir = tempfile::tempdir().expect("temporary directory");
    toy::write_hybrid_moe(dir.path()).expect("toy checkpoint");
    check("hybrid_moe_bf16.fby", |threads| pack(dir.path(), Quantize::Keep, threads));
}

#[test]
fn hybrid_mixture_quantised_on_the_way() {
    let dir = tempfile::tempdir().expect("temporary directory");
    toy::write_hybrid_moe(dir.path()).expect("toy checkpoint");
    let q8_0 = Quantize::from_name("q8_0").expect("a type that can be written");
    check("hybrid_moe_q8_0.fby", |threads| pack(dir.path(), q8_0, threads));
}

#[test]
fn dense_from_gguf() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("toy.gguf");
    toy::write_dense_gguf(&file).expect("toy checkpoint");
    check("dense_gguf_q8_0.fby", |threads| pack(&file, Quantize::Keep, threads));
}

#[test]
fn interleaved_rows() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("toy.gguf");
    let types = [QuantType::Q4_K, QuantType::Q5_K, QuantType::Q6_K];
    toy::write_mixed_gguf(&file, &toy::Mixed { types: &types, layers: 1, decoded: false, damaged: None }).expect("toy checkpoint");
    check("mixed_gguf_tiled.fby", |threads| pack(&file, Quantize::Keep, threads));
}

#[test]
fn groups_of_neurons_and_as_blocks() {
    let dir = tempfile::tempdir().expect("temporary directory");
    toy::write_sparse(dir.path()).expect("toy checkpoint");
    let auto = |quantize| Choices { quantize, neurons: Neurons::Auto, tilings: Tilings::Auto, copies: 1 };
    check("neurons_bf16.fby", |threads| pack_with(dir.path(), auto(Quantize::Keep), threads));
    let q8_0 = Quantize::from_name("q8_0").expect("a type that can be written");
    check("neurons_q8_0.fby", |threads| pack_with(dir.path(), auto(q8_0), threads));
}
