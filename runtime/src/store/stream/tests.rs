use crate::budget::MemoryPlan;
use crate::error::Result;
use crate::io::Queue;
use crate::io::fake::{FakeDisk, Faults};
use crate::kernels::Pool;
use crate::store::{RunId, Store};
use crate::testing::{Sizes, TinyPack, with_backends};
use forebay_format::BundleId;
use forebay_format::model::Role;

const LAYERS: u32 = 6;

/// Dense layers of 4 MB: each comes in several deliveries.
fn dense() -> TinyPack {
    TinyPack::of(&Sizes { hidden: 512, inner: 640, experts: &[0; LAYERS as usize], slice_rows: 40 })
}

fn plan(tiny: &TinyPack, streamed: &[u32], ring_spans: u32, row_slots: u32) -> MemoryPlan {
    let pack = tiny.open();
    let lengths = streamed.iter().map(|&l| pack.index.get(BundleId::trunk(l)).unwrap().length);
    MemoryPlan {
        streamed: streamed.to_vec(),
        ring_spans,
        ring_span_bytes: lengths.max().unwrap_or(0),
        row_slots,
        row_slot_bytes: 2 * pack.superblock.chunk_bytes as u64,
        ..tiny.plan(0)
    }
}

fn faulty(tiny: &TinyPack, plan: &MemoryPlan, faults: Faults, seed: u64) -> Result<Store> {
    let disk = FakeDisk::new(tiny.bytes.clone(), faults, seed);
    Store::with_queue(tiny.open(), plan, Queue::new(Box::new(disk), 8), &Pool::new(1))
}

/// All tensors of a layer are those of its bundle.
fn assert_layer(tiny: &TinyPack, store: &Store, layer: u32) {
    let bundle = tiny.bundle(store.pack(), BundleId::trunk(layer));
    for p in &store.pack().manifest.trunk[layer as usize] {
        let t = store.tensor(store.find(RunId::Trunk(layer), p.role).unwrap());
        assert_eq!((t.rows, t.cols), (p.rows as usize, p.cols as usize), "layer {layer}");
        assert!(t.bytes == &bundle[p.offset as usize..][..(p.rows * p.cols * 4) as usize], "layer {layer} {:?}", p.role);
    }
}

/// A step: the layers in order, then the head.
fn step(tiny: &TinyPack, store: &mut Store, pool: &Pool) -> Result<()> {
    for layer in 0..LAYERS {
        store.enter(layer, pool)?;
        assert_layer(tiny, store, layer);
    }
    store.enter(LAYERS, pool)
}

fn assert_rows(tiny: &TinyPack, store: &mut Store, rows: &[u32], pool: &Pool) -> Result<()> {
    let embedding = store.find(RunId::Embedding, Role::Embedding).unwrap();
    store.read_rows(embedding, rows, pool)?;
    let bundle = tiny.bundle(store.pack(), RunId::Embedding.bundle());
    for (slot, &row) in rows.iter().enumerate() {
        let m = store.row(embedding, slot);
        assert_eq!((m.rows, m.cols), (1, 512));
        assert!(m.bytes == &bundle[row as usize * 2048..][..2048], "row {row}");
    }
    Ok(())
}

#[test]
fn every_backend_streams_layers_and_rows() {
    with_backends(|io| {
        let tiny = dense();
        let pool = Pool::new(2);
        for (streamed, ring) in [(&[0, 1, 2, 3, 4, 5][..], 3), (&[1, 3, 5], 2), (&[0, 2, 3, 5], 1), (&[4], 3)] {
            let plan = plan(&tiny, streamed, ring, 4);
            let mut store = Store::open(tiny.open(), &plan, io, &pool).unwrap();
            let before = store.stats().bytes;
            for token in 0..3 {
                assert_rows(&tiny, &mut store, &[token, 299, 17 * token, 31], &pool).unwrap();
                step(&tiny, &mut store, &pool).unwrap();
            }
            store.keep_reading(&pool).unwrap();
            while store.advance(&pool, true).unwrap() {}
            let stats = store.stats();
            let runs = |bytes: u64| (bytes - before) / plan.ring_span_bytes;
            // What stays in the ring is read once; else each step reads each layer, and the ring is full of the next step's.
            let fits = streamed.len() <= ring as usize;
            let want = if fits { streamed.len() } else { 3 * streamed.len() + ring as usize } as u64;
            assert_eq!(runs(stats.bytes), want, "{streamed:?} {ring}");
            assert_eq!((stats.trunk_bytes, stats.rereads), (stats.bytes, 0));
        }
    });
}

#[test]
fn the_next_layers_are_read_while_one_is_computed_also_past_the_end() {
    let tiny = dense();
    let pool = Pool::new(1);
    let mut store = faulty(&tiny, &plan(&tiny, &[0, 2, 3, 4, 5], 3, 0), Faults::default(), 1).unwrap();
    let there = |store: &Store| (0..LAYERS).filter(|&l| store.has_layer(l)).collect::<Vec<_>>();
    assert_eq!(there(&store), [1]);
    for (layer, want) in [(0, &[0, 1, 2, 3][..]), (1, &[1, 2, 3, 4]), (4, &[0, 1, 4, 5]), (5, &[0, 1, 2, 5]), (6, &[0, 1, 2, 3])] {
        store.enter(layer, &pool).unwrap();
        while store.advance(&pool, true).unwrap() {}
        assert_eq!(there(&store), want, "at {layer}");
    }
    assert!(store.tensor(store.find(RunId::Trunk(5), Role::Q).unwrap()).bytes.is_empty(), "what is not there has no bytes");
}

#[test]
fn transient_faults_and_delays_change_nothing() {
    let tiny = dense();
    let pool = Pool::new(2);
    let (mut rereads, mut retries) = (0, 0);
    for seed in 0..12 {
        let faults = Faults { short: 100, interrupted: 100, flip: 20, error: 5, delay: 30, budget: 12, ..Faults::default() };
        let mut store = match faulty(&tiny, &plan(&tiny, &[0, 1, 3, 4, 5], 2, 3), faults, seed) {
            Ok(store) => store,
            // Two flips in a row of one delivery are damage for all that anybody can tell.
            Err(e) => panic!("seed {seed}: {e}"),
        };
        for token in 0..2 {
            assert_rows(&tiny, &mut store, &[token, 150, 299], &pool).unwrap();
            step(&tiny, &mut store, &pool).unwrap();
        }
        rereads += store.stats().rereads;
        retries += store.stats().retries;
    }
    assert!(rereads > 5 && retries > 0, "{rereads} {retries}");
}

#[test]
fn a_damaged_layer_is_named_when_it_is_wanted_and_the_rest_goes_on() {
    let tiny = dense();
    let pool = Pool::new(1);
    let record = tiny.open().index.get(BundleId::trunk(3)).unwrap().clone();
    let at = record.offset + (2 << 20) + 5;
    for (faults, code, text) in [
        (Faults { bad_bit: Some(at), ..Faults::default() }, 3, "checksum of layer 3 trunk"),
        (Faults { bad_sector: Some(at), ..Faults::default() }, 6, "layer 3 trunk at offset"),
    ] {
        let mut store = faulty(&tiny, &plan(&tiny, &[0, 1, 2, 3, 4, 5], 3, 0), faults, 3).unwrap();
        for _ in 0..3 {
            // Read ahead of time, told when it is its turn; then the sequence begins again.
            let error = step(&tiny, &mut store, &pool).unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
            assert_eq!(error.exit_code(), code);
            assert!(!store.has_layer(3), "damaged bytes are never served");
        }
        store.enter(4, &pool).unwrap();
        assert_layer(&tiny, &store, 4);
    }
}

#[test]
fn a_damaged_embedding_is_named_and_other_rows_are_read() {
    let tiny = dense();
    let pool = Pool::new(1);
    let record = tiny.open().index.get(RunId::Embedding.bundle()).unwrap().clone();
    let faults = Faults { bad_bit: Some(record.offset + 100 * 2048), ..Faults::default() };
    let mut store = faulty(&tiny, &plan(&tiny, &[], 0, 3), faults, 3).unwrap();
    assert_eq!(store.row_slots(), Some(3));
    let error = assert_rows(&tiny, &mut store, &[7, 100, 200], &pool).unwrap_err();
    assert!(error.to_string().contains("checksum of embedding"), "{error}");
    assert_rows(&tiny, &mut store, &[7, 299, 200], &pool).unwrap();
    let embedding = store.find(RunId::Embedding, Role::Embedding).unwrap();
    assert!(store.read_rows(embedding, &[300], &pool).unwrap_err().to_string().contains("has no row 300"));
    assert!(store.read_rows(embedding, &[1; 4], &pool).unwrap_err().to_string().contains("3 slots"));
    assert_rows(&tiny, &mut store, &[0], &pool).unwrap();
}

#[test]
fn a_jump_in_the_order_of_layers_is_followed() {
    let tiny = dense();
    let pool = Pool::new(1);
    let faults = Faults { delay: 50, ..Faults::default() };
    let mut store = faulty(&tiny, &plan(&tiny, &[0, 1, 2, 3, 4, 5], 2, 0), faults, 9).unwrap();
    for layer in [0, 4, 2, 5, 5, 3, 1, 0, 6, 2] {
        store.enter(layer, &pool).unwrap();
        if layer < LAYERS {
            assert_layer(&tiny, &store, layer);
        }
    }
}
