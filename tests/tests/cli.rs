//! From a downloaded file to text, through the real programs: what a person sees, and what a script can rely on.

use forebay_tests::programs::{demo_model, program, run};
use serde_json::Value;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

const PROMPT: &str = "It was a dark evening in London, and";

/// The demo model as a pack, converted once for all tests.
fn pack() -> &'static str {
    static PACK: OnceLock<(tempfile::TempDir, String)> = OnceLock::new();
    &PACK
        .get_or_init(|| {
            let dir = tempfile::tempdir().expect("temporary directory");
            let out = dir.path().join("pocket.fby").to_string_lossy().into_owned();
            run("forebay-repack", &["convert", &demo_model(), "-o", &out]).expect(0);
            (dir, out)
        })
        .1
}

fn greedy<'a>(extra: &[&'a str]) -> Vec<&'a str> {
    [&["run", pack(), PROMPT, "--raw", "-n", "16", "--temp", "0", "-c", "256"], extra].concat()
}

#[test]
fn the_answer_goes_to_stdout_and_the_statistics_to_stderr() {
    let text = run("forebay", &greedy(&["--ram", "1G"])).expect(0);
    assert!(!text.out.trim().is_empty() && !text.out.contains("tok/s"), "{}", text.out);
    for part in ["prompt ", " tok/s", "read/token", "window hit", "peak RAM"] {
        assert!(text.err.contains(part), "no {part:?} in {}", text.err);
    }
    let report = run("forebay", &greedy(&["--ram", "1G", "--json"])).expect(0).json();
    assert_eq!(report["text"].as_str().map(str::trim), Some(text.out.trim()));
    assert_eq!(report["tokens"].as_array().map(Vec::len), Some(16));
    assert_eq!(report["stop"], "length");
}

#[test]
fn a_smaller_window_reads_more_and_says_the_same() {
    let all = run("forebay", &greedy(&["--ram", "1G", "--json"])).expect(0).json();
    let memory = |key: &str| all["memory"][key].as_u64().expect(key);
    let floor = memory("floor").to_string();
    let small = run("forebay", &greedy(&["--ram", &floor, "--json"])).expect(0).json();
    assert_eq!(small["tokens"], all["tokens"]);
    assert!(small["memory"]["slots"].as_u64() < small["memory"]["experts"].as_u64());
    assert!(small["decode"]["bytes_read"].as_u64() > all["decode"]["bytes_read"].as_u64());
    for (flag, value) in [("-t", "1"), ("-t", "3"), ("--io", "pread"), ("--io", "buffered")] {
        let other = run("forebay", &greedy(&["--ram", "1G", "--json", flag, value])).expect(0).json();
        assert_eq!(other["tokens"], all["tokens"], "{flag} {value}");
    }
}

#[test]
fn a_limit_that_is_too_low_is_refused_with_the_breakdown() {
    let refused = run("forebay", &greedy(&["--ram", "4M"])).expect(5);
    for part in ["trunk", "window", "overhead", "--ram "] {
        assert!(refused.err.contains(part), "no {part:?} in {}", refused.err);
    }
    assert!(refused.out.is_empty());
    // What it proposes works.
    let proposed = refused.err.split("--ram ").nth(1).and_then(|t| t.split([' ', '.']).next()).expect("a proposal");
    run("forebay", &greedy(&["--ram", proposed])).expect(0);
}

#[test]
fn seeds_reproduce_and_differ() {
    let sampled = |seed: &str| {
        let arguments =
            ["run", pack(), PROMPT, "--raw", "-n", "24", "--temp", "1", "--top-k", "0", "--top-p", "1", "-c", "256", "--ram", "1G"];
        run("forebay", &[&arguments[..], &["--seed", seed, "--json"]].concat()).expect(0).json()["tokens"].clone()
    };
    assert_eq!(sampled("7"), sampled("7"));
    assert_ne!(sampled("7"), sampled("8"));
}

#[test]
fn a_prompt_may_come_through_a_pipe() {
    let mut child = Command::new(program("forebay"))
        .args(["run", pack(), "--raw", "-n", "16", "--temp", "0", "-c", "256", "--ram", "1G"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("forebay starts");
    child.stdin.take().expect("its input").write_all(PROMPT.as_bytes()).expect("written");
    let piped = child.wait_with_output().expect("it ends");
    assert!(piped.status.success());
    assert_eq!(String::from_utf8_lossy(&piped.stdout), run("forebay", &greedy(&["--ram", "1G"])).expect(0).out);
}

#[test]
fn a_context_that_is_too_short_is_an_error_that_says_so() {
    let long = "word ".repeat(100);
    let refused = run("forebay", &["run", pack(), &long, "--raw", "-n", "8", "-c", "32", "--ram", "1G"]).expect(1);
    assert!(refused.err.contains("context") && refused.err.contains("-c"), "{}", refused.err);
}

#[test]
fn usage_errors_are_2_and_missing_files_6() {
    run("forebay", &["run"]).expect(2);
    run("forebay", &["run", pack(), "x", "--ram", "many"]).expect(2);
    run("forebay", &["run", "absent.fby", "x"]).expect(6);
    run("forebay", &["run", &demo_model(), "x"]).expect(4);
    run("forebay", &["--help"]).expect(0);
}

/// A copy of the pack with one byte changed in the middle of an expert that every generation reads sooner or later: all of them.
fn damaged() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("damaged.fby");
    let mut bytes = std::fs::read(pack()).expect("the pack");
    let layers = run("forebay-repack", &["inspect", pack(), "--json"]).expect(0).json();
    assert!(layers["layers"].as_u64().is_some());
    // Experts fill the second half of the payload: one byte in each 4 KiB page there.
    let (start, end) = (bytes.len() / 2, bytes.len() * 8 / 10);
    bytes[start..end].iter_mut().step_by(4096).for_each(|b| *b ^= 0x40);
    std::fs::write(&path, bytes).expect("the damaged pack");
    (dir, path.to_string_lossy().into_owned())
}

#[test]
fn damage_stops_the_run_and_is_named() {
    let (_dir, path) = damaged();
    let stopped = run("forebay", &["run", &path, PROMPT, "--raw", "-n", "16", "--temp", "0", "-c", "256", "--ram", "1G"]).expect(3);
    assert!(stopped.err.contains("layer ") && stopped.err.contains("expert "), "{}", stopped.err);
    let verified = run("forebay-repack", &["verify", &path]).expect(3);
    assert!((verified.out + &verified.err).contains("expert"));
}

#[test]
fn interrupting_stops_the_answer_with_130() {
    // Greedy, this prompt goes round in circles to the end of the context: seconds of text.
    let mut child = Command::new(program("forebay"))
        .args(["run", pack(), PROMPT, "--raw", "-n", "100000", "--temp", "0", "-c", "4096", "--ram", "1G"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("forebay starts");
    let mut out = child.stdout.take().expect("its output");
    out.read_exact(&mut [0; 16]).expect("the answer begins");
    let stopped = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(stopped.success());
    // Whatever was under way is still written: the pipe must not fill up.
    let rest = std::thread::spawn(move || out.read_to_end(&mut Vec::new()));
    for _ in 0..100 {
        if let Some(status) = child.try_wait().expect("its state") {
            assert_eq!(status.code(), Some(130));
            rest.join().expect("the reader").expect("readable to the end");
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    child.kill().expect("its end");
    panic!("still running ten seconds after Ctrl-C");
}

#[test]
fn tokenize_template_and_logits() {
    let ids = run("forebay", &["tokenize", pack(), PROMPT, "--json"]).expect(0).json();
    let ids: Vec<String> = ids["tokens"].as_array().expect("ids").iter().map(Value::to_string).collect();
    assert_eq!(ids.join(","), "1370,324,258,1526,1446,291,2213,11,277");
    let special = run("forebay", &["tokenize", pack(), "<|im_end|>", "--json"]).expect(0).json();
    assert_eq!(special["tokens"].as_array().map(Vec::len), Some(1), "specials are parsed");

    let dir = tempfile::tempdir().expect("temporary directory");
    let messages = dir.path().join("messages.json");
    std::fs::write(&messages, r#"[{"role":"user","content":"Hello"}]"#).expect("messages");
    let rendered = run("forebay", &["template", pack(), "--messages", &messages.to_string_lossy()]).expect(0).out;
    assert_eq!(rendered.trim_end(), "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant");

    let out: PathBuf = dir.path().join("logits.safetensors");
    run("forebay", &["logits", pack(), "--tokens", "1370,324,258", "-o", &out.to_string_lossy(), "--ram", "1G"]).expect(0);
    let bytes = std::fs::read(&out).expect("logits");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("safetensors");
    assert_eq!(file.tensor("logits").expect("logits").shape(), [3, 8192]);
    assert_eq!(file.tensor("router.0").expect("router choices").shape()[0], 3);
    run("forebay", &["logits", pack(), "--tokens", "999999", "-o", &out.to_string_lossy(), "--ram", "1G"]).expect(1);
}

#[test]
fn the_sibling_program_is_within_reach() {
    let here = run("forebay", &["repack", "verify", pack(), "--quick"]).expect(0);
    let there = run("forebay-repack", &["verify", pack(), "--quick"]).expect(0);
    assert_eq!(here.out, there.out);
}
