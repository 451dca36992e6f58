//! Neuron groups through the real programs: converted by default, read exactly in any limit, predicted after a calibration, and what each refuses.

use forebay_tests::packs::sparse_toy;
use forebay_tests::programs::{Done, demo_model, run};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn name(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The toy as a pack, `more` flags given, and a text.
fn toy(dir: &TempDir, more: &[&str]) -> (String, String) {
    let (pack, text) = (dir.path().join("toy.fby"), dir.path().join("text.txt"));
    std::fs::write(&text, "the hand and the thing that they had then\n".repeat(60)).expect("a text");
    let source = name(&sparse_toy(dir.path()));
    run("forebay-repack", &[&["convert", &source, "-o", &name(&pack), "--force"], more].concat()).expect(0);
    (name(&pack), name(&text))
}

/// A pack of a made-up model with 4 layers of 8,192 neurons, each of which fires with 5%: 17 MB of triggers.
fn made_up(dir: &TempDir) -> String {
    let config = json!({
        "activation_function": "relu", "architectures": ["OPTForCausalLM"], "do_layer_norm_before": true, "ffn_dim": 8192, "hidden_size": 256,
        "max_position_embeddings": 512, "model_type": "opt", "num_attention_heads": 4, "num_hidden_layers": 4, "vocab_size": 1000,
        "word_embed_proj_dim": 256
    });
    let (shape, pack) = (dir.path().join("config.json"), dir.path().join("made.fby"));
    std::fs::write(&shape, config.to_string()).expect("a configuration");
    run("forebay-repack", &["synth", &name(&shape), "-o", &name(&pack), "--quantize", "f16", "--active", "5%"]).expect(0);
    name(&pack)
}

/// Limits, in MiB, that a refusal proposes.
fn proposed(refused: &Done) -> Vec<u64> {
    let numbers = refused.err.split("--ram ").skip(1).map(|t| t.chars().take_while(char::is_ascii_digit).collect::<String>());
    numbers.map(|n| n.parse().unwrap_or_else(|e| panic!("{e}: {}", refused.err))).collect()
}

fn groups(pack: &str) -> u64 {
    let object = run("forebay-repack", &["inspect", pack, "--json"]).expect(0).json();
    object["kinds"]["neurons"]["runs"].as_u64().unwrap_or(0)
}

/// Bytes of the logits of a few tokens.
fn logits(dir: &TempDir, pack: &str, more: &[&str]) -> (Vec<u8>, Done) {
    let out = name(&dir.path().join("logits"));
    let done = run("forebay", &[&["logits", pack, "--tokens", "5,90,17,200,201,5", "-o", &out], more].concat()).expect(0);
    (std::fs::read(out).expect("logits"), done)
}

#[test]
fn networks_with_a_relu_are_cut_into_groups_unless_somebody_says_no() {
    let dir = folder();
    let pack = toy(&dir, &[]).0;
    assert!(groups(&pack) > 0, "the default");
    let exact = logits(&dir, &pack, &["--ram", "1G"]).0;
    let pack = toy(&dir, &["--neurons", "off"]).0;
    assert_eq!(groups(&pack), 0);
    assert!(logits(&dir, &pack, &["--ram", "1G"]).0 == exact);
    // What cannot be zero stays whole.
    let out = name(&dir.path().join("demo.fby"));
    run("forebay-repack", &["convert", &demo_model(), "-o", &out]).expect(0);
    assert_eq!(groups(&out), 0);
}

#[test]
fn a_limit_without_room_for_the_triggers_gives_the_same_logits_and_says_so() {
    let dir = folder();
    let pack = made_up(&dir);
    let (want, done) = logits(&dir, &pack, &["--ram", "1G"]);
    assert!(!done.err.contains("--sparsity"), "{}", done.err);
    let least = proposed(&run("forebay", &["logits", &pack, "--tokens", "1", "-o", "none", "--ram", "1M"]).expect(5))[0];
    let ram = format!("{least}M");
    let (got, done) = logits(&dir, &pack, &["--ram", &ram]);
    assert!(got == want, "every neuron read");
    assert!(done.err.contains("every neuron is read") && done.err.contains("--sparsity exact"), "{}", done.err);
    let enough = proposed(&done)[0];
    assert!(enough > least, "{}", done.err);
    let (got, done) = logits(&dir, &pack, &["--ram", &format!("{enough}M")]);
    assert!(got == want && !done.err.contains("--sparsity"), "the limit that was named is enough: {}", done.err);
    // Who asks for it by name is refused, with both limits.
    let refused = run("forebay", &["logits", &pack, "--tokens", "1", "-o", "none", "--ram", &ram, "--sparsity", "exact"]).expect(5);
    assert!(proposed(&refused).contains(&enough) && refused.err.contains("--sparsity predicted"), "{}", refused.err);
    run("forebay", &["logits", &pack, "--tokens", "1", "-o", "none", "--ram", &format!("{}M", least - 1)]).expect(5);
}

#[test]
fn a_calibration_is_made_shown_and_used() {
    let dir = folder();
    let (pack, text) = toy(&dir, &[]);
    let arguments = ["calibrate", pack.as_str(), "-f", text.as_str(), "-c", "64", "--chunks", "6", "--ram", "1G"];
    let object = run("forebay", &[&arguments[..], &["--json"]].concat()).expect(0).json();
    let calibration = &object["calibration"];
    let rows = calibration["table"].as_array().expect("rows");
    let column = |key: &str| rows.iter().map(|r| r[key].as_f64().unwrap_or_else(|| panic!("no {key} in {r}"))).collect::<Vec<_>>();
    for key in ["recall", "read", "bytes"] {
        assert!(column(key).windows(2).all(|w| w[0] <= w[1]), "{key} does not rise: {object}");
    }
    assert!(column("kl").iter().all(|kl| *kl >= 0.0) && column("bytes")[0] > 0.0, "{object}");
    for key in ["groups", "again"] {
        assert!(calibration["firing"][key].as_f64().is_some_and(|share| share > 0.0 && share <= 1.0), "{object}");
    }
    assert_eq!(object["file"], format!("{pack}.neurons"));
    let table = run("forebay", &arguments).expect(0);
    for part in ["neurons fire", "| recall |", "MB/token", "| exact", "(default)", "| 80.0%", "| 99.9%"] {
        assert!(table.out.contains(part), "no {part:?} in {}", table.out);
    }
    // It is used, and every result says what it costs.
    let ppl = |more: &[&str]| run("forebay", &[&["ppl", &pack, "-f", &text, "-c", "64", "--ram", "1G"], more].concat());
    let told = ppl(&["--sparsity", "predicted", "--recall", "95%"]).expect(0);
    assert!(told.out.contains("predicted neurons at recall 95.0%: KL"), "{}", told.out);
    let recall = |more: &[&str]| ppl(&[&["--json", "--sparsity", "predicted"], more].concat()).expect(0).json()["recall"].clone();
    assert_eq!((recall(&["--recall", "0.5"]), recall(&["--recall", "1"])), (json!(0.8), json!(0.999)));
    assert_eq!(recall(&[]), rows[object["default"].as_u64().expect("a row") as usize]["recall"]);
    let exact = ppl(&["--json"]).expect(0).json();
    assert_eq!((&exact["recall"], &exact["sparsity"]), (&Value::Null, &Value::Null));
    // A damaged file counts for nothing.
    let file = format!("{pack}.neurons");
    let mut bytes = std::fs::read(&file).expect("the calibration");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).expect("damage");
    assert!(ppl(&["--sparsity", "predicted"]).expect(0).out.contains("not calibrated"));
}

#[test]
fn what_calibrating_and_recalls_refuse() {
    let dir = folder();
    let (pack, text) = toy(&dir, &[]);
    let calibrate = |more: &[&str]| run("forebay", &[&["calibrate", &pack, "--ram", "1G"], more].concat());
    calibrate(&[]).expect(2);
    calibrate(&["-f", "absent.txt"]).expect(6);
    for sparsity in ["predicted", "off"] {
        assert!(calibrate(&["-f", &text, "--sparsity", sparsity]).expect(2).err.contains("--sparsity"));
    }
    let short = dir.path().join("short.txt");
    std::fs::write(&short, "the end").expect("a text");
    assert!(calibrate(&["-f", &name(&short)]).expect(1).err.contains("do not fill a chunk"));
    assert!(calibrate(&["-f", &text, "--ram", "1M"]).code == Some(2), "a flag twice");
    assert!(!Path::new(&format!("{pack}.neurons")).exists(), "nothing is left of what was refused");
    let ppl = |more: &[&str]| run("forebay", &[&["ppl", &pack, "-f", &text, "-c", "64", "--ram", "1G"], more].concat());
    for recall in ["1.5", "-1", "many", "NaN", "101%"] {
        ppl(&["--sparsity", "predicted", &format!("--recall={recall}")]).expect(2);
    }
    assert!(ppl(&["--recall", "0.9"]).expect(2).err.contains("--sparsity predicted"));
    assert!(ppl(&["--recall", "0.9", "--sparsity", "exact"]).expect(2).err.contains("--sparsity predicted"));
    let whole = toy(&dir, &["--neurons", "off"]).0;
    let refused = run("forebay", &["calibrate", &whole, "-f", &text, "-c", "64", "--ram", "1G"]).expect(1);
    assert!(refused.err.contains("no neuron groups"), "{}", refused.err);
}

#[test]
fn converting_calibrates_in_one_command() {
    let dir = folder();
    let text = toy(&dir, &[]).1;
    let (source, pack) = (name(&dir.path().join("toy")), name(&dir.path().join("one.fby")));
    // The toy's tokens are bytes: 16 chunks of 256 need more of them.
    std::fs::write(&text, "the hand and the thing that they had then\n".repeat(300)).expect("a text");
    let done = run("forebay-repack", &["convert", &source, "-o", &pack, "--calibrate", &text, "--json"]).expect(0);
    assert_eq!(done.json()["output"], pack);
    assert!(done.err.contains("| recall |"), "{}", done.err);
    assert!(Path::new(&format!("{pack}.neurons")).exists());
    let predicted = run("forebay", &["run", &pack, "the", "--raw", "-n", "4", "--ram", "1G", "--sparsity", "predicted"]).expect(0);
    assert!(predicted.err.contains("predicted neurons at recall"), "{}", predicted.err);
    // Nothing to calibrate: said before anything is written.
    for neurons in [&["--neurons", "off"][..], &[]] {
        let (source, out) = (if neurons.is_empty() { demo_model() } else { source.clone() }, name(&dir.path().join("none.fby")));
        let refused = run("forebay-repack", &[&["convert", &source, "-o", &out, "--calibrate", &text], neurons].concat()).expect(2);
        assert!(refused.err.contains("no groups of neurons") && !Path::new(&out).exists(), "{}", refused.err);
    }
    run("forebay-repack", &["convert", &source, "-o", &pack, "--calibrate", &text, "--dry-run"]).expect(2);
    // A text that is not there: the pack is whole, and the exit code is that of calibrating.
    let refused = run("forebay-repack", &["convert", &source, "-o", &pack, "--force", "--calibrate", "absent.txt"]).expect(6);
    assert!(refused.err.contains("is complete, but calibrating it failed"), "{}", refused.err);
    run("forebay-repack", &["verify", &pack]).expect(0);
}

#[test]
fn activation_thresholds_say_what_they_cost() {
    let dir = folder();
    let (pack, text) = toy(&dir, &[]);
    let ppl = |more: &[&str]| run("forebay", &[&["ppl", &pack, "-f", &text, "-c", "64", "--chunks", "4", "--ram", "1G"], more].concat());
    let exact = ppl(&["--json"]).expect(0).json();
    assert_eq!((&exact["kl"], &exact["activation_threshold"]), (&Value::Null, &Value::Null));
    assert_eq!(ppl(&["--json", "--activation-threshold", "0"]).expect(0).json()["ppl"], exact["ppl"]);
    let cut = ppl(&["--json", "--activation-threshold", "0.5"]).expect(0).json();
    assert!(cut["kl"].as_f64().is_some_and(|kl| kl > 0.0) && cut["ppl"] != exact["ppl"], "{cut}");
    let told = ppl(&["--activation-threshold", "0.5"]).expect(0);
    assert!(told.out.contains("products below 0.5") && told.out.contains("against threshold 0"), "{}", told.out);
    for wrong in ["-1", "NaN", "inf", "much"] {
        ppl(&[&format!("--activation-threshold={wrong}")]).expect(2);
    }
}

/// What `forebay plan` says of the feed-forward part of a model, and what that rests on.
#[test]
fn plans_count_neurons() {
    let dir = folder();
    let pack = made_up(&dir);
    let plan = |pack: &str, ram: &str| {
        run("forebay", &["plan", pack, "--ram", ram, "--json", "--assume-disk", "2", "-p", "16", "-c", "256"]).expect(0).json()
    };
    let number = |plan: &Value, path: &str| plan.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {path} in {plan}"));
    let all = plan(&pack, "1G");
    assert!(all["neurons"]["source"].as_str().is_some_and(|s| s.contains("synth")), "{all}");
    // Groups of eight rows of 512 bytes, of which one in twenty fires: 1 - 0.95^8.
    assert!((number(&all, "/decode/groups_wanted") - 0.337).abs() < 0.01, "{all}");
    assert_eq!((number(&all, "/decode/bytes_read_per_token"), number(&all, "/decode/group_hit_rate/expected")), (0.0, 1.0));
    let floor = format!("{}", all["memory"]["floor"]);
    let least = plan(&pack, &floor);
    // All that the window does not hold is read for every token, and so are layers that do not fit.
    let unheld = 1.0 - number(&least, "/memory/group_slots") / number(&least, "/memory/groups");
    let bytes = unheld * number(&least, "/neurons/groups_bytes") + number(&least, "/memory/streamed");
    assert!((number(&least, "/decode/bytes_read_per_token") / bytes - 1.0).abs() < 0.01, "{bytes} {least}");
    assert_eq!(number(&least, "/decode/groups_wanted"), 1.0, "all are computed");
    assert!(number(&least, "/decode/tokens_per_second/expected") < number(&all, "/decode/tokens_per_second/expected"));
    let told = run("forebay", &["plan", &pack, "--ram", &floor, "--assume-disk", "2", "-c", "256"]).expect(0);
    assert!(told.out.contains("  neurons ") && told.out.contains("every neuron is read"), "{}", told.out);
    // A calibration is better than an assumption.
    let (toy, text) = toy(&dir, &[]);
    assert!(plan(&toy, "1G")["neurons"]["source"].as_str().is_some_and(|s| s.contains("assumption")));
    run("forebay", &["calibrate", &toy, "-f", &text, "-c", "64", "--chunks", "4", "--ram", "1G"]).expect(0);
    let known = plan(&toy, "1G");
    assert!(known["neurons"]["source"].as_str().is_some_and(|s| s.contains("calibration")), "{known}");
}
