use super::*;
use crate::io::fake::Faults;
use crate::testing::{EXPERTS, HIDDEN, INNER, Random, Sizes, TinyPack, with_backends};

/// Requests experts and waits until all of them are there.
fn hold(store: &mut Store, layer: u32, experts: &[u32]) -> Result<()> {
    let pool = Pool::new(2);
    store.request(layer, experts, false)?;
    while !experts.iter().all(|&e| store.is_whole(layer, e)) {
        assert!(store.advance(&pool, true)?, "what was asked for comes");
    }
    Ok(())
}

/// Rows of a matrix as its pieces give them.
fn rows(m: &Matrix) -> Vec<u8> {
    let row = m.qtype.row_bytes(m.cols).unwrap();
    (0..m.rows).flat_map(|r| &m.bytes[(r / m.piece_rows) * m.piece_stride + (r % m.piece_rows) * row..][..row]).copied().collect()
}

/// The three matrices of an expert, cut from its bundle by the manifest's slices: a second way to the same bytes.
fn expected(pack: &Pack, bundle: &[u8], layer: u32) -> [Vec<u8>; 3] {
    use forebay_format::layout::manifest::ExpertSlice;
    let place = pack.manifest.experts[layer as usize].as_ref().unwrap();
    let record = pack.index.get(BundleId::expert(layer, 0)).unwrap();
    let mut out = [vec![], vec![], vec![]];
    let row = |q: QuantType, cols: u32| q.row_bytes(cols as usize).unwrap();
    for (slice, range) in place.slices.iter().zip(pack.index.layout(record).slice_ranges()) {
        let bytes = &bundle[range.start as usize..range.end as usize];
        match *slice {
            ExpertSlice::GateUp { rows, up_offset, .. } => {
                out[0].extend(&bytes[..rows as usize * row(place.gate, HIDDEN)]);
                out[1].extend(&bytes[up_offset as usize..][..rows as usize * row(place.up, HIDDEN)]);
            }
            ExpertSlice::Down { rows, .. } => out[2].extend(&bytes[..rows as usize * row(place.down, INNER)]),
        }
    }
    out
}

fn assert_expert(tiny: &TinyPack, store: &Store, layer: u32, expert: u32) {
    let view = store.expert(layer, expert).expect("it is held");
    let want = expected(store.pack(), tiny.bundle(store.pack(), BundleId::expert(layer, expert)), layer);
    assert_eq!([view.gate, view.up, view.down].map(|m| rows(&m)), want, "layer {layer} expert {expert}");
    assert_eq!((view.gate.rows, view.gate.cols, view.down.rows, view.down.cols), (96, 64, 64, 96));
}

#[test]
fn every_backend_reads_the_same_trunk_and_experts() {
    with_backends(|io| {
        let tiny = TinyPack::new();
        let mut store = tiny.store(4, io);
        for (run, places) in [(RunId::Embedding, 1), (RunId::Trunk(0), 7), (RunId::Trunk(1), 9), (RunId::Trunk(2), 7), (RunId::Head, 2)] {
            let bundle = tiny.bundle(store.pack(), run.bundle());
            let m = &store.pack().manifest;
            let list = match run {
                RunId::Embedding => &m.embedding,
                RunId::Trunk(l) => &m.trunk[l as usize],
                RunId::Head => &m.head,
            };
            assert_eq!(list.len(), places);
            for p in list {
                let t = store.tensor(store.find(run, p.role).unwrap());
                assert_eq!((t.rows, t.cols, t.qtype), (p.rows as usize, p.cols as usize, p.qtype));
                assert_eq!(t.bytes, &bundle[p.offset as usize..][..(p.rows * p.cols * 4) as usize]);
            }
        }
        assert!(store.find(RunId::Trunk(3), Role::Q).is_none() && store.find(RunId::Embedding, Role::Head).is_none());
        let mut random = Random(7);
        for _ in 0..60 {
            let layer = [0, 2][random.below(2) as usize];
            let experts: Vec<u32> = (0..4).map(|_| random.below(EXPERTS[layer as usize] as u64) as u32).collect();
            hold(&mut store, layer, &experts).unwrap();
            experts.iter().for_each(|&e| assert_expert(&tiny, &store, layer, e));
        }
        let stats = store.stats();
        let one = tiny.plan(4).slot_bytes;
        assert_eq!(stats.bytes, stats.trunk_bytes + stats.misses * one, "no byte was read twice");
        assert!(stats.hits > 0 && stats.misses > 0 && stats.rereads == 0 && stats.retries == 0);
        assert!(stats.hit_rate().unwrap() < 1.0);
    });
}

#[test]
fn auto_takes_a_direct_backend_without_a_warning_where_one_starts() {
    let tiny = TinyPack::new();
    let store = tiny.store(4, IoBackend::Auto);
    assert_eq!(store.warning().is_some(), store.stats().backend == "buffered", "{:?}", store.warning());
}

#[test]
fn holds_that_cannot_be() {
    let tiny = TinyPack::new();
    let mut store = tiny.store(4, IoBackend::Buffered);
    let text = |r: Result<()>| r.unwrap_err().to_string();
    assert!(text(hold(&mut store, 0, &[0, 1, 2, 3, 4])).contains("5 experts are wanted at once, but the window has 4 slots"));
    assert!(text(hold(&mut store, 0, &[6])).contains("no layer 0 expert 6"));
    assert!(text(hold(&mut store, 1, &[0])).contains("no layer 1 expert 0"));
    assert!(text(hold(&mut store, 9, &[0])).contains("no layer 9 expert 0"));
    hold(&mut store, 0, &[]).unwrap();
    hold(&mut store, 0, &[3, 3, 3, 3, 3, 3]).unwrap();
    assert_eq!((store.stats().misses, store.stats().hits), (1, 0));
    assert!(store.expert(0, 0).is_none() && store.expert(1, 0).is_none() && store.expert(77, 0).is_none());
}

#[test]
fn transient_faults_change_nothing_but_the_statistics() {
    let tiny = TinyPack::new();
    for seed in 0..30 {
        // Few enough errors and flips that no bundle sees two.
        let faults = Faults { short: 300, interrupted: 300, budget: 200, ..Faults::default() };
        let mut store = tiny.faulty(5, faults, seed).unwrap();
        for layer in [0, 2, 0, 2] {
            hold(&mut store, layer, &[0, 5, 2, 4, 1]).unwrap();
            [0, 5, 2, 4, 1].iter().for_each(|&e| assert_expert(&tiny, &store, layer, e));
        }
    }
}

#[test]
fn a_flipped_bit_is_read_again_and_an_error_retried() {
    let tiny = TinyPack::new();
    let (mut rereads, mut retries) = (0, 0);
    for seed in 0..40 {
        for faults in [Faults { flip: 200, budget: 1, ..Faults::default() }, Faults { error: 100, budget: 1, ..Faults::default() }] {
            let mut store = tiny.faulty(5, faults, seed).unwrap();
            hold(&mut store, 2, &[9, 0, 3]).unwrap();
            [9, 0, 3].iter().for_each(|&e| assert_expert(&tiny, &store, 2, e));
            rereads += store.stats().rereads;
            retries += store.stats().retries;
        }
    }
    assert!(rereads > 10 && retries > 10, "{rereads} {retries}");
}

#[test]
fn lasting_damage_is_an_error_that_names_the_bundle_and_spares_the_others() {
    let tiny = TinyPack::new();
    let record = tiny.open().index.get(BundleId::expert(2, 7)).unwrap().clone();
    let at = record.offset + record.length - 1;
    let slice = tiny.open().index.layout(&record).slice_ranges().last().unwrap().start;
    for (faults, code, text) in [
        (Faults { bad_bit: Some(at), ..Faults::default() }, 3, "checksum of layer 2 expert 7".to_string()),
        (Faults { bad_sector: Some(at), ..Faults::default() }, 6, format!("layer 2 expert 7 at offset {}", record.offset + slice)),
    ] {
        let mut store = tiny.faulty(4, faults, 3).unwrap();
        store.set_pace(SLICES);
        hold(&mut store, 2, &[1, 2]).unwrap();
        let error = hold(&mut store, 2, &[1, 7, 8]).unwrap_err();
        assert!(error.to_string().contains(&text), "{error}");
        assert_eq!(error.exit_code(), code);
        assert!(store.expert(2, 7).is_none(), "damaged bytes are never served");
        for round in 0..5 {
            hold(&mut store, 2, &[8, round]).unwrap();
            assert_expert(&tiny, &store, 2, 8);
            assert_expert(&tiny, &store, 2, round);
        }
        hold(&mut store, 2, &[7]).unwrap_err();
        hold(&mut store, 0, &[0, 1, 2, 3]).unwrap();
    }
}

/// Each slice is a request of its own.
const SLICES: Pace = Pace { request: 1, in_flight: 1 << 16 };

/// One sequence of requests, guesses and arrivals, on whatever store: experts come whole and right, in whatever order their slices do.
fn requests_and_guesses(tiny: &TinyPack, store: &mut Store, seed: u64) {
    let pool = Pool::new(2);
    let mut random = Random(seed);
    let two = store.pack().index.get(BundleId::expert(0, 0)).unwrap().length as usize / 3;
    for round in 0..60 {
        store.set_pace([SLICES, Pace { request: two, in_flight: 1 << 20 }, Pace::default()][round / 20]);
        for layer in [0, 2] {
            let count = EXPERTS[layer as usize] as u64;
            let experts: Vec<u32> = (0..2).map(|_| random.below(count) as u32).collect();
            store.request(layer, &experts, false).unwrap();
            store.advance(&pool, false).unwrap();
            let next = 2 - layer;
            let guesses: Vec<u32> = (0..3).map(|_| random.below(EXPERTS[next as usize] as u64) as u32).collect();
            store.look_ahead(next, guesses.into_iter()).unwrap();
            while !experts.iter().all(|&e| store.is_whole(layer, e)) {
                for &e in &experts {
                    let arrived = store.arrived(layer, e);
                    for slice in (0..64).filter(|s| (arrived.slices >> s) & 1 == 1) {
                        assert_slice(tiny, store, layer, e, slice);
                    }
                    let missing = (arrived.gate_up | arrived.down) & !arrived.slices;
                    assert!(missing == 0 || store.expert(layer, e).is_none(), "half an expert is no expert");
                }
                assert!(store.advance(&pool, true).unwrap());
            }
            experts.iter().for_each(|&e| assert_expert(tiny, store, layer, e));
        }
    }
    let stats = store.stats();
    assert!(stats.guesses > 20 && stats.guesses_used > 5 && stats.guesses_used <= stats.guesses, "{stats:?}");
    assert!(stats.misses > 20 && stats.latency.total() > 0 && stats.sizes.total() >= stats.latency.total());
}

/// The rows in a slice are those of the expert.
fn assert_slice(tiny: &TinyPack, store: &Store, layer: u32, expert: u32, slice: usize) {
    let [gate_rows, up_rows, down_rows] = expected(store.pack(), tiny.bundle(store.pack(), BundleId::expert(layer, expert)), layer);
    let cut = |all: &[u8], rows: &std::ops::Range<usize>, m: &Matrix| {
        let row = m.qtype.row_bytes(m.cols).unwrap();
        assert_eq!(m.rows, rows.len());
        all[rows.start * row..rows.end * row].to_vec()
    };
    match store.slice(layer, expert, slice).expect("it has arrived") {
        SliceView::GateUp { rows: r, gate, up } => {
            assert_eq!((rows(&gate), rows(&up)), (cut(&gate_rows, &r, &gate), cut(&up_rows, &r, &up)));
        }
        SliceView::Down { rows: r, down } => assert_eq!(rows(&down), cut(&down_rows, &r, &down)),
    }
}

#[test]
fn every_backend_delivers_slices_and_guesses() {
    with_backends(|io| {
        let tiny = TinyPack::new();
        let plan = MemoryPlan { staging: 3, ..tiny.plan(5) };
        let mut store = Store::open(tiny.open(), &plan, io, &Pool::new(1)).unwrap();
        requests_and_guesses(&tiny, &mut store, 11);
    });
}

#[test]
fn the_simulated_disk_delivers_slices_and_guesses_late_out_of_order_and_damaged() {
    let tiny = TinyPack::new();
    let plan = MemoryPlan { staging: 3, ..tiny.plan(5) };
    for seed in 0..20 {
        let faults = Faults { short: 100, interrupted: 100, flip: 2, error: 1, delay: 40, budget: 30, ..Faults::default() };
        let disk = crate::io::fake::FakeDisk::new(tiny.bytes.clone(), faults, seed);
        let mut store = match Store::with_queue(tiny.open(), &plan, Queue::new(Box::new(disk), 8), &Pool::new(1)) {
            Ok(store) => store,
            // Two flips in a row of one bundle are damage for all that anybody can tell.
            Err(e) => return assert_eq!(e.exit_code(), 3, "{e}"),
        };
        requests_and_guesses(&tiny, &mut store, seed);
    }
}

#[test]
fn a_guess_that_fails_is_forgotten_and_a_right_one_reports() {
    let tiny = TinyPack::new();
    let record = tiny.open().index.get(BundleId::expert(2, 7)).unwrap().clone();
    let faults = Faults { bad_bit: Some(record.offset + 9), delay: 5, ..Faults::default() };
    let disk = crate::io::fake::FakeDisk::new(tiny.bytes.clone(), faults, 4);
    let plan = MemoryPlan { staging: 2, ..tiny.plan(4) };
    let pool = Pool::new(1);
    let mut store = Store::with_queue(tiny.open(), &plan, Queue::new(Box::new(disk), 8), &pool).unwrap();
    store.look_ahead(2, [7, 8].into_iter()).unwrap();
    hold(&mut store, 0, &[1, 2]).unwrap();
    while store.advance(&pool, true).unwrap() {}
    // The damaged guess was nobody's business; wanting it is.
    hold(&mut store, 2, &[8]).unwrap();
    assert_eq!(store.stats().guesses_used, 1);
    assert_eq!(hold(&mut store, 2, &[7]).unwrap_err().exit_code(), 3);
    // Wanted while the guess is under way: the same error, and life goes on.
    store.look_ahead(2, [7].into_iter()).unwrap();
    assert_eq!(hold(&mut store, 2, &[7, 3]).unwrap_err().exit_code(), 3);
    hold(&mut store, 2, &[8, 3]).unwrap();
    [8, 3].iter().for_each(|&e| assert_expert(&tiny, &store, 2, e));
}

#[test]
fn a_guess_that_is_not_repeated_nearer_by_is_given_up_unless_it_is_under_way() {
    let tiny = TinyPack::new();
    let plan = MemoryPlan { staging: 4, ..tiny.plan(4) };
    let pool = Pool::new(1);
    let mut given_up = 0;
    for seed in 0..10 {
        let faults = Faults { delay: 5, ..Faults::default() };
        let disk = crate::io::fake::FakeDisk::new(tiny.bytes.clone(), faults, seed);
        let mut store = Store::with_queue(tiny.open(), &plan, Queue::new(Box::new(disk), 8), &pool).unwrap();
        store.look_ahead(2, [5, 6, 7].into_iter()).unwrap();
        // A layer's guesses are no business of another's.
        store.look_ahead(0, [1].into_iter()).unwrap();
        store.look_ahead(2, [6].into_iter()).unwrap();
        let guessed: Vec<_> = (0..8).filter_map(|slot| store.state.guessed(slot)).collect();
        assert!(guessed.contains(&(2, 6)) && guessed.contains(&(0, 1)), "{guessed:?}");
        given_up += 4 - guessed.len();
        while store.advance(&pool, true).unwrap() {}
        // What was given up is there for whoever wants it.
        hold(&mut store, 2, &[5, 6, 7]).unwrap();
        [5, 6, 7].iter().for_each(|&e| assert_expert(&tiny, &store, 2, e));
    }
    assert!((1..20).contains(&given_up), "{given_up} of 20");
}

#[test]
fn a_prompt_reads_ahead_into_its_part_of_the_window() {
    let tiny = TinyPack::new();
    let record = tiny.open().index.get(BundleId::expert(2, 7)).unwrap().clone();
    let faults = Faults { bad_bit: Some(record.offset + 9), delay: 5, ..Faults::default() };
    let disk = crate::io::fake::FakeDisk::new(tiny.bytes.clone(), faults, 4);
    let plan = MemoryPlan { staging: 2, ..tiny.plan(12) };
    let pool = Pool::new(1);
    let mut store = Store::with_queue(tiny.open(), &plan, Queue::new(Box::new(disk), 8), &pool).unwrap();
    store.begin(64);
    assert!(store.prepares(64) && !store.prepares(1));
    store.prepare(0, [1, 2].into_iter()).unwrap();
    hold(&mut store, 0, &[2, 3]).unwrap();
    [2, 3].iter().for_each(|&e| assert_expert(&tiny, &store, 0, e));
    // A miss that was read ahead is a miss still.
    let stats = store.stats();
    assert_eq!((stats.hits, stats.misses, stats.guesses, stats.guesses_used), (0, 2, 2, 1));
    // Damage in what nobody wants in the end is nobody's business; wanting it is.
    store.prepare(2, [7, 8].into_iter()).unwrap();
    hold(&mut store, 2, &[8]).unwrap();
    while store.advance(&pool, true).unwrap() {}
    assert_eq!(hold(&mut store, 2, &[7]).unwrap_err().exit_code(), 3);
    hold(&mut store, 2, &[8, 5]).unwrap();
    [8, 5].iter().for_each(|&e| assert_expert(&tiny, &store, 2, e));
}

#[test]
fn a_replay_reads_the_same_bytes_and_a_pretence_reads_none() {
    let tiny = TinyPack::new();
    let mut store = tiny.store(4, IoBackend::Buffered);
    let pool = Pool::new(1);
    store.log_reads();
    for layer in [0, 2, 0, 2] {
        hold(&mut store, layer, &[1, 3, 5]).unwrap();
    }
    let stats = store.stats();
    let log = store.log_reads();
    assert_eq!(log.len() as u64, stats.misses);
    let (_, bytes) = store.replay(&log, &pool).unwrap();
    assert_eq!(bytes, stats.bytes - stats.trunk_bytes);
    assert!(store.expert(0, 1).is_none(), "the window is empty afterwards");
    hold(&mut store, 2, &[4]).unwrap();
    let before = store.stats().bytes;
    store.pretend_resident(true);
    store.request(0, &[0, 1, 2, 3, 4, 5], false).unwrap();
    assert!((0..6).all(|e| store.expert(0, e).is_some() && store.arrived(0, e).slices != 0));
    store.pretend_resident(false);
    assert_eq!(store.stats().bytes, before);
    assert!(store.expert(0, 0).is_none());
}

#[test]
fn a_damaged_trunk_stops_the_start() {
    let tiny = TinyPack::new();
    let offset = tiny.open().index.get(BundleId::trunk(1)).unwrap().offset;
    let error = tiny.faulty(4, Faults { bad_bit: Some(offset + 5), ..Faults::default() }, 1).err().unwrap();
    assert!(error.to_string().contains("checksum of layer 1 trunk"), "{error}");
    assert_eq!(error.exit_code(), 3);
}

/// A delivery longer than what one thread checks, of slices whose chunks end anywhere in it.
#[test]
fn damage_anywhere_in_a_long_delivery_is_found() {
    let tiny = TinyPack::of(&Sizes { hidden: 1024, inner: 512, experts: &[2], slice_rows: 112 });
    let record = tiny.open().index.get(BundleId::expert(0, 1)).unwrap().clone();
    assert!(record.length > 4 * reader::CHECK_BYTES as u64);
    let places = (0..record.length).step_by(60_000).chain([record.length - 1]);
    for bad_bit in places.map(|at| record.offset + at) {
        let mut store = tiny.faulty(2, Faults { bad_bit: Some(bad_bit), ..Faults::default() }, 1).unwrap();
        store.set_pace(Pace { request: 4 << 20, ..Pace::default() });
        hold(&mut store, 0, &[0]).unwrap();
        let error = hold(&mut store, 0, &[1]).err().unwrap_or_else(|| panic!("the bit at {bad_bit}")).to_string();
        assert!(error.contains("checksum of layer 0 expert 1"), "{error}");
    }
}

#[test]
fn a_bundle_in_the_wrong_place_is_caught() {
    let tiny = TinyPack::new();
    let pack = tiny.open();
    let [a, b] = [3, 4].map(|e| pack.index.get(BundleId::expert(0, e)).unwrap().offset as usize);
    let length = pack.index.get(BundleId::expert(0, 3)).unwrap().length as usize;
    let mut bytes = tiny.bytes.clone();
    bytes.copy_within(a..a + length, b);
    std::fs::write(&tiny.path, bytes).unwrap();
    let mut store = tiny.store(4, IoBackend::Buffered);
    hold(&mut store, 0, &[3]).unwrap();
    assert!(hold(&mut store, 0, &[4]).unwrap_err().to_string().contains("checksum of layer 0 expert 4"));
}

#[test]
fn a_file_cut_short_while_running_is_an_error() {
    with_backends(|io| {
        let tiny = TinyPack::new();
        let mut store = tiny.store(4, io);
        let offset = store.pack().index.get(BundleId::expert(2, 9)).unwrap().offset;
        std::fs::OpenOptions::new().write(true).open(&tiny.path).unwrap().set_len(offset + 100).unwrap();
        let error = hold(&mut store, 2, &[0, 9]).unwrap_err();
        assert!(error.to_string().contains("cannot read layer 2 expert 9"), "{error}");
        assert_eq!(error.exit_code(), 6);
        hold(&mut store, 2, &[0]).unwrap();
        assert_expert(&tiny, &store, 2, 0);
    });
}

#[test]
fn the_order_of_placement_never_shows() {
    // The same experts through windows of every size and both purposes: the views have the same bytes.
    let tiny = TinyPack::new();
    for slots in [4, 5, 9, 16] {
        let mut store = tiny.store(slots, IoBackend::Pread);
        let mut random = Random(slots as u64);
        for step in 0..40u32 {
            store.set_purpose(if step % 3 == 0 { Purpose::Prefill } else { Purpose::Decode });
            for layer in [0, 2] {
                let experts: Vec<u32> = (0..2).map(|_| random.below(EXPERTS[layer as usize] as u64) as u32).collect();
                hold(&mut store, layer, &experts).unwrap();
                experts.iter().for_each(|&e| assert_expert(&tiny, &store, layer, e));
            }
        }
        if slots == 16 {
            assert!(store.stats().misses <= 16, "everything fits: each expert is read once");
        }
    }
}

#[test]
fn prompts_get_a_part_of_the_window() {
    let tiny = TinyPack::new();
    let mut store = tiny.store(12, IoBackend::Buffered);
    assert_eq!([1, 8, 9, 512].map(|rows| store.begin(rows)), [12, 12, 4, 4]);
    assert_eq!(tiny.store(16, IoBackend::Buffered).begin(512), 16);
    assert_eq!(tiny.store(2, IoBackend::Buffered).begin(512), 2);
}

/// Set for the copy of this test binary that runs under a limit: pack, limit and backend.
const CHILD: &str = "FOREBAY_TEST_UNDER_LIMIT";

#[test]
fn the_limit_holds() {
    let shared = std::env::var("FOREBAY_SHARED").unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared").into());
    let wrapper = std::path::Path::new(&shared).join("bench/with-ram-limit.sh");
    if !wrapper.is_file() || !rustix::process::geteuid().is_root() {
        drop(std::io::Write::write_fmt(
            &mut std::io::stderr(),
            format_args!("SKIP: the_limit_holds needs root and {}\n", wrapper.display()),
        ));
        return;
    }
    let program = std::env::current_exe().unwrap();
    if std::process::Command::new(&program).arg("--list").output().is_err() {
        drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("SKIP: an emulator runs this; the machine itself cannot\n")));
        return;
    }
    let tiny = TinyPack::of(&Sizes { hidden: 1024, inner: 1024, experts: &[25, 25], slice_rows: 256 });
    const LIMIT: u64 = 112 << 20;
    assert!(tiny.bytes.len() as u64 > LIMIT, "the pack is larger than the limit");
    let path = tiny.path.clone();
    for backend in crate::io::open::BACKENDS {
        let run = std::process::Command::new(&wrapper)
            .arg(LIMIT.to_string())
            .arg(&program)
            .args(["--exact", "store::tests::child_under_the_limit", "--nocapture", "--test-threads=1"])
            .env(CHILD, format!("{}|{LIMIT}|{}", path.display(), backend.name))
            .output()
            .unwrap();
        let err = String::from_utf8_lossy(&run.stderr);
        let Some(peak) = err.split("peak memory with page cache: ").nth(1) else {
            drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("SKIP: no control group can be made here: {err}\n")));
            return;
        };
        let peak: u64 = peak.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
        eprintln!("{}: peak {} of {}", backend.name, peak >> 20, LIMIT >> 20);
        assert!(run.status.success(), "{}: {err}", backend.name);
        // Page cache that grew with what is read would fill the group to its limit before the kernel reclaims any.
        assert!(peak < LIMIT - (8 << 20), "{}: peak {peak}: {err}", backend.name);
    }
}

/// Reads more than the limit through a window that the budget sized. Does something only in the process that the test above starts.
#[test]
fn child_under_the_limit() {
    let Ok(how) = std::env::var(CHILD) else { return };
    let mut parts = how.split('|');
    let (path, limit, backend) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    let pack = Pack::open(std::path::Path::new(path)).unwrap();
    let needs = crate::budget::Needs::default();
    let plan = MemoryPlan::new(&pack.manifest, &pack.index, &pack.superblock, &needs, limit.parse().unwrap()).unwrap();
    eprintln!("{}", plan.breakdown());
    assert!(plan.slots < plan.experts && plan.slots >= plan.floor_slots);
    let mut store = match Store::open(pack, &plan, IoBackend::from_name(backend).unwrap(), &Pool::new(1)) {
        Err(e) if e.exit_code() == 6 => return drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("SKIP: {e}\n"))),
        other => other.unwrap(),
    };
    let mut random = Random(3);
    for _ in 0..100 {
        for layer in [0, 1] {
            hold(&mut store, layer, &[random.below(25) as u32, random.below(25) as u32]).unwrap();
        }
    }
    assert!(store.stats().bytes > plan.limit, "{:?}", store.stats());
}
