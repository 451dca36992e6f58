//! The RAM limit is kept: a control group with the same limit, page cache counted, lets the run live, and the page cache stays flat.
//! Needs root and control groups; skips loudly without them.

use forebay_tests::programs::{demo_model, program, run};
use std::path::Path;
use std::process::Command;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/with-ram-limit.sh");

/// A control group can be made here.
fn can_limit() -> bool {
    let probe = Command::new("bash").args([SCRIPT, "64M", "true"]).output();
    match probe {
        Ok(o) if o.status.success() => true,
        Ok(o) => {
            drop(std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("SKIP: no control group can be made here (root is needed): {}\n", String::from_utf8_lossy(&o.stderr).trim()),
            ));
            false
        }
        Err(e) => {
            drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("SKIP: bash cannot be started: {e}\n")));
            false
        }
    }
}

/// Runs under a limit; returns standard error, which ends with the peak.
fn limited(limit: u64, arguments: &[&str]) -> (Option<i32>, String, u64) {
    let forebay = program("forebay").to_string_lossy().into_owned();
    let limit = limit.to_string();
    let line = [&[SCRIPT, limit.as_str(), forebay.as_str()], arguments].concat();
    let done = Command::new("bash").args(line).output().expect("bash");
    let err = String::from_utf8_lossy(&done.stderr).into_owned();
    let peak = err.split("peak memory with page cache: ").nth(1).and_then(|t| t.split(' ').next()).and_then(|n| n.parse().ok());
    (done.status.code(), err.clone(), peak.unwrap_or_else(|| panic!("no peak in {err}")))
}

#[test]
fn the_limit_holds_with_page_cache_counted() {
    if !Path::new("/sys/fs/cgroup").exists() || !can_limit() {
        drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("SKIP: the limit was not tested\n")));
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let pack = dir.path().join("pocket.fby").to_string_lossy().into_owned();
    run("forebay-repack", &["convert", &demo_model(), "-o", &pack]).expect(0);
    let base = ["run", &pack, "It was a dark evening in London, and", "--raw", "-n", "64", "--temp", "0", "-c", "256"];
    let all = run("forebay", &[&base[..], &["--ram", "1G", "--json"]].concat()).expect(0).json();
    let floor = all["memory"]["floor"].as_u64().expect("floor");
    for io in ["auto", "pread"] {
        let ram = floor.to_string();
        let (code, err, peak) = limited(floor, &[&base[..], &["--ram", &ram, "--io", io]].concat());
        assert_eq!(code, Some(0), "{io}: {err}");
        assert!(peak <= floor, "{io}: peak {peak} above the limit {floor}");
        // Not even close to it: the margin of the plan is really kept free.
        assert!(peak <= floor - (4 << 20), "{io}: peak {peak} leaves nothing of the margin under {floor}");
    }
}
