//! The law: placement decides speed, never output. Logits are equal to the last bit for every window size, backend, thread count and prompt chunking.

use forebay::budget::MemoryPlan;
use forebay::io::IoBackend;
use forebay::kernels::ActivationMode;
use forebay::kv::KvType;
use forebay::memory::RamLimit;
use forebay::pack::Pack;
use forebay::store::Schedule;
use forebay::{Engine, Options, Wanted, engine};
use forebay_tests::{feed, packs, shared};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tempfile::TempDir;

/// Tokens fed as a prompt, and one by one after it.
const PROMPT: usize = 150;
const DECODED: usize = 6;
const CONTEXT: u32 = 256;
const ALL: u64 = 4 << 30;
const SCHEDULES: [Schedule; 5] = [Schedule::Turns, Schedule::Queued, Schedule::Arrival, Schedule::Slices, Schedule::Ahead];

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

/// Experts in memory at once.
#[derive(Clone, Copy, Debug)]
enum Window {
    /// The least that works: fewer than a layer has, so that a prompt's experts come in groups.
    Floor,
    /// Half of all.
    Half,
    /// All.
    All,
}

/// Where a computation is placed.
#[derive(Clone, Copy, Debug)]
struct Placement {
    window: Window,
    /// Slots for experts read on a guess.
    staging: u32,
    threads: usize,
    io: IoBackend,
    chunk: u32,
    schedule: Schedule,
    mode: ActivationMode,
}

impl Placement {
    fn options(&self) -> Options {
        let Placement { threads, io, chunk, mode, .. } = *self;
        Options {
            ram: RamLimit::Bytes(ALL),
            context: Some(CONTEXT),
            threads: Some(threads),
            activations: mode,
            io,
            chunk: Some(chunk),
            ..Options::default()
        }
    }

    fn open(&self) -> Engine {
        let options = self.options();
        let pack = Pack::open(pack()).unwrap_or_else(|e| panic!("{e}"));
        let needs = engine::needs(&pack.manifest, CONTEXT, self.chunk, &options);
        let plan = MemoryPlan::new(&pack.manifest, &pack.index, &pack.superblock, &needs, ALL);
        let mut plan = plan.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(plan.slots, plan.experts, "{ALL} bytes hold every expert");
        assert!(plan.floor_slots < 32, "the floor does not hold a layer");
        plan.slots = match self.window {
            Window::Floor => plan.floor_slots,
            Window::Half => plan.experts / 2,
            Window::All => plan.experts,
        };
        plan.staging = self.staging;
        let mut engine = Engine::with_plan(pack, plan, CONTEXT, self.chunk, &options).unwrap_or_else(|e| panic!("{self:?}: {e}"));
        engine.set_schedule(self.schedule);
        engine
    }
}

/// Bits of all logits.
fn bits(engine: &mut Engine) -> Vec<u32> {
    feed::bits(engine, PROMPT, DECODED)
}

/// Everything in memory, one thread, buffered reads, the prompt in one step.
fn reference(mode: ActivationMode) -> &'static [u32] {
    static BITS: [OnceLock<Vec<u32>>; 2] = [OnceLock::new(), OnceLock::new()];
    BITS[usize::from(mode == ActivationMode::Int8)].get_or_init(|| {
        let schedule = Schedule::Turns;
        let simple = Placement { window: Window::All, staging: 0, threads: 1, io: IoBackend::Buffered, chunk: 512, schedule, mode };
        let bits = bits(&mut simple.open());
        assert!(bits.iter().all(|b| f32::from_bits(*b).is_finite()));
        bits
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn placement_never_changes_a_bit(
        window in prop::sample::select(vec![Window::Floor, Window::Half, Window::All]),
        staging in 0u32..6,
        threads in 1usize..4,
        io in prop::sample::select(vec![IoBackend::Auto, IoBackend::Uring, IoBackend::Pread, IoBackend::Buffered]),
        chunk in prop::sample::select(vec![1u32, 7, 64, 512]),
        schedule in prop::sample::select(SCHEDULES.to_vec()),
        exact in any::<bool>(),
    ) {
        let mode = if exact { ActivationMode::F32 } else { ActivationMode::Int8 };
        let placement = Placement { window, staging, threads, io, chunk, schedule, mode };
        prop_assert!(bits(&mut placement.open()) == reference(mode), "{placement:?}");
    }
}

/// Each value of each axis once, whatever the property test happens to draw.
#[test]
fn every_axis() {
    use ActivationMode::Int8;
    use IoBackend::{Auto, Buffered, Pread, Uring};
    let cases = [
        (Window::Floor, 1, Pread, 512, Int8),
        (Window::Floor, 2, Auto, 64, ActivationMode::F32),
        (Window::Half, 3, Buffered, 7, Int8),
        (Window::All, 2, Uring, 1, Int8),
        (Window::Floor, 2, Uring, 1, ActivationMode::F32),
    ];
    for ((window, threads, io, chunk, mode), schedule) in cases.into_iter().zip(SCHEDULES) {
        let placement = Placement { window, staging: 4, threads, io, chunk, schedule, mode };
        assert!(bits(&mut placement.open()) == reference(mode), "{placement:?}");
    }
}

/// Sequences longer than a span of attention, in every type of keys and values.
#[test]
fn long_sequences() {
    const TOKENS: usize = 600;
    for kv in [KvType::F32, KvType::F16, KvType::Q8_0] {
        let run = |threads: usize, chunk: u32| {
            let options = Options {
                ram: RamLimit::Bytes(ALL),
                context: Some(TOKENS as u32),
                threads: Some(threads),
                kv: Some(kv),
                chunk: Some(chunk),
                ..Options::default()
            };
            let mut engine = Engine::open(pack(), &options).unwrap_or_else(|e| panic!("{e}"));
            let vocab = engine.manifest().spec.vocab;
            let tokens: Vec<u32> = (0..TOKENS as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) % vocab).collect();
            let mut bits = Vec::new();
            let mut keep = |position: usize, row: &[f32]| {
                if position % 50 == 49 {
                    bits.extend(row.iter().map(|x| x.to_bits()));
                }
            };
            engine.feed(&tokens, Wanted::All, &mut keep).unwrap_or_else(|e| panic!("{e}"));
            bits
        };
        let once = run(1, 512);
        for (threads, chunk) in [(2, 1), (3, 7), (2, 64)] {
            assert!(run(threads, chunk) == once, "{kv:?}, {threads} threads, steps of {chunk}");
        }
    }
}

/// The same through the limit a user sets: the smallest that works, and one between it and everything.
#[test]
fn the_limit_changes_no_bit() {
    let base = Placement {
        window: Window::All,
        staging: 0,
        threads: 2,
        io: IoBackend::Auto,
        chunk: 64,
        schedule: Schedule::Ahead,
        mode: ActivationMode::Int8,
    }
    .options();
    let open = |bytes| Engine::open(pack(), &Options { ram: RamLimit::Bytes(bytes), ..base.clone() });
    let floor = match open(1 << 20).map(|_| ()) {
        Err(forebay::Error::Budget(text)) => {
            (1..).map(|mib| mib << 20).find(|&bytes| open(bytes).is_ok()).filter(|b| text.contains(&format!("--ram {}M", b >> 20)))
        }
        other => panic!("{other:?}"),
    };
    let floor = floor.expect("the refusal names the smallest limit that works");
    for bytes in [floor, floor + (3 << 20)] {
        let mut engine = open(bytes).unwrap_or_else(|e| panic!("{e}"));
        assert!(engine.plan().slots < engine.plan().experts, "{bytes} bytes hold everything");
        assert!(bits(&mut engine) == reference(ActivationMode::Int8), "{bytes} bytes");
    }
}

/// A reset sequence, a cancelled one and a continued one give what a fresh engine gives.
#[test]
fn the_past_leaves_no_trace() {
    let cancel = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (io, schedule, mode) = (IoBackend::Auto, Schedule::Ahead, ActivationMode::Int8);
    let placement = Placement { window: Window::Half, staging: 2, threads: 2, io, chunk: 64, schedule, mode };
    let options = Options { cancel: std::sync::Arc::clone(&cancel), ..placement.options() };
    let mut engine = Engine::open(pack(), &options).unwrap_or_else(|e| panic!("{e}"));
    let tokens = feed::spread(PROMPT + DECODED, engine.manifest().spec.vocab);
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
    let options = Options { context: Some(16), chunk: Some(4), ..Options::default() };
    let mut engine = Engine::open(pack(), &options).unwrap_or_else(|e| panic!("{e}"));
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
