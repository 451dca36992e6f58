//! The real binary: exit codes, what it prints, and kill -9 at any moment.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_forebay-repack"))
}

fn run(args: &[&str]) -> Output {
    binary().args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn demo() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/pocket-moe-10m-q8_0.gguf").to_owned()
}

/// A folder of the shared material, if it is there.
fn shared(name: &str) -> Option<String> {
    let root = std::env::var_os("FOREBAY_SHARED").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let path = root.join(name);
    if !path.exists() {
        drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("SKIP: {} is not there\n", path.display())));
        return None;
    }
    Some(path.to_str().unwrap().to_owned())
}

#[test]
fn convert_inspect_verify() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("pocket.fby").to_str().unwrap().to_owned();
    let dry = run(&["convert", &demo(), "-o", &out, "--dry-run"]);
    assert!(dry.status.success() && !Path::new(&out).exists(), "{}", text(&dry.stderr));
    assert!(text(&dry.stdout).contains("experts") && text(&dry.stdout).contains("enough"), "{}", text(&dry.stdout));
    let done = run(&["convert", &demo(), "-o", &out, "--json"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let json: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(json["bytes"], std::fs::metadata(&out).unwrap().len());
    for flags in [&["--quick"][..], &[], &["--sample", "10%"], &["--source", &demo()]] {
        let verified = run(&[&["verify", &out], flags].concat());
        assert!(verified.status.success(), "{flags:?}: {}{}", text(&verified.stdout), text(&verified.stderr));
    }
    let inspected = run(&["inspect", &out, "--layers", "--tensors", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!(json["layer_specs"].as_array().unwrap().len() as u64, json["layers"].as_u64().unwrap());
    let screen = text(&run(&["inspect", &out]).stdout);
    assert!(screen.lines().count() <= 24 && screen.contains("experts, "), "{screen}");
}

#[test]
fn exit_codes() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let out = file("pocket.fby");
    assert_eq!(run(&["convert", &demo(), "-o", &out]).status.code(), Some(0));
    let refused = run(&["convert", &demo(), "-o", &out]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("--force"), "{}", text(&refused.stderr));
    assert_eq!(run(&["convert", &demo(), "-o", &out, "--force"]).status.code(), Some(0));
    assert_eq!(run(&["convert", &demo(), "-o", &file("q.fby"), "--quantize", "q4_k"]).status.code(), Some(4));
    assert_eq!(run(&["convert", &demo()]).status.code(), Some(2));
    assert_eq!(run(&["convert", &demo(), "-o", &file("q.fby"), "--quantize", "q9_9"]).status.code(), Some(2));
    assert_eq!(run(&["convert", &file("absent"), "-o", &file("q.fby")]).status.code(), Some(1));
    assert_eq!(run(&["verify", &file("absent")]).status.code(), Some(6));
    assert_eq!(run(&["inspect", &demo()]).status.code(), Some(4));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    let mut bytes = std::fs::read(&out).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&out, &bytes).unwrap();
    let bad = run(&["verify", &out, "--json"]);
    assert_eq!(bad.status.code(), Some(3));
    let json: serde_json::Value = serde_json::from_slice(&bad.stdout).unwrap();
    let place = json["problems"][0]["place"].as_str().unwrap();
    assert!(place.starts_with("layer ") && place.contains("expert"), "{place}");
    std::fs::write(&out, &bytes[..middle]).unwrap();
    assert_eq!(run(&["verify", &out]).status.code(), Some(3));
    assert_eq!(run(&["inspect", &out]).status.code(), Some(3));
}

/// Kills a conversion after `delay`, then resumes it; says whether it was killed in time.
fn kill_and_resume(source: &str, flags: &[&str], out: &str, delay: Duration, whole: &[u8]) -> (bool, u64) {
    let mut child = binary().args(["convert", source, "-o", out]).args(flags).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(delay);
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap(); // SIGKILL
    child.wait().unwrap();
    let resumed = binary().args(["convert", source, "-o", out, "--resume", "--json"]).args(flags).output().unwrap();
    let killed = running || !resumed.status.success();
    if !killed {
        return (false, 0);
    }
    assert!(resumed.status.success(), "after {delay:?}: {}", text(&resumed.stderr));
    assert!(std::fs::read(out).unwrap() == whole, "after {delay:?}");
    let json: serde_json::Value = serde_json::from_slice(&resumed.stdout).unwrap();
    for suffix in [".partial", ".journal"] {
        assert!(!Path::new(&format!("{out}{suffix}")).exists(), "{suffix} after {delay:?}");
    }
    std::fs::remove_file(out).unwrap();
    (running, json["resumed_bytes"].as_u64().unwrap())
}

#[test]
fn kill_9_at_any_moment_then_resume() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let whole = file("whole.fby");
    let start = Instant::now();
    assert!(run(&["convert", &demo(), "-o", &whole]).status.success());
    let took = start.elapsed();
    let whole = std::fs::read(whole).unwrap();
    let mut killed = 0;
    for step in 0..24 {
        let (running, _) = kill_and_resume(&demo(), &[], &file("killed.fby"), took * step / 22, &whole);
        killed += u32::from(running);
        let _ = std::fs::remove_file(file("killed.fby"));
    }
    assert!(killed >= 5, "only {killed} conversions were still running when killed");
}

#[test]
fn a_long_conversion_resumes_from_its_journal_and_stops_on_sigint() {
    let Some(source) = shared("models/q35-moe-45m") else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let flags = ["--quantize", "q4_k"];
    let whole = file("whole.fby");
    let start = Instant::now();
    assert!(binary().args(["convert", &source, "-o", &whole]).args(flags).output().unwrap().status.success());
    let took = start.elapsed();
    let whole = std::fs::read(whole).unwrap();
    let (killed, resumed) = kill_and_resume(&source, &flags, &file("killed.fby"), took * 7 / 10, &whole);
    if took > Duration::from_secs(4) && killed {
        assert!(resumed > 0, "nothing was taken over after {:?} of {took:?}", took * 7 / 10);
    }
    let out = file("interrupted.fby");
    let mut child = binary().args(["convert", &source, "-o", &out]).args(flags).stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(took / 2);
    let pid = rustix::process::Pid::from_child(&child);
    let running = child.try_wait().unwrap().is_none();
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
    let status = child.wait().unwrap();
    if running {
        assert_eq!(status.code(), Some(130));
        assert!(!Path::new(&out).exists());
        assert!(binary().args(["convert", &source, "-o", &out, "--resume"]).args(flags).output().unwrap().status.success());
    }
    assert!(std::fs::read(&out).unwrap() == whole);
}

#[test]
fn the_same_bytes_whatever_the_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let packs: Vec<Vec<u8>> = ["1", "2", "5"]
        .iter()
        .map(|threads| {
            let out = dir.path().join(threads);
            let status = binary().args(["convert", &demo(), "-o"]).arg(&out).env("RAYON_NUM_THREADS", threads).output().unwrap().status;
            assert!(status.success());
            std::fs::read(out).unwrap()
        })
        .collect();
    assert!(packs[0] == packs[1] && packs[1] == packs[2]);
}
