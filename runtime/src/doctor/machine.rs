//! Processor, memory, limits.

use crate::kernels::{ActivationMode, Kernels};
use crate::memory::{Memory, default_limit};
use crate::threads::default_threads;
use rustix::process::{Resource, getrlimit};
use std::fs;
use std::thread::available_parallelism;

/// What the system says about processor, memory and limits.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// The processor's name for itself.
    pub cpu: String,
    /// Its features that kernels use.
    pub features: Vec<&'static str>,
    /// Kernel set that was chosen.
    pub kernels: &'static str,
    /// Compute threads that would be used: physical cores allowed by affinity and control group.
    pub threads: usize,
    /// Logical processors allowed.
    pub logical: usize,
    /// RAM, and what the control group leaves of it.
    pub memory: Memory,
    /// The limit that `forebay run` would pick now.
    pub picked_limit: u64,
    /// Bytes that may be locked; `None` for no limit.
    pub memlock: Option<u64>,
    /// Setting of transparent huge pages: always, madvise, never; empty where there are none.
    pub huge_pages: String,
    /// Bytes of swap in use or to be had.
    pub swap: u64,
}

impl Machine {
    /// Asks the system.
    pub fn now() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let kernels = Kernels::detect(ActivationMode::Int8);
        Machine {
            cpu: cpu_name(&read("/proc/cpuinfo")),
            features: features(),
            kernels: kernels.name(),
            threads: default_threads(),
            logical: available_parallelism().map_or(1, usize::from),
            memory: Memory::now(),
            picked_limit: default_limit(),
            memlock: getrlimit(Resource::Memlock).current,
            huge_pages: bracketed(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
            swap: swap_bytes(&read("/proc/swaps")),
        }
    }
}

fn cpu_name(cpuinfo: &str) -> String {
    let value = |key: &str| cpuinfo.lines().filter_map(|line| line.split_once(':')).find(|(k, _)| k.trim() == key).map(|(_, v)| v.trim());
    if let Some(name) = value("model name").or_else(|| value("Model")) {
        return name.to_string();
    }
    // Most ARM kernels tell no name.
    match (value("CPU implementer"), value("CPU part")) {
        (Some(implementer), Some(part)) => format!("ARM processor, implementer {implementer}, part {part}"),
        _ => "unknown processor".into(),
    }
}

/// The choice in brackets of a list such as `always [madvise] never`.
fn bracketed(text: &str) -> String {
    let inside = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or_else(String::new, |(choice, _)| choice.to_string())
}

/// Sum of the sizes in `/proc/swaps`, which are in KiB.
fn swap_bytes(swaps: &str) -> u64 {
    let sizes = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    sizes.fold(0, |sum, kib| sum.saturating_add(kib.saturating_mul(1024)))
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    macro_rules! list { ($($name:tt)*) => { [$(($name, std::is_x86_feature_detected!($name))),*] }; }
    let all = list!["avx2" "fma" "f16c" "avx512f" "avx512bw" "avx512vl" "avx512vnni" "avx512vbmi" "avx512bf16"];
    all.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<&'static str> {
    macro_rules! list { ($($name:tt)*) => { [$(($name, std::arch::is_aarch64_feature_detected!($name))),*] }; }
    let all = list!["neon" "dotprod" "fp16" "bf16" "i8mm" "sve" "sve2"];
    all.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<&'static str> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_understood() {
        assert_eq!(cpu_name("processor : 0\nmodel name\t: Fast CPU @ 3 GHz\n"), "Fast CPU @ 3 GHz");
        assert_eq!(cpu_name("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"), "ARM processor, implementer 0x41, part 0xd0c");
        assert_eq!(cpu_name("processor\t: 0\nModel\t\t: A Board Rev 1.4\n"), "A Board Rev 1.4");
        assert_eq!(cpu_name(""), "unknown processor");
        assert_eq!(bracketed("always [madvise] never\n"), "madvise");
        assert_eq!(bracketed("nothing"), "");
        let swaps = "Filename Type Size Used Priority\n/swapfile file 2048 0 -2\n/dev/sdb2 partition 1024 0 -3\n";
        assert_eq!(swap_bytes(swaps), 3 << 20);
        let now = Machine::now();
        assert!(now.threads >= 1 && now.threads <= now.logical && now.memory.installed > 0);
    }
}
