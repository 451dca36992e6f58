//! What follows from what was found: one line each, with advice where something can be done.

use super::{Machine, Storage};
use crate::disk::Order;
use crate::memory::show_bytes;
use std::time::Duration;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing to do.
    Fine,
    /// It works, and could work better.
    Advice,
    /// Models will not run.
    Broken,
}

impl Level {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Level::Fine => "ok",
            Level::Advice => "advice",
            Level::Broken => "broken",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// How bad.
    pub level: Level,
    /// About what.
    pub about: &'static str,
    /// What was found.
    pub found: String,
    /// What to do.
    pub advice: Option<String>,
}

/// Less than this cannot hold even a small model's program and buffers.
const LEAST_MEMORY: u64 = 256 << 20;
/// A drive below this is slower than any NVMe drive.
const SLOW: f64 = 0.8e9;
/// The end of sustained reading below this share of its beginning is slowing down.
const SLOWING: f64 = 0.75;
/// Reads that take longer than this make a token wait visibly.
const LONG: Duration = Duration::from_millis(50);

/// All findings, in the order of the report.
pub fn findings(machine: &Machine, storage: Option<&Storage>) -> Vec<Finding> {
    let mut list = of_machine(machine);
    if let Some(storage) = storage {
        of_storage(storage, &mut list);
    }
    list
}

fn finding(level: Level, about: &'static str, found: String, advice: &str) -> Finding {
    Finding { level, about, found, advice: (!advice.is_empty()).then(|| advice.to_string()) }
}

fn of_machine(m: &Machine) -> Vec<Finding> {
    let mut list = Vec::new();
    let mut add = |ok: bool, about, found: String, advice: &str| {
        let level = if ok { Level::Fine } else { Level::Advice };
        list.push(finding(level, about, found, if ok { "" } else { advice }));
    };
    let scalar = m.kernels == "scalar";
    add(!scalar, "kernels", format!("{} kernels", m.kernels), "this processor has no AVX2: computing is many times slower than elsewhere");
    let cores = format!("{} compute threads on {} logical processors allowed", m.threads, m.logical);
    add(
        m.threads > 1,
        "cores",
        cores,
        "one thread only: widen the affinity (taskset) or the control group's CPU quota if there are more cores",
    );
    let locked = m.memlock.is_none_or(|limit| limit >= m.picked_limit);
    let memlock = m.memlock.map_or_else(|| "no limit".into(), show_bytes);
    let advice = "with swap on, the system may page the window out: raise it (ulimit -l unlimited, or LimitMEMLOCK= of a service)";
    add(locked || m.swap == 0, "locked memory", format!("limit of locked memory: {memlock}; swap: {}", show_bytes(m.swap)), advice);
    let pages = if m.huge_pages.is_empty() { "none" } else { m.huge_pages.as_str() };
    let advice = "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled makes reads and kernels cheaper";
    add(m.huge_pages != "never", "huge pages", format!("transparent huge pages: {pages}"), advice);
    let (free, total) = (show_bytes(m.picked_limit), show_bytes(m.memory.total()));
    let level = if m.picked_limit < LEAST_MEMORY { Level::Broken } else { Level::Fine };
    let advice = if level == Level::Broken { "free memory, or raise the control group's limit" } else { "" };
    let group = if m.memory.is_grouped() { " (the control group allows no more)" } else { "" };
    list.push(finding(level, "memory", format!("{total} in all{group}; without --ram a run would take {free} now"), advice));
    list
}

fn of_storage(s: &Storage, list: &mut Vec<Finding>) {
    let mut add = |ok: bool, about, found: String, advice: &str| {
        let level = if ok { Level::Fine } else { Level::Advice };
        list.push(finding(level, about, found, if ok { "" } else { advice }));
    };
    let here = !matches!(s.file_system, "tmpfs" | "nfs" | "smb" | "9p");
    add(here, "file system", s.file_system.to_string(), "put packs on a local drive: this one is memory or across a network");
    let refused = |name: &str| s.backends.iter().find(|b| b.0 == name).and_then(|b| b.1.clone());
    let direct = refused("pread");
    let alignment = match s.alignment {
        Some(n) if n > 0 => format!(", alignment {n}"),
        _ => String::new(),
    };
    let found = direct.as_ref().map_or_else(|| format!("O_DIRECT works{alignment}"), |why| format!("O_DIRECT: {why}"));
    let advice = "packs are read through the page cache, which is slower: use ext4, xfs or another file system with direct I/O";
    add(direct.is_none(), "direct I/O", found, advice);
    if s.backends.iter().any(|b| b.0 == "uring") {
        let uring = refused("uring");
        let found = uring.as_ref().map_or_else(|| "io_uring works".into(), |why| format!("io_uring: {why}"));
        let advice = "reader threads do the work instead, at some cost: allow it (sysctl kernel.io_uring_disabled=0, or the container's seccomp profile)";
        add(direct.is_some() || uring.is_none(), "io_uring", found, advice);
    }
    let best = s.best(1 << 20).max(s.best(256 << 10));
    let found = format!("{:.2} GB/s of random reads at best", best / 1e9);
    add(best >= SLOW, "speed", found, "an NVMe drive on PCIe reads 2 to 14 GB/s: tokens of a model larger than memory wait for this disk");
    if let Some(cell) = s.row(Order::Random, 256 << 10).find(|c| c.depth == 16) {
        let ms = |t: Duration| t.as_secs_f64() * 1e3;
        let found = format!("256 KiB at depth 16: {:.2} ms at the median, {:.2} ms for the slowest hundredth", ms(cell.p50), ms(cell.p99));
        add(cell.p99 < LONG, "latency", found, "something else uses this disk, or it is shared with other machines");
    }
    if let (Some(first), Some(last)) = (s.sustained.first(), s.sustained.last()) {
        let found = format!("sustained reading: {:.2} GB/s at first, {:.2} GB/s at last", first / 1e9, last / 1e9);
        add(
            *last >= SLOWING * first,
            "sustained",
            found,
            "the drive gets hot, or its share of a busy host shrinks: cool it, or expect less than the table says",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Cell;
    use crate::memory::Memory;

    fn machine() -> Machine {
        Machine {
            cpu: "x".into(),
            features: vec!["avx2"],
            kernels: "avx2",
            threads: 4,
            logical: 8,
            memory: Memory { installed: 16 << 30, available: 12 << 30, group_limit: u64::MAX, group_usage: 0 },
            picked_limit: 9 << 30,
            memlock: Some(64 << 10),
            huge_pages: "madvise".into(),
            swap: 0,
        }
    }

    fn storage() -> Storage {
        let cell = |speed| Cell {
            read_bytes: 256 << 10,
            depth: 16,
            order: Order::Random,
            speed,
            p50: Duration::from_millis(1),
            p99: Duration::from_millis(3),
        };
        Storage {
            dir: "/".into(),
            file_system: "ext4",
            free: 1 << 40,
            bytes: 1 << 30,
            alignment: Some(512),
            backends: vec![("uring", None), ("pread", None), ("buffered", None)],
            backend: "uring",
            cells: vec![cell(2.5e9)],
            sustained: vec![2.5e9, 2.4e9],
        }
    }

    fn bad(machine: &Machine, storage: &Storage) -> Vec<(&'static str, Level)> {
        let list = findings(machine, Some(storage));
        assert!(list.iter().all(|f| f.advice.is_some() == (f.level != Level::Fine)), "{list:?}");
        list.into_iter().filter(|f| f.level != Level::Fine).map(|f| (f.about, f.level)).collect()
    }

    #[test]
    fn a_good_machine_needs_no_advice_and_each_fault_has_its_own() {
        assert_eq!(bad(&machine(), &storage()), []);
        let swapping = Machine { swap: 1 << 30, kernels: "scalar", threads: 1, huge_pages: "never".into(), ..machine() };
        let advised = ["kernels", "cores", "locked memory", "huge pages"].map(|about| (about, Level::Advice));
        assert_eq!(bad(&swapping, &storage()), advised);
        assert_eq!(bad(&Machine { picked_limit: 1 << 20, ..machine() }, &storage()), [("memory", Level::Broken)]);
        let mut slow = storage();
        slow.file_system = "tmpfs";
        slow.backends[0].1 = Some("not permitted".into());
        slow.cells[0] = Cell { speed: 0.3e9, p99: Duration::from_millis(80), ..slow.cells[0] };
        slow.sustained = vec![2.0e9, 1.0e9];
        let advised = ["file system", "io_uring", "speed", "latency", "sustained"].map(|about| (about, Level::Advice));
        assert_eq!(bad(&machine(), &slow), advised);
        let mut cached = storage();
        cached.backends.iter_mut().take(2).for_each(|b| b.1 = Some("no such flag".into()));
        assert_eq!(bad(&machine(), &cached), [("direct I/O", Level::Advice)], "one cause, one line");
    }
}
