//! How many compute threads to use when nobody says.

use std::collections::BTreeSet;
use std::fs;
use std::thread::available_parallelism;

/// Physical cores that this process may use: its affinity mask counted by core, and not more than its control group's CPU quota. Two threads of one core
/// share the vector units that the kernels saturate, so counting them twice only costs.
pub fn default_threads() -> usize {
    let quota = available_parallelism().map_or(1, usize::from);
    physical_cores().map_or(quota, |cores| cores.clamp(1, quota))
}

/// Distinct cores of the affinity mask; `None` where the system does not say.
fn physical_cores() -> Option<usize> {
    let set = rustix::thread::sched_getaffinity(None).ok()?;
    let cpus = (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu));
    let core = |cpu: usize| {
        // The list of a core's threads is the same text for each of them, and so names the core.
        fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")).ok()
    };
    let cores: Option<BTreeSet<String>> = cpus.map(core).collect();
    cores.map(|c| c.len()).filter(|&n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_one_and_what_the_system_grants() {
        let granted = available_parallelism().map_or(1, usize::from);
        assert!((1..=granted).contains(&default_threads()));
    }
}
