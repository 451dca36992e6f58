//! The warm start, through the real program.

use forebay_tests::programs::{demo_model, run};
use std::path::Path;

#[test]
fn a_session_leaves_a_note_that_the_next_one_uses_and_nobody_needs() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let pack = dir.path().join("pocket.fby").to_string_lossy().into_owned();
    run("forebay-repack", &["convert", &demo_model(), "-o", &pack]).expect(0);
    let note = format!("{pack}.warm");
    let answer = |extra: &[&str]| {
        let arguments = [&["run", &pack, "The old man", "--raw", "-n", "8", "--temp", "0", "--ram", "1G", "--json"], extra].concat();
        run("forebay", &arguments).expect(0).json()
    };
    let first = answer(&["--no-warm-start"]);
    assert!(!Path::new(&note).exists());
    let cold = answer(&[]);
    let written = std::fs::read(&note).expect("the session's note");
    let warm = answer(&[]);
    let misses = |report: &serde_json::Value| report["decode"]["misses"].as_u64().expect("decode.misses");
    assert!(misses(&warm) <= misses(&cold), "{warm} {cold}");
    std::fs::write(&note, &written[..written.len() / 2]).expect("a damaged note");
    let damaged = answer(&[]);
    assert_ne!(std::fs::read(&note).expect("a new note"), written[..written.len() / 2]);
    for report in [&cold, &warm, &damaged] {
        assert_eq!(report["tokens"], first["tokens"], "a note decides speed, never output");
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("the folder").count(), 2, "no drafts are left");
}
