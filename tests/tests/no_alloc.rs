//! A token allocates nothing: all memory of a step is taken when the engine opens.

use forebay::budget::MemoryPlan;
use forebay::kernels::ActivationMode;
use forebay::memory::RamLimit;
use forebay::pack::Pack;
use forebay::store::Resident;
use forebay::{Engine, Options, Sparsity, Wanted, engine};
use forebay_format::BundleId;
use forebay_tests::{packs, shared};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Allocations of a prompt and a few tokens, when everything has been done once.
fn allocations(engine: &mut Engine) -> usize {
    let tokens: Vec<u32> = (0..150).map(|i| i * 37 % 250).collect();
    let mut sum = 0.0;
    let mut feed = |engine: &mut Engine, tokens: &[u32]| {
        engine.feed(tokens, Wanted::Last, &mut |_, row| sum += row[0]).unwrap_or_else(|e| panic!("{e}"));
    };
    // The first run brings the experts in (reading is another matter) and wakes every thread once.
    feed(engine, &tokens);
    engine.reset();
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    feed(engine, &tokens[..140]);
    for token in &tokens[140..] {
        feed(engine, &[*token]);
    }
    let made = ALLOCATIONS.load(Ordering::SeqCst) - before;
    assert!(sum.is_finite());
    made
}

// One test in this file: the count is the whole process's.
#[test]
fn prompts_and_tokens_allocate_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = packs::convert(&shared::demo_model(), dir.path()).unwrap_or_else(|e| panic!("{e}"));
    let ram = RamLimit::Bytes(4 << 30);
    for activations in [ActivationMode::Int8, ActivationMode::F32] {
        let options = Options { ram, activations, threads: Some(2), context: Some(512), chunk: Some(64), ..Options::default() };
        let mut engine = Engine::open(&path, &options).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(allocations(&mut engine), 0, "{activations:?}");
    }
    // All layers through a ring, and rows of the embedding (where the head does not need all of it) read as tokens come.
    let options = Options { ram, threads: Some(2), ..Options::default() };
    let pack = Pack::open(&path).unwrap_or_else(|e| panic!("{e}"));
    let needs = engine::needs(&pack.manifest, 512, 64, &options);
    let plan = MemoryPlan::new(&pack.manifest, &pack.index, &pack.superblock, &needs, 4 << 30);
    let mut plan = plan.unwrap_or_else(|e| panic!("{e}"));
    plan.streamed = (0..pack.manifest.spec.layers.len() as u32).collect();
    let lengths = plan.streamed.iter().map(|&l| pack.index.get(BundleId::trunk(l)).map_or(0, |r| r.length));
    (plan.ring_spans, plan.ring_span_bytes) = (3, lengths.max().unwrap_or(0));
    let rows = if pack.manifest.spec.tied_head { 0 } else { 16 };
    (plan.row_slots, plan.row_slot_bytes) = (rows, 2 * u64::from(pack.superblock.chunk_bytes));
    let mut engine = Engine::with_plan(pack, plan, 512, 64, &options).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(allocations(&mut engine), 0, "streamed");
    // A window of few experts, and guesses: nearly every step reads.
    let pack = Pack::open(&path).unwrap_or_else(|e| panic!("{e}"));
    let plan = MemoryPlan::new(&pack.manifest, &pack.index, &pack.superblock, &needs, 4 << 30);
    let mut plan = plan.unwrap_or_else(|e| panic!("{e}"));
    (plan.slots, plan.staging) = (plan.floor_slots + 8, 8);
    let mut engine = Engine::with_plan(pack, plan, 512, 64, &options).unwrap_or_else(|e| panic!("{e}"));
    let made = allocations(&mut engine);
    let stats = engine.stats();
    assert!(stats.misses > 500 && stats.guesses > 50, "{stats:?}");
    assert_eq!(made, 0, "reading");
    // Neuron groups, most of which have to be read again and again.
    let path = packs::convert_grouped(&packs::sparse_toy(dir.path()), dir.path()).unwrap_or_else(|e| panic!("{e}"));
    for (sparsity, resident) in [(Sparsity::Exact, Resident::Triggers), (Sparsity::Off, Resident::Nothing)] {
        let options = Options { sparsity: Some(sparsity), ..options.clone() };
        let pack = Pack::open(&path).unwrap_or_else(|e| panic!("{e}"));
        let mut needs = engine::needs(&pack.manifest, 512, 64, &options);
        needs.resident = resident;
        let plan = MemoryPlan::new(&pack.manifest, &pack.index, &pack.superblock, &needs, 4 << 30);
        let mut plan = plan.unwrap_or_else(|e| panic!("{e}"));
        plan.group_slots = plan.floor_group_slots;
        let mut engine = Engine::with_plan(pack, plan, 512, 64, &options).unwrap_or_else(|e| panic!("{e}"));
        let made = allocations(&mut engine);
        assert!(engine.stats().misses > 20, "{:?}", engine.stats());
        assert_eq!(made, 0, "{sparsity:?}");
    }
}
