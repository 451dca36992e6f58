//! Packs with interleaved rows: the same weights as without, the same results, and damage that is named by its row.

use forebay::budget::MemoryPlan;
use forebay::kernels::{ActivationMode, KernelSet, Kernels};
use forebay::pack::Pack;
use forebay::{Engine, Options, Wanted, engine};
use forebay_format::model::Role;
use forebay_format::reference::Reader;
use forebay_format::{BundleId, Kind, QuantType, Tiling};
use forebay_repack::plan::{Choices, Neurons, Plan, Quantize, Tilings};
use forebay_repack::verify::{Depth, Findings, verify};
use forebay_repack::write::Silent;
use forebay_repack::{arch, source};
use forebay_tests::packs;
use forebay_tests::programs::run;
use forebay_tests::toy::{Mixed, VOCAB, write_mixed_gguf};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Eight for the seven matrices of a layer, so that layers differ: with gate and up of types that are interleaved, and of which one is not; the same for down.
const TYPES: [QuantType; 8] = [
    QuantType::Q4_K,
    QuantType::Q5_K,
    QuantType::Q4_K,
    QuantType::Q4_K,
    QuantType::Q5_K,
    QuantType::Q6_K,
    QuantType::Q4_K,
    QuantType::Q4_K,
];

struct Packs {
    _dir: tempfile::TempDir,
    gguf: PathBuf,
    tiled: PathBuf,
    plain: PathBuf,
}

fn made(types: &[QuantType]) -> Packs {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let gguf = dir.path().join("model.gguf");
    write_mixed_gguf(&gguf, &Mixed { types, layers: 3, decoded: false, damaged: None }).unwrap_or_else(|e| panic!("{e}"));
    let choices = |tilings| Choices { quantize: Quantize::Keep, neurons: Neurons::Off, tilings, copies: 1 };
    let convert = |name: &str, tilings| packs::chosen(&gguf, &dir.path().join(name), choices(tilings)).unwrap_or_else(|e| panic!("{e}"));
    let (tiled, plain) = (convert("tiled.fby", Tilings::Auto), convert("plain.fby", Tilings::Off));
    Packs { _dir: dir, gguf, tiled, plain }
}

fn against_source(gguf: &Path, pack: &Path) -> Findings {
    let checkpoint = source::open(gguf).unwrap_or_else(|e| panic!("{e}"));
    let plan = arch::bind(&checkpoint).and_then(|b| Plan::new(&checkpoint, &b, Quantize::Keep)).unwrap_or_else(|e| panic!("{e}"));
    let depth = Depth::Source { checkpoint: &checkpoint, plan: Box::new(plan) };
    verify(pack, &depth, 2, &AtomicBool::new(false), &Silent).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn every_weight_is_the_sources() {
    let packs = made(&TYPES);
    let [tiled, plain] = [&packs.tiled, &packs.plain].map(|p| Reader::open(p).unwrap_or_else(|e| panic!("{e}")));
    assert!(tiled.manifest.has_tiles() && !plain.manifest.has_tiles());
    assert_ne!(tiled.superblock.pack_id, plain.superblock.pack_id);
    let mut kinds = std::collections::BTreeSet::new();
    for layer in 0..3 {
        let run = BundleId::trunk(layer);
        for place in &tiled.manifest.trunk[layer as usize] {
            let wanted = place.role.is_projection() && matches!(place.qtype, QuantType::Q4_K | QuantType::Q5_K);
            assert_eq!(place.tiling == Tiling::Dwords16, wanted, "layer {layer} {:?}", place.role);
            assert_eq!(tiled.tensor(run, place.role).unwrap(), plain.tensor(run, place.role).unwrap());
        }
        let place = tiled.manifest.experts[layer as usize].as_ref().unwrap();
        let pays = |t| matches!(t, QuantType::Q4_K | QuantType::Q5_K);
        assert_eq!(place.tiling == Tiling::Dwords16, pays(place.gate) && pays(place.up), "{place:?}");
        assert_eq!(place.down_tiling == Tiling::Dwords16, pays(place.down), "{place:?}");
        kinds.insert((place.tiling.is_row_major(), place.down_tiling.is_row_major()));
        for expert in 0..4 {
            assert_eq!(tiled.expert(layer, expert).unwrap(), plain.expert(layer, expert).unwrap(), "layer {layer} expert {expert}");
        }
    }
    assert!(kinds.len() > 1, "all experts are stored alike: {kinds:?}");
    let head = BundleId::global(Kind::Head, 0);
    // 264 rows are no whole tiles.
    assert!(tiled.manifest.head.iter().all(|p| p.tiling.is_row_major()) && tiled.manifest.embedding[0].tiling.is_row_major());
    assert_eq!(tiled.tensor(head, Role::Head).unwrap(), plain.tensor(head, Role::Head).unwrap());
    for pack in [&packs.tiled, &packs.plain] {
        assert_eq!(against_source(&packs.gguf, pack).problems, []);
    }
}

#[test]
fn a_weight_that_is_not_the_sources_is_named_by_its_row() {
    let packs = made(&[QuantType::Q4_K]);
    let reader = Reader::open(&packs.tiled).unwrap_or_else(|e| panic!("{e}"));
    let start = reader.records().iter().find(|r| r.id == BundleId::expert(1, 2)).expect("an expert").offset;
    // Row 21 of gate: the second tile, dword 7 of row 5 in it, byte 2.
    let at = start + 16 * 144 + 64 * 7 + 4 * 5 + 2;
    let mut byte = [0];
    let file = File::options().read(true).write(true).open(&packs.tiled).expect("the pack");
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 4], at).expect("a byte");
    let problems = against_source(&packs.gguf, &packs.tiled).problems;
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    // Experts of a layer lie in one source tensor of 256 rows each.
    let wanted = format!("byte {at} of the file differs from the source: tensor blk.1.ffn_gate_exps.weight, row {}", 2 * 256 + 21);
    assert!(problem.place == "layer 1 expert 2" && problem.why.contains(&wanted), "{problem:?}");
}

/// Logits of a prompt, in one feed or in several, and of single tokens after it.
fn logits(pack: &Path, options: &Options, chunk: usize) -> Vec<u32> {
    logits_of(Engine::open(pack, options).unwrap_or_else(|e| panic!("{e}")), chunk)
}

fn logits_of(mut engine: Engine, chunk: usize) -> Vec<u32> {
    let tokens: Vec<u32> = (0..30u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) % VOCAB as u32).collect();
    let mut all: Vec<u32> = Vec::new();
    let mut keep = |_: usize, row: &[f32]| all.extend(row.iter().map(|v| v.to_bits()));
    for part in tokens[..25].chunks(chunk) {
        engine.feed(part, Wanted::All, &mut keep).unwrap_or_else(|e| panic!("{e}"));
    }
    for token in &tokens[25..] {
        engine.feed(&[*token], Wanted::Last, &mut keep).unwrap_or_else(|e| panic!("{e}"));
    }
    assert_eq!(all.len(), tokens.len() * VOCAB);
    all
}

#[test]
fn results_are_those_of_rows_one_after_the_other() {
    let packs = made(&TYPES);
    for activations in [ActivationMode::F32, ActivationMode::Int8] {
        let options = Options { activations, context: Some(64), threads: Some(2), ..Options::default() };
        let [tiled, plain] = [&packs.tiled, &packs.plain].map(|p| logits(p, &options, 25));
        // NEON sums four parts of a row by itself: equal but for last bits, which kernel tests check.
        let set = Kernels::detect(activations).set();
        if activations == ActivationMode::F32 || set != KernelSet::Neon {
            assert!(tiled == plain, "{activations:?} {set:?}");
        }
        // The law, on interleaved rows: threads and chunks change no bit.
        for (threads, chunk) in [(1, 25), (3, 4), (2, 1)] {
            let options = Options { threads: Some(threads), ..options.clone() };
            assert!(logits(&packs.tiled, &options, chunk) == tiled, "{activations:?}, {threads} threads, chunks of {chunk}");
        }
    }
}

/// Interleaved rows that come through a window and through a ring of layers, with kernels for them (8 bits) and taken apart (f32).
#[test]
fn what_stays_in_memory_changes_no_bit() {
    let packs = made(&TYPES);
    let (context, chunk) = (64, 25);
    for activations in [ActivationMode::F32, ActivationMode::Int8] {
        let options = Options { activations, context: Some(context), threads: Some(2), ..Options::default() };
        let everything = logits(&packs.tiled, &options, 25);
        for (small_window, streamed, ring) in [(true, vec![], 0), (true, vec![1], 1), (false, vec![0, 2], 2), (true, vec![0, 1, 2], 2)] {
            let pack = Pack::open(&packs.tiled).unwrap_or_else(|e| panic!("{e}"));
            let needs = engine::needs(&pack.manifest, context, chunk, &options);
            let plan = MemoryPlan::new(&pack.manifest, &pack.index, &pack.superblock, &needs, 4 << 30);
            let mut plan = plan.unwrap_or_else(|e| panic!("{e}"));
            let run = |&l: &u32| pack.index.get(BundleId::trunk(l)).map_or(0, |r| r.length);
            (plan.ring_spans, plan.ring_span_bytes) = (ring, streamed.iter().map(run).max().unwrap_or(0));
            if small_window {
                plan.slots = plan.floor_slots;
                assert!(plan.slots < plan.experts, "the window holds everything");
            }
            let case = format!("{activations:?}, {} of {} experts, {streamed:?} streamed", plan.slots, plan.experts);
            plan.streamed = streamed;
            let engine = Engine::with_plan(pack, plan, context, chunk, &options).unwrap_or_else(|e| panic!("{case}: {e}"));
            assert!(logits_of(engine, 7) == everything, "{case}");
        }
    }
}

#[test]
fn programs_say_and_do_it() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("a path").to_owned();
    let gguf = path("model.gguf");
    let mixed = Mixed { types: &[QuantType::Q4_K], layers: 1, decoded: false, damaged: None };
    write_mixed_gguf(Path::new(&gguf), &mixed).unwrap_or_else(|e| panic!("{e}"));
    let (tiled, plain) = (path("tiled.fby"), path("plain.fby"));
    run("forebay-repack", &["convert", &gguf, "-o", &tiled]).expect(0);
    run("forebay-repack", &["convert", &gguf, "-o", &plain, "--tiling", "off"]).expect(0);
    assert_eq!(run("forebay-repack", &["convert", &gguf, "-o", &path("x.fby"), "--tiling", "hilbert"]).code, Some(2));
    for (pack, interleaved) in [(&tiled, true), (&plain, false)] {
        let listed = run("forebay-repack", &["inspect", pack, "--tensors"]).expect(0).out;
        assert_eq!(listed.contains("q4_k dwords_16"), interleaved, "{listed}");
        run("forebay-repack", &["verify", pack, "--source", &gguf]).expect(0);
    }
    let exact = ["abc", "-n", "8", "--temp", "0", "--raw", "--json", "--activations", "f32"];
    let tokens = |pack: &str| run("forebay", &[&["run", pack][..], &exact].concat()).expect(0).json()["tokens"].clone();
    assert_eq!(tokens(&tiled), tokens(&plain));
    assert!(tokens(&tiled).as_array().is_some_and(|list| !list.is_empty()));
}
