//! The law: placement decides speed, never output. Logits are equal to the last bit for every window size, backend, thread count and prompt chunking.

use forebay::budget::MemoryPlan;
use forebay::io::IoBackend;
use forebay::kernels::ActivationMode;
use forebay::memory::RamLimit;
use forebay::{Engine, Options, Wanted, engine};
use forebay_tests::{packs, shared};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

/// Tokens fed as a prompt, and one by one after it.
const PROMPT: usize = 150;
const DECODED: usize = 6;
const ALL: u64 = 4 << 30;

/// The bundled model: gated delta net and gated attention, 32 experts a layer.
fn pack() -> &'static Path {
    static PACK: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let made = PACK.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pack = packs::convert(&shared::demo_model(), dir.path()).unwrap_or_else(|e| panic!("{e}"));
        (dir, pack)
    });
    &made.1
}

/// Ids spread over the vocabulary, always the same.
fn tokens(vocab: u32) -> Vec<u32> {
    (0..(PROMPT + DECODED) as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) % vocab).collect()
}

fn open(options: &Options) -> Engine {
    Engine::open(pack(), options).unwrap_or_else(|e| panic!("{options:?}: {e}"))
}

/// Bits of all logits: the prompt's in one feed, then token by token.
fn bits(options: &Options) -> (MemoryPlan, Vec<u32>) {
    let mut engine = open(options);
    let tokens = tokens(engine.manifest().spec.vocab);
    let mut bits = Vec::new();
    let mut keep = |_: usize, row: &[f32]| bits.extend(row.iter().map(|x| x.to_bits()));
    engine.feed(&tokens[..PROMPT], Wanted::All, &mut keep).unwrap_or_else(|e| panic!("{e}"));
    for token in &tokens[PROMPT..] {
        engine.feed(&[*token], Wanted::Last, &mut keep).unwrap_or_else(|e| panic!("{e}"));
    }
    (engine.plan().clone(), bits)
}

/// Everything in memory, one thread, buffered reads, the prompt in one step.
fn reference(mode: ActivationMode) -> &'static [u32] {
    static BITS: [OnceLock<Vec<u32>>; 2] = [OnceLock::new(), OnceLock::new()];
    BITS[usize::from(mode == ActivationMode::Int8)].get_or_init(|| {
        let (plan, bits) = bits(&Options {
            ram: RamLimit::Bytes(ALL),
            context: Some(256),
            threads: Some(1),
            activations: mode,
            io: IoBackend::Buffered,
            chunk: Some(512),
            ..Options::default()
        });
        assert_eq!(plan.slots, plan.experts, "the reference has every expert in memory");
        assert!(bits.iter().all(|b| f32::from_bits(*b).is_finite()));
        bits
    })
}

/// The smallest limit these options work with.
fn floor(options: &Options) -> u64 {
    let pack = forebay::pack::Pack::open(pack()).unwrap_or_else(|e| panic!("{e}"));
    let needs = engine::needs(&pack.manifest, 256, options.chunk.unwrap_or(1), options.activations);
    MemoryPlan::new(&pack.manifest, &pack.index, &pack.superblock, &needs, ALL).unwrap_or_else(|e| panic!("{e}")).floor
}

/// A window of floor, middle or everything.
#[derive(Clone, Copy, Debug)]
enum Ram {
    Floor,
    Middle,
    All,
}

fn options(ram: Ram, threads: usize, io: IoBackend, chunk: u32, activations: ActivationMode) -> Options {
    let mut options = Options { context: Some(256), threads: Some(threads), activations, io, chunk: Some(chunk), ..Options::default() };
    let floor = floor(&options);
    options.ram = RamLimit::Bytes(match ram {
        Ram::Floor => floor,
        Ram::Middle => floor + (4 << 20),
        Ram::All => ALL,
    });
    options
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn placement_never_changes_a_bit(
        ram in prop::sample::select(vec![Ram::Floor, Ram::Middle, Ram::All]),
        threads in 1usize..4,
        io in prop::sample::select(vec![IoBackend::Auto, IoBackend::Uring, IoBackend::Pread, IoBackend::Buffered]),
        chunk in prop::sample::select(vec![1u32, 7, 64, 512]),
        exact in any::<bool>(),
    ) {
        let mode = if exact { ActivationMode::F32 } else { ActivationMode::Int8 };
        let options = options(ram, threads, io, chunk, mode);
        prop_assert!(bits(&options).1 == reference(mode), "{options:?}");
    }
}

/// Each value of each axis once, whatever the property test happens to draw.
#[test]
fn every_axis() {
    use ActivationMode::Int8;
    use IoBackend::{Auto, Buffered, Pread, Uring};
    let cases = [
        (Ram::Floor, 1, Pread, 512, Int8),
        (Ram::Floor, 2, Auto, 64, ActivationMode::F32),
        (Ram::Middle, 3, Buffered, 7, Int8),
        (Ram::All, 2, Uring, 1, Int8),
    ];
    for (ram, threads, io, chunk, mode) in cases {
        let options = options(ram, threads, io, chunk, mode);
        let (plan, bits) = bits(&options);
        assert!(bits == reference(mode), "{options:?}");
        if let Ram::Floor = ram {
            // Else the case would not show that experts may come in groups.
            assert!(plan.slots < 32, "the floor of {} slots holds a whole layer", plan.slots);
        }
    }
}

/// A reset sequence, a cancelled one and a continued one give what a fresh engine gives.
#[test]
fn the_past_leaves_no_trace() {
    let cancel = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut options = options(Ram::Middle, 2, IoBackend::Auto, 64, ActivationMode::Int8);
    options.cancel = std::sync::Arc::clone(&cancel);
    let mut engine = open(&options);
    let tokens = tokens(engine.manifest().spec.vocab);
    let mut ignore = |_: usize, _: &[f32]| ();
    engine.feed(&tokens[20..90], Wanted::Last, &mut ignore).expect("a prompt");
    cancel.store(true, std::sync::atomic::Ordering::Relaxed);
    let stopped = engine.feed(&tokens[..5], Wanted::Last, &mut ignore);
    assert!(matches!(stopped, Err(forebay::Error::Interrupted)), "{stopped:?}");
    cancel.store(false, std::sync::atomic::Ordering::Relaxed);
    let torn = engine.feed(&tokens[..5], Wanted::Last, &mut ignore).expect_err("torn");
    assert!(torn.to_string().contains("reset"), "{torn}");
    engine.reset();
    assert_eq!(engine.position(), 0);
    let mut bits = Vec::new();
    for part in [0..40, 40..41, 41..PROMPT] {
        engine.feed(&tokens[part], Wanted::All, &mut |_, row| bits.extend(row.iter().map(|x| x.to_bits()))).expect("a prompt");
    }
    assert_eq!(engine.position(), PROMPT);
    assert!(bits == reference(ActivationMode::Int8)[..bits.len()]);
}

#[test]
fn requests_that_do_not_fit_are_refused_whole() {
    let mut engine = open(&Options { context: Some(16), chunk: Some(4), ..Options::default() });
    let vocab = engine.manifest().spec.vocab;
    let mut ignore = |_: usize, _: &[f32]| ();
    let e = engine.feed(&[1, vocab], Wanted::Last, &mut ignore).expect_err("an id too large");
    assert!(e.to_string().contains(&vocab.to_string()), "{e}");
    let e = engine.feed(&[1; 17], Wanted::Last, &mut ignore).expect_err("too long");
    assert!(e.to_string().contains("context of 16") && e.to_string().contains("-c"), "{e}");
    assert_eq!(engine.position(), 0);
    let mut positions = Vec::new();
    engine.feed(&[1; 16], Wanted::All, &mut |p, _| positions.push(p)).expect("exactly the context");
    assert_eq!(positions, (0..16).collect::<Vec<_>>());
    assert!(engine.feed(&[1], Wanted::Last, &mut ignore).is_err());
    assert!(engine.feed(&[], Wanted::Last, &mut ignore).is_ok());
    let most = engine.manifest().spec.context;
    for context in [0, most + 1] {
        let e = Engine::open(pack(), &Options { context: Some(context), ..Options::default() }).err().map(|e| e.to_string());
        assert!(e.as_ref().is_some_and(|e| e.contains("-c")), "{e:?}");
    }
}
