//! The law for models whose trunk does not fit: layers that pass through a ring and rows of the embedding that are read as tokens come give the bits
//! that everything in memory gives.

use forebay::budget::MemoryPlan;
use forebay::io::IoBackend;
use forebay::memory::RamLimit;
use forebay::pack::Pack;
use forebay::{Engine, Options, engine};
use forebay_format::BundleId;
use forebay_tests::{feed, packs, shared, toy};
use std::path::Path;

const CONTEXT: u32 = 128;
const ALL: u64 = 4 << 30;

/// Where a computation is placed.
#[derive(Clone, Debug)]
struct Placement {
    /// Layers that are read for each step.
    streamed: Vec<u32>,
    ring: u32,
    /// Rows of the embedding read at a time; 0: it stays, as it always does where it is the head too.
    rows: u32,
    threads: usize,
    io: IoBackend,
    chunk: u32,
}

impl Placement {
    fn options(&self) -> Options {
        Options {
            ram: RamLimit::Bytes(ALL),
            context: Some(CONTEXT),
            threads: Some(self.threads),
            io: self.io,
            chunk: Some(self.chunk),
            ..Options::default()
        }
    }

    fn open(&self, path: &Path) -> Engine {
        let pack = Pack::open(path).unwrap_or_else(|e| panic!("{e}"));
        let needs = engine::needs(&pack.manifest, CONTEXT, self.chunk, &self.options());
        let plan = MemoryPlan::new(&pack.manifest, &pack.index, &pack.superblock, &needs, ALL);
        let mut plan = plan.unwrap_or_else(|e| panic!("{e}"));
        assert!(plan.streamed.is_empty() && plan.row_slots == 0, "{ALL} bytes hold everything");
        let run = |&l: &u32| pack.index.get(BundleId::trunk(l)).map_or(0, |r| r.length);
        plan.ring_span_bytes = self.streamed.iter().map(run).max().unwrap_or(0);
        plan.streamed = self.streamed.clone();
        plan.ring_spans = self.ring;
        plan.row_slots = if pack.manifest.spec.tied_head { 0 } else { self.rows };
        plan.row_slot_bytes = 2 * u64::from(pack.superblock.chunk_bytes);
        // A window smaller than the experts of a layer, where there are any.
        plan.slots = plan.slots.min(plan.floor_slots);
        Engine::with_plan(pack, plan, CONTEXT, self.chunk, &self.options()).unwrap_or_else(|e| panic!("{self:?}: {e}"))
    }
}

/// Bits of all logits.
fn bits(engine: &mut Engine) -> Vec<u32> {
    feed::bits(engine, 40, 4)
}

/// All rings, backends, prompt steps and numbers of threads against everything in memory. The model has at least five layers.
fn obeys(path: &Path) {
    let all = Placement { streamed: vec![], ring: 0, rows: 0, threads: 1, io: IoBackend::Buffered, chunk: 64 };
    let mut engine = all.open(path);
    let reference = bits(&mut engine);
    assert!(reference.iter().all(|b| f32::from_bits(*b).is_finite()));
    let layers = engine.manifest().spec.layers.len() as u32;
    assert!(layers >= 5, "{layers} layers");
    use IoBackend::{Auto, Buffered, Pread, Uring};
    let every = |n: u32| (0..layers).filter(|l| l % n == 0).collect::<Vec<_>>();
    for (streamed, ring, rows, threads, io, chunk) in [
        (every(1), 3, 16, 2, Auto, 64),
        (every(1), 1, 1, 1, Pread, 7),
        (every(1), 2, 0, 3, Uring, 1),
        (every(2), 3, 3, 2, Buffered, 7),
        (every(3), 2, 16, 2, Uring, 64),
        (vec![layers - 1], 1, 0, 2, Pread, 64),
        (vec![], 0, 5, 2, Auto, 64),
    ] {
        let placement = Placement { streamed, ring, rows, threads, io, chunk };
        let mut engine = placement.open(path);
        assert!(bits(&mut engine) == reference, "{placement:?}");
        engine.reset();
        assert!(bits(&mut engine) == reference, "{placement:?}, for the second time");
    }
}

#[test]
fn a_dense_model_obeys_the_law() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let gguf = dir.path().join("deep.gguf");
    toy::write_deep_gguf(&gguf, 7).unwrap_or_else(|e| panic!("{e}"));
    obeys(&packs::convert(&gguf, dir.path()).unwrap_or_else(|e| panic!("{e}")));
}

#[test]
fn a_mixture_of_experts_with_a_streamed_trunk_obeys_the_law() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    obeys(&packs::convert(&shared::demo_model(), dir.path()).unwrap_or_else(|e| panic!("{e}")));
}

/// Through the limit a user sets, from the smallest that works to one that holds everything.
#[test]
fn the_limit_of_a_dense_model_changes_no_bit() {
    let Some(shared) = shared::shared() else { return };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let pack = packs::convert(&shared.join("models/relu-llama-19m"), dir.path()).unwrap_or_else(|e| panic!("{e}"));
    let base = Placement { streamed: vec![], ring: 0, rows: 0, threads: 2, io: IoBackend::Auto, chunk: 16 }.options();
    let open = |bytes| Engine::open(&pack, &Options { ram: RamLimit::Bytes(bytes), ..base.clone() });
    let refusal = open(1 << 20).map(|_| ()).expect_err("one MiB holds nothing").to_string();
    let mut engine = open(ALL).unwrap_or_else(|e| panic!("{e}"));
    assert!(engine.plan().streamed.is_empty() && engine.plan().row_slots == 0, "{}", engine.plan().breakdown());
    let (reference, floor) = (bits(&mut engine), engine.plan().floor);
    assert!(refusal.contains(&format!("--ram {}M", floor >> 20)), "{refusal}");
    assert!(open(floor - 1).is_err());
    let mut streamed = usize::MAX;
    for bytes in [floor, floor + (4 << 20), floor + (9 << 20)] {
        let mut engine = open(bytes).unwrap_or_else(|e| panic!("{e}"));
        let plan = engine.plan().clone();
        assert!(!plan.streamed.is_empty() && plan.streamed.len() < streamed, "more memory, fewer layers read: {}", plan.breakdown());
        assert!(plan.breakdown().contains("are read for each step") && plan.breakdown().contains("ring"), "{}", plan.breakdown());
        streamed = plan.streamed.len();
        let before = engine.stats().bytes;
        assert!(bits(&mut engine) == reference, "{}", plan.breakdown());
        assert!(engine.stats().bytes - before >= 4 * plan.streamed_bytes, "each step reads what does not fit");
    }
}
