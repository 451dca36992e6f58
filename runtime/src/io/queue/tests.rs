use super::*;
use crate::io::fake::{FakeDisk, Faults};
use crate::testing::Random;
use crate::window::arena::Arena;
use proptest::prelude::*;

const PAGE: usize = IO_ALIGNMENT;

fn read_all(queue: &mut Queue, arena: &mut Arena, runs: &[(usize, usize)]) -> Vec<Result<(), ReadError>> {
    for (i, &(page, pages)) in runs.iter().enumerate() {
        queue.read(i as u64, (page * PAGE) as u64, pages * PAGE, arena.lease(i).unwrap(), Urgency::Demand);
    }
    let mut results: Vec<Option<Result<(), ReadError>>> = runs.iter().map(|_| None).collect();
    while let Some(done) = queue.wait().unwrap() {
        assert_eq!(done.lease.span(), done.tag as usize);
        assert!(results[done.tag as usize].replace(done.result).is_none(), "each run finishes once");
        arena.restore(done.lease);
    }
    results.into_iter().map(|r| r.expect("each run finishes")).collect()
}

fn content(pages: usize) -> Vec<u8> {
    Random(9).bytes(pages * PAGE)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the disk does short of failing, every run arrives whole, in its own memory; with failures, a run is whole or reported.
    #[test]
    fn runs_arrive_whole_or_are_reported(
        seed in any::<u64>(),
        runs in prop::collection::vec((0usize..1500, 1usize..700), 1..60),
        short in 0u32..400, interrupted in 0u32..400, hard in any::<bool>(),
    ) {
        let content = content(2200);
        let bad = hard.then(|| 1000 * PAGE as u64 + 77);
        let faults = Faults { short, interrupted, bad_sector: bad, budget: 500, ..Faults::default() };
        let mut queue = Queue::new(Box::new(FakeDisk::new(content.clone(), faults, seed)), 4);
        queue.delays = [Duration::ZERO; 2];
        let mut arena = Arena::new(runs.iter().map(|r| r.1 * PAGE)).unwrap();
        for (i, result) in read_all(&mut queue, &mut arena, &runs).into_iter().enumerate() {
            let (page, pages) = runs[i];
            let hit = bad.is_some_and(|b| (page * PAGE..(page + pages) * PAGE).contains(&(b as usize)));
            prop_assert_eq!(result.is_err(), hit, "run {}: {:?}", i, result);
            if let Err(e) = result {
                prop_assert!(e.offset <= bad.unwrap() && bad.unwrap() - e.offset < PIECE_BYTES as u64);
            } else {
                prop_assert!(arena.bytes(i).unwrap() == &content[page * PAGE..(page + pages) * PAGE], "run {}", i);
            }
        }
    }
}

#[test]
fn the_end_of_the_file_is_an_error_at_once() {
    let mut queue = Queue::new(Box::new(FakeDisk::new(content(300), Faults::default(), 1)), 1);
    let mut arena = Arena::new([400 * PAGE, PAGE]).unwrap();
    let results = read_all(&mut queue, &mut arena, &[(0, 400), (299, 1)]);
    let error = results[0].as_ref().unwrap_err();
    assert_eq!((error.error.kind(), error.offset), (io::ErrorKind::UnexpectedEof, 300 * PAGE as u64));
    assert!(results[1].is_ok());
    assert_eq!(queue.stats().retries, 0);
}

#[test]
fn endless_interruptions_end() {
    let faults = Faults { interrupted: 1000, budget: u32::MAX, ..Faults::default() };
    let mut queue = Queue::new(Box::new(FakeDisk::new(content(1), faults, 1)), 1);
    let mut arena = Arena::new([PAGE]).unwrap();
    assert!(read_all(&mut queue, &mut arena, &[(0, 1)])[0].is_err());
}

#[test]
fn a_last_page_that_is_not_whole_is_an_error() {
    let mut queue = Queue::new(Box::new(FakeDisk::new(content(2)[..PAGE + 100].to_vec(), Faults::default(), 1)), 1);
    let mut arena = Arena::new([2 * PAGE]).unwrap();
    assert_eq!(read_all(&mut queue, &mut arena, &[(0, 2)])[0].as_ref().unwrap_err().offset, PAGE as u64);
}

#[test]
fn what_is_not_aligned_or_does_not_fit_is_refused_and_comes_back() {
    let mut queue = Queue::new(Box::new(FakeDisk::new(content(4), Faults::default(), 1)), 1);
    let mut arena = Arena::new([2 * PAGE]).unwrap();
    for (offset, length) in [(1, PAGE), (0, 100), (0, 0), (0, 3 * PAGE), (u64::MAX - 4095, PAGE), (0, usize::MAX - 4095)] {
        queue.read(5, offset, length, arena.lease(0).unwrap(), Urgency::Demand);
        let done = queue.wait().unwrap().unwrap();
        assert!(done.result.is_err() && done.tag == 5, "{offset} {length}");
        arena.restore(done.lease);
    }
    assert!(queue.wait().unwrap().is_none());
}

/// A backend whose system calls fail.
struct Broken {
    submits: bool,
}

impl DiskIo for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }
    fn register(&mut self, _: &[(*mut u8, usize)]) -> bool {
        false
    }
    fn set_pace(&mut self, _: usize) {}
    fn recall(&mut self, _: usize) -> bool {
        false
    }
    unsafe fn submit(&mut self, _: &[Piece]) -> io::Result<()> {
        if self.submits { Ok(()) } else { Err(io::Error::other("no")) }
    }
    fn wait(&mut self) -> io::Result<crate::io::Completion> {
        Err(io::Error::other("no"))
    }
    fn poll(&mut self) -> io::Result<Option<crate::io::Completion>> {
        Err(io::Error::other("no"))
    }
}

#[test]
fn a_broken_backend_stays_an_error_and_keeps_the_memory() {
    for submits in [false, true] {
        let mut queue = Queue::new(Box::new(Broken { submits }), 1);
        let mut arena = Arena::new([PAGE]).unwrap();
        queue.read(0, 0, PAGE, arena.lease(0).unwrap(), Urgency::Demand);
        assert!(queue.wait().is_err() && queue.wait().is_err());
        assert!(arena.bytes(0).is_none());
        drop(queue);
    }
}
