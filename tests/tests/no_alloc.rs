//! A token allocates nothing: all memory of a step is taken when the engine opens.

use forebay::kernels::ActivationMode;
use forebay::memory::RamLimit;
use forebay::{Engine, Options, Wanted};
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

// One test in this file: the count is the whole process's.
#[test]
fn prompts_and_tokens_allocate_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let pack = packs::convert(&shared::demo_model(), dir.path()).unwrap_or_else(|e| panic!("{e}"));
    for activations in [ActivationMode::Int8, ActivationMode::F32] {
        let ram = RamLimit::Bytes(4 << 30);
        let options = Options { ram, activations, threads: Some(2), context: Some(512), chunk: Some(64), ..Options::default() };
        let mut engine = Engine::open(&pack, &options).unwrap_or_else(|e| panic!("{e}"));
        let tokens: Vec<u32> = (0..150).map(|i| i * 37 % 1000).collect();
        let mut sum = 0.0;
        let mut feed = |engine: &mut Engine, tokens: &[u32]| {
            engine.feed(tokens, Wanted::Last, &mut |_, row| sum += row[0]).unwrap_or_else(|e| panic!("{e}"));
        };
        // The first run brings the experts in (reading is another matter) and wakes every thread once.
        feed(&mut engine, &tokens);
        engine.reset();
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        feed(&mut engine, &tokens[..140]);
        for token in &tokens[140..] {
            feed(&mut engine, &[*token]);
        }
        assert_eq!(ALLOCATIONS.load(Ordering::SeqCst) - before, 0, "{activations:?}");
        assert!(sum.is_finite());
    }
}
