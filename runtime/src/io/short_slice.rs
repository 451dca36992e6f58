//! Readers that run as soon as they are woken.
//!
//! A reader sleeps until the drive is done, hands it the next pieces, and sleeps again: 70 microseconds of work. Where every core computes it must push somebody aside for that, and
//! Linux's scheduler (EEVDF, since 6.6) lets a thread finish its slice of about 3 ms first. With two cores busy a reader waited 0.2 ms for each piece of 1.7 MB, in which the drive
//! had nothing to do: 18 ms of a token of 160. A thread with a shorter slice than the one that runs need not wait (since 6.12): 0.01 ms.

/// The shortest slice that the kernel takes, in nanoseconds.
const SLICE: u64 = 100_000;
/// What `sched_getattr` calls an ordinary thread (`SCHED_OTHER`), the only kind that slices are for.
const ORDINARY: u32 = libc::SCHED_OTHER as u32;

/// How the calling thread is scheduled; `None` if the kernel does not say.
fn attributes() -> Option<libc::sched_attr> {
    let mut attributes = libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: 0,
        sched_flags: 0,
        sched_nice: 0,
        sched_priority: 0,
        sched_runtime: 0,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: the kernel writes at most `size` bytes, which is what `attributes` has, all of them plain numbers. 0: the calling thread.
    let known = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, attributes.size, 0u32) };
    (known == 0).then_some(attributes)
}

/// Asks for the shortest slice for the calling thread. It gets no larger share of the processors for that. Best effort: whatever goes wrong costs speed only. False if the kernel did not
/// grant it, as older ones do not.
pub fn ask() -> bool {
    let Some(mut wanted) = attributes().filter(|a| a.sched_policy == ORDINARY) else { return false };
    wanted.sched_runtime = SLICE;
    // SAFETY: the kernel reads `size` bytes of `wanted`. Nothing but the slice differs from what the thread has. 0: the calling thread.
    let _ = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0u32) };
    attributes().is_some_and(|a| a.sched_runtime == SLICE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_the_slice_changes() {
        let look = || {
            let before = attributes();
            (before, ask(), attributes())
        };
        let (Some(before), granted, Some(after)) = std::thread::spawn(look).join().unwrap() else {
            return eprintln!("SKIPPED: no sched_getattr here");
        };
        assert_eq!(
            (after.sched_policy, after.sched_nice, after.sched_priority),
            (before.sched_policy, before.sched_nice, before.sched_priority)
        );
        // A kernel without slices of a thread's own goes on as before.
        assert_eq!(after.sched_runtime, if granted { SLICE } else { before.sched_runtime });
    }
}
