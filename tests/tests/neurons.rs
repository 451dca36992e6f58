//! Packs with neuron groups: exact sparsity gives the bits of the dense computation, wherever anything is placed; damage is named; the sketch's predictions do not
//! depend on what is in memory either.

use forebay::budget::MemoryPlan;
use forebay::calibration::{TOLERANCE, file, measure};
use forebay::io::IoBackend;
use forebay::kernels::ActivationMode;
use forebay::memory::RamLimit;
use forebay::pack::Pack;
use forebay::store::Resident;
use forebay::tokenizer::{Specials, Tokenizer};
use forebay::{Engine, Options, Sparsity, Wanted, engine};
use forebay_format::{BundleId, Kind};
use forebay_repack::plan::{Neurons, Quantize};
use forebay_tests::{feed, packs, shared};
use std::path::Path;

const CONTEXT: u32 = 128;
const PROMPT: usize = 70;
const DECODED: usize = 12;

/// Bits of all logits.
fn bits(engine: &mut Engine) -> Vec<u32> {
    feed::bits(engine, PROMPT, DECODED)
}

fn options(sparsity: Sparsity, activations: ActivationMode) -> Options {
    let ram = RamLimit::Bytes(4 << 30);
    Options { ram, context: Some(CONTEXT), threads: Some(2), activations, sparsity: Some(sparsity), ..Options::default() }
}

fn run(pack: &Path, options: &Options) -> Vec<u32> {
    bits(&mut Engine::open(pack, options).unwrap_or_else(|e| panic!("{}: {e}", pack.display())))
}

/// With room for `slots` groups (at least a layer's) instead of for what memory allows.
fn with_window(pack: &Path, slots: u32, resident: Resident, chunk: u32, options: &Options) -> Engine {
    let pack = Pack::open(pack).unwrap_or_else(|e| panic!("{e}"));
    let mut needs = engine::needs(&pack.manifest, CONTEXT, chunk, options);
    needs.resident = resident;
    let plan = MemoryPlan::new(&pack.manifest, &pack.index, &pack.superblock, &needs, 4 << 30);
    let mut plan = plan.unwrap_or_else(|e| panic!("{e}"));
    assert!(plan.groups > 0 && plan.group_slots == plan.groups, "everything fits {plan:?}");
    plan.group_slots = slots.clamp(plan.floor_group_slots, plan.groups);
    Engine::with_plan(pack, plan, CONTEXT, chunk, options).unwrap_or_else(|e| panic!("{e}"))
}

/// Exact, off, and predictions that take everything, against the pack without groups.
fn equal_to_dense(source: &Path, quantize: Quantize) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let make = |name: &str, neurons| packs::with(source, &dir.path().join(name), neurons, quantize).unwrap_or_else(|e| panic!("{e}"));
    let (dense, grouped) = (make("dense.fby", Neurons::Off), make("neurons.fby", Neurons::Auto));
    let pack = Pack::open(&grouped).unwrap_or_else(|e| panic!("{e}"));
    assert!(pack.index.records().iter().any(|r| r.id.kind == Kind::NeuronGroup), "{} has no groups", source.display());
    for mode in [ActivationMode::Int8, ActivationMode::F32] {
        let want = run(&dense, &options(Sparsity::Exact, mode));
        assert!(want.iter().all(|b| f32::from_bits(*b).is_finite()));
        for sparsity in [Sparsity::Exact, Sparsity::Off] {
            assert!(run(&grouped, &options(sparsity, mode)) == want, "{} {sparsity:?} {mode:?}", source.display());
        }
    }
}

#[test]
fn exact_is_dense_bit_for_bit() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    equal_to_dense(&packs::sparse_toy(dir.path()), Quantize::Keep);
    let Some(shared) = shared::shared() else { return };
    for source in ["oracles/opt", "oracles/llama-relu", "models/relu-llama-19m"] {
        equal_to_dense(&shared.join(source), Quantize::Keep);
    }
}

/// Where down is quantised, whole blocks of it are in a group.
#[test]
fn exact_is_dense_in_whole_blocks() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let toy = packs::sparse_toy(dir.path());
    for name in ["q8_0", "q4_0", "mxfp4"] {
        equal_to_dense(&toy, Quantize::from_name(name).expect("a type"));
    }
    let Some(shared) = shared::shared() else { return };
    for name in ["q4_k", "q6_k"] {
        equal_to_dense(&shared.join("models/relu-llama-19m"), Quantize::from_name(name).expect("a type"));
    }
}

/// The law: window, threads, backend and chunks change no bit, whatever decides which neurons are read.
#[test]
fn placement_never_changes_a_bit() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = packs::sparse_model(dir.path());
    let pack = packs::convert_grouped(&source, dir.path()).unwrap_or_else(|e| panic!("{e}"));
    for sparsity in [Sparsity::Exact, Sparsity::Predicted { recall: None }, Sparsity::Off] {
        let base = options(sparsity, ActivationMode::Int8);
        let want = run(&pack, &base);
        for (slots, threads, io, chunk) in [
            (0, 1, IoBackend::Pread, 512),
            (300, 3, IoBackend::Auto, 7),
            (u32::MAX, 2, IoBackend::Buffered, 1),
            (1000, 2, IoBackend::Uring, 64),
        ] {
            for resident in [Resident::Triggers, Resident::Nothing] {
                if resident == Resident::Nothing && sparsity == Sparsity::Exact {
                    continue;
                }
                let options = Options { threads: Some(threads), io, ..base.clone() };
                let mut engine = with_window(&pack, slots, resident, chunk, &options);
                assert!(
                    bits(&mut engine) == want,
                    "{sparsity:?} {resident:?}, {slots} slots, {threads} threads, {io:?}, chunks of {chunk}"
                );
                let stats = engine.stats();
                assert!(stats.misses > 0 && (slots < 1000 || stats.hits > 0), "{stats:?}");
                assert!(slots > 300 || stats.misses > u64::from(engine.plan().groups) / 2, "a small window reads: {stats:?}");
            }
        }
    }
}

/// A damaged group is named, whether it is read at the start or for a token.
#[test]
fn damage_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = packs::convert_grouped(&packs::sparse_toy(dir.path()), dir.path()).unwrap_or_else(|e| panic!("{e}"));
    let pack = Pack::open(&path).unwrap_or_else(|e| panic!("{e}"));
    let record = pack.index.get(BundleId::neurons(1, 1)).expect("a group").clone();
    let first = pack.index.layout(&record).slices[0];
    drop(pack);
    let good = std::fs::read(&path).expect("the pack");
    for (at, sparsity) in [(0, Sparsity::Exact), (first + 5, Sparsity::Exact), (3, Sparsity::Off), (first, Sparsity::Off)] {
        let mut bad = good.clone();
        bad[(record.offset + at) as usize] ^= 4;
        let damaged = dir.path().join("damaged.fby");
        std::fs::write(&damaged, &bad).expect("a damaged pack");
        let error = Engine::open(&damaged, &options(sparsity, ActivationMode::Int8)).and_then(|mut engine| {
            let tokens = feed::spread(PROMPT + DECODED, engine.manifest().spec.vocab);
            engine.feed(&tokens, Wanted::Last, &mut |_, _| ())?;
            Ok(())
        });
        let error = error.expect_err("damage");
        assert!(error.to_string().contains("layer 1 neuron group 1") && error.exit_code() == 3, "byte {at}, {sparsity:?}: {error}");
    }
}

/// A limit too low for the triggers is refused with what would work, and that works.
#[test]
fn the_refusal_says_what_would_work() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = packs::sparse_model(dir.path());
    let path = packs::convert_grouped(&source, dir.path()).unwrap_or_else(|e| panic!("{e}"));
    let open = |mib: u64, sparsity| {
        let options = Options { ram: RamLimit::Bytes(mib << 20), ..options(sparsity, ActivationMode::Int8) };
        Engine::open(&path, &options).map(|mut engine| bits(&mut engine))
    };
    let error = open(1, Sparsity::Exact).expect_err("a megabyte").to_string();
    let limits: Vec<u64> = error
        .split("--ram ")
        .skip(1)
        .map(|t| t.chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a number"))
        .collect();
    let [exact, predicted] = limits[..] else { panic!("{error}") };
    assert!(error.contains("triggers") && error.contains("neuron window") && error.contains("--sparsity predicted"), "{error}");
    assert!(exact > predicted, "{error}");
    let everything = open(4096, Sparsity::Exact).expect("room for all");
    assert!(open(exact, Sparsity::Exact).expect("the limit that was named") == everything);
    assert!(open(predicted, Sparsity::Off).expect("the limit that was named") == everything);
    assert!(open(predicted, Sparsity::Predicted { recall: None }).is_ok());
}

/// A calibration is learned, kept, found again, and as good as it says.
#[test]
fn a_calibration_keeps_perplexity() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let real = shared::shared();
    let source = packs::sparse_model(dir.path());
    let path = packs::convert_grouped(&source, dir.path()).unwrap_or_else(|e| panic!("{e}"));
    let mut engine = Engine::open(&path, &options(Sparsity::Exact, ActivationMode::Int8)).unwrap_or_else(|e| panic!("{e}"));
    let chunks: Vec<Vec<u32>> = match &real {
        None => feed::spread(PROMPT + DECODED, engine.manifest().spec.vocab).chunks(40).map(<[u32]>::to_vec).collect(),
        Some(shared) => {
            let source = engine.manifest().tokenizer.clone().expect("a tokenizer");
            let tokenizer = Tokenizer::new(&source, engine.manifest().spec.vocab).unwrap_or_else(|e| panic!("{e}"));
            let text = std::fs::read_to_string(shared.join("text/heldout-60k.txt")).expect("the held-out text");
            let ids = tokenizer.encode(&text, Specials::Plain).expect("ids");
            ids.chunks_exact(CONTEXT as usize).step_by(9).take(10).map(<[u32]>::to_vec).collect()
        }
    };
    let before = bits(&mut engine);
    let made = measure::calibrate(&mut engine, &chunks, &mut |_| Ok(())).unwrap_or_else(|e| panic!("{e}"));
    engine.reset();
    assert!(bits(&mut engine) == before, "exact again");
    eprintln!("{:#?}", made.table);
    assert!(made.table.windows(2).all(|w| w[0].read <= w[1].read), "more recall, more reading");
    let (least, most) = (made.table[0], made.table[made.table.len() - 1]);
    assert!(most.kl <= least.kl && most.perplexity_change.abs() <= TOLERANCE, "{most:?}");
    assert!(made.table[made.choose(None)].perplexity_change.abs() <= TOLERANCE);
    let pack = Pack::open(&path).unwrap_or_else(|e| panic!("{e}"));
    file::write(&file::path(&path), &pack.superblock.pack_id, &made).expect("the file");
    let engine =
        Engine::open(&path, &options(Sparsity::Predicted { recall: Some(0.95) }, ActivationMode::Int8)).unwrap_or_else(|e| panic!("{e}"));
    let row = engine.prediction().and_then(|p| p.row).expect("the calibration was found");
    assert_eq!(row.recall, 0.95);
}
