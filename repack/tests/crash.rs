//! A conversion that stops at any operation leaves something that `--resume` completes to the very same bytes.

mod common;

use common::{Limited, SMALL, Shape, options, toy};
use forebay_format::QuantType;
use forebay_repack::plan::{Plan, Quantize};
use forebay_repack::write::media::{Media, System};
use forebay_repack::{Error, write};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Stops the machine at operation `at`: that one happens by half, later ones not at all. With `power`, what was not synced is lost too.
struct Stops {
    at: u64,
    power: bool,
    count: AtomicU64,
    unsynced: Mutex<Vec<(File, u64, usize)>>,
}

impl Stops {
    fn at(at: u64, power: bool) -> Self {
        Stops { at, power, count: AtomicU64::new(0), unsynced: Mutex::new(Vec::new()) }
    }

    /// This operation happens whole (`Ok`), by half, or not at all.
    fn next(&self) -> Result<(), bool> {
        match self.count.fetch_add(1, Ordering::SeqCst) {
            n if n < self.at => Ok(()),
            n => Err(n == self.at),
        }
    }

    /// The operation that cannot happen any more.
    fn halt(&self) -> io::Error {
        // Draining also closes the handles, which share the lock.
        for (file, offset, len) in self.unsynced.lock().unwrap().drain(..) {
            if self.power {
                let mut lost = write::buffer::AlignedBuf::default();
                System.write_at(&file, lost.slice(len), offset).unwrap();
            }
        }
        io::Error::other("the machine stopped")
    }
}

impl Media for Stops {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let len = match self.next() {
            Ok(()) => bytes.len(),
            Err(true) if bytes.len() >= 8192 => bytes.len() / 2 / 4096 * 4096,
            Err(true) if bytes.len() < 4096 => bytes.len() / 2,
            Err(_) => return Err(self.halt()),
        };
        self.unsynced.lock().unwrap().push((file.try_clone()?, offset, len));
        System.write_at(file, &bytes[..len], offset)?;
        if len < bytes.len() { Err(self.halt()) } else { Ok(()) }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.next().map_err(|_| self.halt())?;
        System.sync(file)?;
        let ino = |f: &File| std::os::unix::fs::MetadataExt::ino(&f.metadata().unwrap());
        self.unsynced.lock().unwrap().retain(|(f, ..)| ino(f) != ino(file));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        self.next().map_err(|_| self.halt())?;
        System.rename(from, to, replace)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.next().map_err(|_| self.halt())?;
        System.sync_dir(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.next().map_err(|_| self.halt())?;
        System.remove(path)
    }
}

/// Claims after every piece or two.
fn small_groups(resume: bool, media: &dyn Media) -> write::Options<'_> {
    write::Options { resume, media, group_bytes: 9000, ..options(1) }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn resume_after_a_stop_at_every_operation_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, binding) = toy(dir.path(), SMALL);
    let plan = Plan::new(&checkpoint, &binding, Quantize::Keep).unwrap();
    let (whole, out) = (dir.path().join("whole.fby"), dir.path().join("toy.fby"));
    write::convert(&checkpoint, &plan, &whole, &options(1)).unwrap();
    let whole = std::fs::read(whole).unwrap();
    let mut resumed = 0;
    for power in [false, true] {
        for at in 0.. {
            let media = Stops::at(at, power);
            let Err(error) = write::convert(&checkpoint, &plan, &out, &small_groups(false, &media)) else {
                assert!(at > 20, "only {at} operations");
                std::fs::remove_file(&out).unwrap();
                break;
            };
            assert!(matches!(error, Error::Io { .. }), "{error}");
            // A second stop, in the middle of going on.
            let again = Stops::at(at / 2, power);
            let _ = write::convert(&checkpoint, &plan, &out, &small_groups(true, &again));
            let report = write::convert(&checkpoint, &plan, &out, &small_groups(true, &System)).unwrap();
            resumed += u64::from(report.resumed_bytes > 0);
            assert!(std::fs::read(&out).unwrap() == whole, "stopped at operation {at}, power lost: {power}");
            assert_eq!(names(dir.path()), ["toy.fby", "weights.bin", "whole.fby"]);
            std::fs::remove_file(&out).unwrap();
        }
    }
    assert!(resumed > 20, "{resumed}");
}

#[test]
fn damage_to_an_unfinished_pack_is_repaired() {
    let dir = tempfile::tempdir().unwrap();
    let shape = Shape { hidden: 64, inner: 64, experts: 8, vocab: 100, dtype: QuantType::F32 };
    let (checkpoint, binding) = toy(dir.path(), shape);
    let plan = Plan::new(&checkpoint, &binding, Quantize::Keep).unwrap();
    let (whole, out) = (dir.path().join("whole.fby"), dir.path().join("toy.fby"));
    write::convert(&checkpoint, &plan, &whole, &options(1)).unwrap();
    let whole = std::fs::read(whole).unwrap();
    for at in [4096, 40_000, 150_000, 300_000] {
        write::convert(&checkpoint, &plan, &out, &small_groups(false, &Stops::at(30, false))).unwrap_err();
        let partial = dir.path().join("toy.fby.partial");
        let file = File::options().write(true).open(&partial).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0x55; 64], at).unwrap();
        write::convert(&checkpoint, &plan, &out, &write::Options { threads: 2, ..small_groups(true, &System) }).unwrap();
        assert!(std::fs::read(&out).unwrap() == whole, "damage at {at}");
        std::fs::remove_file(&out).unwrap();
    }
}

#[test]
fn an_unfinished_conversion_is_neither_lost_nor_mixed_up() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, binding) = toy(dir.path(), SMALL);
    let plan = Plan::new(&checkpoint, &binding, Quantize::Keep).unwrap();
    let out = dir.path().join("toy.fby");
    write::convert(&checkpoint, &plan, &out, &small_groups(false, &Stops::at(20, false))).unwrap_err();
    let error = write::convert(&checkpoint, &plan, &out, &options(1)).unwrap_err();
    assert!(matches!(&error, Error::Usage(text) if text.contains("--resume") && text.contains("--force")), "{error}");
    // Another plan starts over rather than build on bytes of this one.
    let other = Plan::new(&checkpoint, &binding, Quantize::To(QuantType::Q8_0)).unwrap();
    let report = write::convert(&checkpoint, &other, &out, &small_groups(true, &System)).unwrap();
    assert_eq!(report.resumed_bytes, 0);
    let fresh = dir.path().join("fresh.fby");
    write::convert(&checkpoint, &other, &fresh, &options(2)).unwrap();
    assert!(std::fs::read(&out).unwrap() == std::fs::read(&fresh).unwrap());
}

#[test]
fn a_second_writer_is_kept_away() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, binding) = toy(dir.path(), SMALL);
    let plan = Plan::new(&checkpoint, &binding, Quantize::Keep).unwrap();
    let out = dir.path().join("toy.fby");
    let lock = File::create(dir.path().join("toy.fby.partial")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = write::convert(&checkpoint, &plan, &out, &options(1)).unwrap_err();
    assert!(error.to_string().contains("another conversion is writing"), "{error}");
    drop(lock);
    write::convert(&checkpoint, &plan, &out, &options(1)).unwrap();
}

#[test]
fn a_full_disk_is_named_and_nothing_useless_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, binding) = toy(dir.path(), SMALL);
    let plan = Plan::new(&checkpoint, &binding, Quantize::Keep).unwrap();
    let out = dir.path().join("toy.fby");
    let full = Limited::new(3, || rustix::io::Errno::NOSPC.into());
    let error = write::convert(&checkpoint, &plan, &out, &write::Options { media: &full, ..options(1) }).unwrap_err();
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    assert_eq!(error.exit_code(), 5);
    assert_eq!(names(dir.path()), ["weights.bin"]);
}
