//! `forebay bench` on the bundled model, through the real program.

use forebay_tests::programs::{Done, demo_model, program, run};
use serde_json::Value;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// The bundled model as a pack, converted once for all tests, in a folder for what tests write.
fn pack() -> &'static (tempfile::TempDir, String) {
    static PACK: OnceLock<(tempfile::TempDir, String)> = OnceLock::new();
    PACK.get_or_init(|| {
        let dir = tempfile::tempdir().expect("temporary directory");
        let out = dir.path().join("pocket.fby").to_string_lossy().into_owned();
        run("forebay-repack", &["convert", &demo_model(), "-o", &out]).expect(0);
        (dir, out)
    })
}

/// A short bench; `extra` flags replace those it would have.
fn bench(extra: &[&str]) -> Done {
    let defaults = [["-p", "24"], ["-n", "12"], ["--warmup", "8"], ["-r", "2"], ["--ram", "1G"]];
    let defaults = defaults.iter().filter(|flag| !extra.contains(&flag[0])).flatten().copied();
    let arguments: Vec<&str> = ["bench", &pack().1].into_iter().chain(defaults).chain(extra.iter().copied()).collect();
    run("forebay", &arguments)
}

fn json(extra: &[&str]) -> Value {
    bench(&[&["-o", "json"], extra].concat()).expect(0).json()
}

#[test]
fn the_report_has_what_the_readme_says() {
    let report = json(&[]);
    for (phase, tokens) in [("prompt", 24.0), ("cold", 8.0), ("warm", 12.0)] {
        let numbers = &report["median"][phase];
        let number = |key: &str| numbers[key].as_f64().unwrap_or_else(|| panic!("no {phase}.{key} in {report}"));
        assert_eq!(number("tokens"), tokens);
        assert!(number("tokens_per_second") > 0.0 && number("seconds") > 0.0);
        for key in ["bytes_read", "bytes_read_per_token", "hit_rate", "reads", "stall_seconds"] {
            assert!(number(key) >= 0.0, "{phase}.{key}");
        }
        if phase != "cold" {
            // Not more than the measured time, but for noise: these are milliseconds on a shared machine.
            assert!((0.05..3.0).contains(&number("efficiency")), "{report}");
            assert!(number("compute_only_seconds") > 0.0 && number("io_only_bytes") <= number("bytes_read"), "{report}");
        }
        if phase != "prompt" {
            assert!(number("token_p50_seconds") <= number("token_p99_seconds"));
        }
        assert_eq!(report["runs"].as_array().map(Vec::len), Some(2));
        assert_eq!(report["runs"][0][phase].as_object().map(|o| o.len()), numbers.as_object().map(|o| o.len()));
    }
    let prompt = |key: &str| report["median"]["prompt"][key].as_f64().unwrap_or_else(|| panic!("no prompt.{key} in {report}"));
    assert!(
        prompt("read_bytes_p50") <= prompt("read_bytes_p99") && prompt("read_latency_p50_seconds") <= prompt("read_latency_p99_seconds")
    );
    assert_eq!(prompt("io_only_bytes"), prompt("bytes_read"), "an empty window: what was read is read again");
    // Cold means that: the first layer's experts are all read. Everything fits, so what is read once stays.
    let hits = |phase: &str| report["median"][phase]["hit_rate"].as_f64().expect("a rate");
    assert!(hits("prompt") == 0.0 && hits("cold") < hits("warm"), "{report}");
    assert_eq!(report["runs"][0]["cold"]["bytes_read"], report["runs"][1]["cold"]["bytes_read"], "runs start alike");
    assert!(report["memory"]["peak"].as_u64() <= report["memory"]["limit"].as_u64());
    assert_eq!(report["settings"]["tokens"], "random, seed 1");
}

/// Tokens after long sequences, and the memory of each type of keys and values.
#[test]
fn depths_and_types_of_keys_and_values() {
    let run = |kv: &str| json(&["--depth", "100,300", "--kv-type", kv, "-p", "0", "-n", "4", "-r", "1"]);
    let reports = ["f32", "f16", "q8_0"].map(run);
    for (report, kv) in reports.iter().zip(["f32", "f16", "q8_0"]) {
        assert_eq!((&report["settings"]["kv_type"], &report["settings"]["context"]), (&kv.into(), &304.into()));
        for key in ["depth_100", "depth_300"] {
            assert_eq!(report["median"][key]["tokens"], 4.0, "{report}");
            assert!(report["median"][key]["token_p50_seconds"].as_f64() > Some(0.0));
        }
    }
    let bytes = reports.map(|report| report["memory"]["kv"].as_u64().expect("bytes"));
    // A scale for 32 values is a sixteenth of a byte a value, and a little more where heads are no multiple of 32 wide.
    assert!(bytes[0] == 2 * bytes[1] && (53..=55).contains(&(100 * bytes[2] / bytes[1])), "{bytes:?}");
    let table = bench(&["--depth", "100", "--kv-type", "q8_0", "-r", "1"]).expect(0).out;
    assert!(table.contains("| decode at 100 | 12 |") && table.contains("keys and values in q8_0"), "{table}");
    assert!(bench(&["-n", "0", "--depth", "100"]).expect(2).err.contains("-n"));
}

#[test]
fn the_table_names_phases_and_the_limit() {
    let done = bench(&["-r", "1", "-p", "0"]).expect(0);
    for part in ["| decode, cold | 8 |", "| decode, warm | 12 |", "tok/s", "p99 ms", "efficiency", "peak RAM", "of 1024.0 MiB"] {
        assert!(done.out.contains(part), "no {part:?} in {}", done.out);
    }
    assert!(!done.out.contains("prompt"), "{}", done.out);
}

#[test]
fn ways_of_reading_take_turns() {
    let memory = json(&[])["memory"].clone();
    let bytes = |key: &str| memory[key].as_u64().expect(key);
    // A small window, and slots for guesses.
    let limit = (bytes("floor") + 24 * bytes("slot_bytes")).to_string();
    let report = json(&["--in-turns", "-n", "60", "-r", "2", "--ram", &limit]);
    let number =
        |way: &str, key: &str| report["median"][format!("way_{way}")][key].as_f64().unwrap_or_else(|| panic!("{way} {key}: {report}"));
    let ways = ["computing", "turns", "queued", "arrival", "slices", "ahead", "unchecked"];
    // Fifteen turns of four tokens.
    assert_eq!(ways.map(|way| number(way, "tokens")), [12.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0]);
    for way in ways {
        // What the way before has left under way may still arrive while computing alone.
        assert!(if way == "computing" { number(way, "hit_rate") == 1.0 } else { number(way, "bytes_read") > 0.0 }, "{way}: {report}");
        assert_eq!(number(way, "guesses") > 0.0, ["ahead", "unchecked"].contains(&way), "{way}: {report}");
    }
    assert!(report["median"].get("warm").is_none());
    bench(&["--in-turns", "--no-sums"]).expect(2);
    bench(&["--in-turns", "--depth", "8"]).expect(2);
    assert!(bench(&["--in-turns", "-n", "0"]).expect(2).err.contains("-n is 0"));
}

#[test]
fn a_trace_has_every_choice_of_the_first_run() {
    let path = pack().0.path().join("a.trace").to_string_lossy().into_owned();
    json(&["--trace", &path]);
    let trace = forebay::bench::trace::Trace::read(path.as_ref()).expect("a trace");
    let layers = trace.header.layers.len();
    let of = |prompt| trace.visits.iter().filter(|v| v.prompt == prompt).collect::<Vec<_>>();
    assert_eq!((of(true).len(), of(false).len()), (24 * layers, 20 * layers));
    for (i, visit) in of(false).into_iter().enumerate() {
        assert_eq!((visit.position as usize, visit.layer as usize), (i / layers, i % layers));
    }
    // Placement decides speed, never output: with a small window the choices are the same.
    let (all, floor) = (std::fs::read(&path).expect("the trace"), json(&[])["memory"]["floor"].to_string());
    json(&["--trace", &path, "--ram", &floor]);
    assert!(std::fs::read(&path).expect("the trace") == all);
    json(&["--trace", &path, "--seed", "2"]);
    assert!(std::fs::read(&path).expect("the trace") != all);
}

#[test]
fn tokens_may_come_from_a_text() {
    let path = pack().0.path().join("text").to_string_lossy().into_owned();
    std::fs::write(&path, "It was a dark evening in London, and the rain fell. ".repeat(8)).expect("the text");
    assert_eq!(json(&["--tokens-from", &path])["settings"]["tokens"], "text of text");
    std::fs::write(&path, "Too short.").expect("the text");
    let refused = bench(&["--tokens-from", &path]).expect(1);
    assert!(refused.err.contains("less than 24"), "{}", refused.err);
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (extra, code) in [
        (&["-p", "0", "-n", "0"][..], 2),
        (&["-r", "0"], 2),
        (&["-n", "1000000"], 1),
        (&["--ram", "4M"], 5),
        (&["--trace", "/nowhere/at/all"], 6),
        (&["--tokens-from", "/nowhere/at/all"], 6),
    ] {
        bench(extra).expect(code);
    }
    run("forebay", &["bench", "absent.fby"]).expect(6);
}

#[test]
fn interrupting_ends_it_with_130_and_no_report() {
    let mut child = Command::new(program("forebay"))
        .args(["bench", &pack().1, "-p", "0", "-n", "3000", "-r", "1000", "--ram", "1G"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("forebay starts");
    std::thread::sleep(Duration::from_secs(1));
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill").success());
    for _ in 0..100 {
        if let Some(status) = child.try_wait().expect("its state") {
            assert_eq!(status.code(), Some(130));
            let mut out = String::new();
            child.stdout.take().expect("its output").read_to_string(&mut out).expect("readable");
            assert!(out.is_empty(), "{out}");
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    child.kill().expect("its end");
    panic!("still running ten seconds after Ctrl-C");
}
