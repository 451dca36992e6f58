//! How much memory there is, how much of it is ours, and how people write sizes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Share of the free memory that is taken when nobody says how much.
const DEFAULT_PERCENT: u64 = 75;
/// Memory assumed where the system does not say (no /proc): small enough to be there.
const UNKNOWN_MEMORY: u64 = 4 << 30;
/// cgroup v1 writes "no limit" as a huge multiple of the page size.
const NO_LIMIT: u64 = 1 << 60;

/// The limit on everything, as the user gave it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum RamLimit {
    /// [`default_limit`].
    #[default]
    Auto,
    /// Bytes.
    Bytes(u64),
    /// Percent of RAM, or of the control group's limit where that is lower.
    Percent(f64),
}

impl RamLimit {
    /// In bytes, on this machine, now.
    pub fn resolve(self) -> u64 {
        match self {
            RamLimit::Auto => default_limit(),
            RamLimit::Bytes(n) => n,
            RamLimit::Percent(p) => (Memory::now().total() as f64 * p / 100.0) as u64,
        }
    }
}

/// 75% of what is free: available RAM, or what the control group leaves if that is less.
pub fn default_limit() -> u64 {
    Memory::now().free() / 100 * DEFAULT_PERCENT
}

/// Reads a size: `8G`, `8GiB`, `512M`, `1.5G`, `75%`, or plain bytes. K, M, G and T are powers of 1024 whether written `G`, `GB` or `GiB`,
/// as in the limits of control groups. Percent is of RAM, or of the control group's limit where that is lower.
pub fn parse_ram(text: &str) -> Result<RamLimit> {
    let bad = || {
        Error::Request(format!(
            "{text:?} is not a size: write 8G, 8GiB, 512M, a number of bytes, or a percentage of RAM such as 75% (K, M, G, T are powers of 1024)"
        ))
    };
    let trimmed = text.trim();
    if trimmed.eq_ignore_ascii_case("auto") {
        return Ok(RamLimit::Auto);
    }
    let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    if unit == "%" {
        let percent: f64 = number.parse().map_err(|_| bad())?;
        return if percent > 0.0 && percent <= 100.0 { Ok(RamLimit::Percent(percent)) } else { Err(bad()) };
    }
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(bad()),
    };
    let bytes = match number.parse::<u64>() {
        Ok(n) => n.checked_mul(1 << shift).ok_or_else(bad)?,
        // Fractions of a byte mean a missing unit.
        Err(_) if shift > 0 => {
            number.parse::<f64>().ok().map(|n| n * (1u64 << shift) as f64).filter(|&n| n < NO_LIMIT as f64).ok_or_else(bad)? as u64
        }
        Err(_) => return Err(bad()),
    };
    if bytes == 0 { Err(bad()) } else { Ok(RamLimit::Bytes(bytes)) }
}

/// A size for people, with one digit after the point.
pub fn show_bytes(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    match bytes {
        0..MIB => format!("{:.1} KiB", bytes as f64 / 1024.0),
        n if n < 10 << 30 => format!("{:.1} MiB", n as f64 / MIB as f64),
        n => format!("{:.1} GiB", n as f64 / (MIB << 10) as f64),
    }
}

/// What the system says about memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// RAM of the machine.
    pub installed: u64,
    /// RAM that can be had without swapping.
    pub available: u64,
    /// Limit of the control group, or of the tightest one around it; `u64::MAX` for none.
    pub group_limit: u64,
    /// What that group uses now.
    pub group_usage: u64,
}

impl Memory {
    /// Asks the system.
    pub fn now() -> Memory {
        Memory::under(Path::new("/"))
    }

    /// RAM that this process may ever use.
    pub fn total(&self) -> u64 {
        self.installed.min(self.group_limit)
    }

    /// RAM that can be had now.
    fn free(&self) -> u64 {
        self.available.min(self.group_left())
    }

    /// What the control group leaves; `u64::MAX` without a limit.
    fn group_left(&self) -> u64 {
        if self.group_limit == u64::MAX { u64::MAX } else { self.group_limit.saturating_sub(self.group_usage) }
    }

    /// The control group leaves less than the machine has.
    pub fn is_grouped(&self) -> bool {
        self.group_left() < self.available
    }

    /// Reads `proc` and `sys` under `root`, so that a test can bring its own.
    fn under(root: &Path) -> Memory {
        let meminfo = fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
        let installed = meminfo_field(&meminfo, "MemTotal:").unwrap_or(UNKNOWN_MEMORY);
        let available = meminfo_field(&meminfo, "MemAvailable:").unwrap_or(installed / 2);
        let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let mut tightest = (u64::MAX, 0);
        for (dir, limit, usage) in group_dirs(root, &groups) {
            // Usage counts page cache, but that can be reclaimed: subtract the part on the inactive list, as container tools do.
            let Some(limit) = number_in(&dir.join(limit)).filter(|&n| n < NO_LIMIT) else { continue };
            let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
            let cache = ["total_inactive_file", "inactive_file"].iter().find_map(|k| stat_field(&stat, k)).unwrap_or(0);
            let used = number_in(&dir.join(usage)).unwrap_or(0).saturating_sub(cache);
            if limit.saturating_sub(used) < tightest.0.saturating_sub(tightest.1) {
                tightest = (limit, used);
            }
        }
        Memory { installed, available, group_limit: tightest.0, group_usage: tightest.1 }
    }
}

/// Directories of our memory control group and all around it, with the names of the limit and usage files: version 2, then 1.
fn group_dirs(root: &Path, groups: &str) -> Vec<(PathBuf, &'static str, &'static str)> {
    let mut dirs = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (mount, limit, usage) = match controllers {
            "" => (root.join("sys/fs/cgroup"), "memory.max", "memory.current"),
            c if c.split(',').any(|c| c == "memory") => {
                (root.join("sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes")
            }
            _ => continue,
        };
        // Inside a container the path may be the host's and absent here; the mount itself is then our group.
        for dir in Path::new(path.trim_start_matches('/')).ancestors() {
            dirs.push((mount.join(dir), limit, usage));
        }
    }
    dirs
}

fn meminfo_field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|l| l.strip_prefix(name))?;
    rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn stat_field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn number_in(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, want) in [
            ("8G", RamLimit::Bytes(8 << 30)),
            ("8GiB", RamLimit::Bytes(8 << 30)),
            ("8 gb", RamLimit::Bytes(8 << 30)),
            ("512M", RamLimit::Bytes(512 << 20)),
            ("1.5g", RamLimit::Bytes(3 << 29)),
            ("64k", RamLimit::Bytes(64 << 10)),
            ("123456789", RamLimit::Bytes(123_456_789)),
            ("75%", RamLimit::Percent(75.0)),
            ("12.5 %", RamLimit::Percent(12.5)),
            ("auto", RamLimit::Auto),
        ] {
            assert_eq!(parse_ram(text).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_size() {
        for text in
            ["", "G", "8X", "-1", "0", "0G", "101%", "0%", "1.2.3G", "1.5", "99999999999999999999", "20000000T", "8G8", "1e9", "NaN%", "٣G"]
        {
            let error = parse_ram(text).unwrap_err().to_string();
            assert!(error.contains("8GiB") && error.contains("75%"), "{text}: {error}");
        }
    }

    /// A root directory with the given files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:       1000 kB\nMemFree:  1 kB\nMemAvailable:    800 kB\n");

    #[test]
    fn no_group() {
        let m = Memory::under(root(&[MEMINFO]).path());
        assert_eq!(m, Memory { installed: 1_024_000, available: 819_200, group_limit: u64::MAX, group_usage: 0 });
        assert_eq!((m.total(), m.free(), m.is_grouped()), (1_024_000, 819_200, false));
    }

    #[test]
    fn version_2_takes_the_tightest_group_around_us() {
        let m = Memory::under(
            root(&[
                MEMINFO,
                ("proc/self/cgroup", "0::/a/b\n"),
                ("sys/fs/cgroup/a/b/memory.max", "max\n"),
                ("sys/fs/cgroup/a/memory.max", "500000\n"),
                ("sys/fs/cgroup/a/memory.current", "300000\n"),
                ("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 100000\n"),
            ])
            .path(),
        );
        assert_eq!((m.group_limit, m.group_usage, m.total()), (500_000, 200_000, 500_000));
        assert_eq!((m.free(), m.is_grouped()), (300_000, true));
    }

    #[test]
    fn version_1_and_its_way_to_say_no_limit() {
        let group = ("proc/self/cgroup", "5:cpu:/x\n4:memory,hugetlb:/limit.1\n");
        let files = [
            MEMINFO,
            group,
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/limit.1/memory.limit_in_bytes", "700000\n"),
            ("sys/fs/cgroup/memory/limit.1/memory.usage_in_bytes", "100\n"),
        ];
        assert_eq!(Memory::under(root(&files).path()).group_limit, 700_000);
        assert_eq!(Memory::under(root(&files[..3]).path()).group_limit, u64::MAX);
    }
}
