//! `forebay plan` from everything that it takes, through the real programs.

use forebay_tests::programs::{demo_model, run};
use serde_json::Value;

fn shape(name: &str) -> String {
    format!("{}/../docs/shapes/{name}.json", env!("CARGO_MANIFEST_DIR"))
}

fn rate(plan: &Value, phase: &str, which: &str) -> f64 {
    plan[phase]["tokens_per_second"][which].as_f64().unwrap_or_else(|| panic!("{plan}"))
}

/// The kernels are measured, which takes a moment, but the disk is assumed: tests share it.
fn plan(arguments: &[&str]) -> Value {
    run("forebay", &[&["plan", "--json", "--assume-disk", "2", "--assume-kernels", "20"], arguments].concat()).expect(0).json()
}

#[test]
fn a_configuration_alone_is_enough() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let svg = dir.path().join("p.svg").to_string_lossy().into_owned();
    let made = shape("moe-397b-a17b");
    let sixteen = plan(&[&made, "--ram", "16G", "--svg", &svg]);
    assert_eq!(sixteen["fits"], true);
    // 60 layers of 10 experts of 8 MB, and 6 GB that every token goes through.
    assert_eq!(sixteen["work"]["experts_per_token"], 600);
    assert!(sixteen["bytes"].as_u64().is_some_and(|n| (230..250).contains(&(n / 1_000_000_000))), "{sixteen}");
    for phase in ["decode", "prompt"] {
        let of = |which| rate(&sixteen, phase, which);
        assert!(of("low") <= of("expected") && of("expected") <= of("high") && of("low") > 0.0, "{sixteen}");
    }
    let all = plan(&[&made, "--ram", "300G"]);
    assert_eq!(all["decode"]["bytes_read_per_token"], 0.0);
    assert!(rate(&all, "decode", "expected") > 2.0 * rate(&sixteen, "decode", "expected"));
    assert!(std::fs::read_to_string(svg).expect("a picture").contains(">expected<"));
    assert!(sixteen["curve"].as_array().is_some_and(|c| c.len() > 20));
}

#[test]
fn a_checkpoint_and_its_pack_give_the_same_plan() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let pack = dir.path().join("demo.fby").to_string_lossy().into_owned();
    run("forebay-repack", &["convert", &demo_model(), "-o", &pack]).expect(0);
    let (from_pack, from_source) = (plan(&[&pack, "--ram", "76M", "-c", "256"]), plan(&[&demo_model(), "--ram", "76M", "-c", "256"]));
    // An outline says in its manifest that it is one, which is 33 bytes of overhead.
    for key in ["trunk", "window", "slots", "kv", "state", "scratch", "tokenizer", "floor"] {
        assert_eq!(from_pack["memory"][key], from_source["memory"][key], "{key}");
    }
    for key in ["work", "architecture", "context", "chunk"] {
        assert_eq!(from_pack[key], from_source[key], "{key}");
    }
    assert_eq!(from_pack["decode"]["hit_rate"], from_source["decode"]["hit_rate"]);
    // Of a GGUF file the header is enough, of a directory the configuration.
    let header = dir.path().join("header.gguf").to_string_lossy().into_owned();
    let whole = std::fs::read(demo_model()).expect("the bundled model");
    std::fs::write(&header, &whole[..whole.len() / 8]).expect("its beginning");
    assert_eq!(plan(&[&header, "--ram", "76M", "-c", "256"])["work"], from_source["work"]);
    run("forebay-repack", &["convert", &header, "-o", &format!("{header}.fby")]).expect(1);
    let bare = dir.path().join("bare");
    std::fs::create_dir(&bare).expect("a directory");
    std::fs::copy(shape("dense-8b"), bare.join("config.json")).expect("a configuration");
    assert_eq!(plan(&[&bare.to_string_lossy(), "--ram", "6G"])["work"], plan(&[&shape("dense-8b"), "--ram", "6G"])["work"]);
}

#[test]
fn what_does_not_fit_is_planned_at_the_floor_and_refused() {
    let refused = run("forebay", &["plan", &shape("dense-8b"), "--ram", "200M", "--json", "--assume-disk", "2"]).expect(5);
    assert_eq!(refused.json()["fits"], false);
    assert_eq!(refused.json()["limit"], refused.json()["memory"]["floor"]);
    assert!(refused.err.contains("smallest limit"), "{}", refused.err);
    run("forebay", &["plan", "no-such-file.json"]).expect(1);
}
