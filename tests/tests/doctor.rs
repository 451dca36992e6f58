//! `forebay doctor` through the real program.

use forebay_tests::programs::run;

#[test]
fn a_quick_look_has_every_part_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (place, svg) = (dir.path().to_string_lossy().into_owned(), dir.path().join("curve.svg").to_string_lossy().into_owned());
    let report = run("forebay", &["doctor", &place, "--quick", "--size", "64M", "--svg", &svg, "--json"]).expect(0).json();
    let cells = report["disk"]["cells"].as_array().expect("cells");
    // Five sizes, seven depths, but 4 MiB at most 16 deep; random and sequential.
    assert_eq!(cells.len(), 2 * (4 * 7 + 5));
    assert!(cells.iter().all(|c| c["bytes_per_second"].as_f64().is_some_and(|s| s > 0.0)), "{report}");
    assert_eq!(report["disk"]["file_bytes"], 64 << 20);
    assert!(report["cpu"]["threads"].as_u64().is_some_and(|n| n > 0) && report["memory"]["picked_limit"].as_u64().is_some());
    assert!(report["findings"].as_array().is_some_and(|list| list.len() >= 10), "{report}");
    let picture = std::fs::read_to_string(&svg).expect("a picture");
    assert!(picture.starts_with("<svg ") && picture.matches(">256 KiB<").count() == 2);
    std::fs::remove_file(&svg).expect("the picture");
    assert_eq!(std::fs::read_dir(dir.path()).expect("the directory").count(), 0);
}

#[test]
fn a_directory_that_cannot_be_written_is_a_finding_that_breaks() {
    let missing = run("forebay", &["doctor", "/proc/no-such-directory", "--quick"]).expect(1);
    assert!(missing.out.contains("broken  disk") && missing.out.contains("->"), "{}", missing.out);
    run("forebay", &["doctor", "--size", "1K"]).expect(2);
}
