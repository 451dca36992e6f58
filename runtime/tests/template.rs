//! `forebay template` through the real binary: renderings of an independent jinja2, and templates that want all memory or time.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates")
}

fn template(dir: &Path, template: &Path, messages: &Value, more: &[String]) -> Output {
    let path = dir.join("messages.json");
    std::fs::write(&path, messages.to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.arg("template").arg("--template-file").arg(template).arg("--messages").arg(&path).args(more);
    command.output().unwrap()
}

#[test]
fn every_rendering_equals_jinja2s() {
    let dir = tempfile::tempdir().unwrap();
    let expected: Value = serde_json::from_str(&std::fs::read_to_string(fixtures().join("expected.json")).unwrap()).unwrap();
    for (name, cases) in expected["expected"].as_object().unwrap() {
        for (case, outcome) in cases.as_object().unwrap() {
            let input = &expected["cases"][case];
            let variables = input["variables"].as_object().unwrap();
            let mut more: Vec<String> = variables.iter().map(|(name, value)| format!("--set={name}={value}")).collect();
            if !input["tools"].is_null() {
                let tools = dir.path().join("tools.json");
                std::fs::write(&tools, input["tools"].to_string()).unwrap();
                more.extend(["--tools".to_string(), tools.to_string_lossy().into_owned()]);
            }
            let output = template(dir.path(), &fixtures().join(name), &input["messages"], &more);
            let text = String::from_utf8(output.stdout).unwrap();
            match outcome["ok"].as_str() {
                Some(expected) => assert_eq!((text.as_str(), output.status.code()), (expected, Some(0)), "{name}/{case}"),
                None => assert_eq!((text.as_str(), output.status.code()), ("", Some(1)), "{name}/{case}"),
            }
        }
    }
}

#[test]
fn hostile_templates_end_with_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let doubling = "{% set ns = namespace(s='x') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s | length }}";
    let cases = [
        ("string doubling", doubling.to_string(), "too many instructions"),
        (
            "list doubling",
            "{% set ns = namespace(s=[1]) %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}".into(),
            "512 MiB",
        ),
        ("repetition", "{{ ('x' * 1000000000) | length }}{{ ('x' * 100000000000) | length }}".into(), ""),
        ("join", "{{ (range(9000) | join('x' * 1000000)) | length }}".into(), ""),
        (
            "time without instructions",
            "{% set s = 'x' * 50000000 %}{% for i in range(9000) %}{% set t = s | upper %}{% endfor %}".into(),
            "",
        ),
        ("raised", "{{ raise_exception('nothing to say') }}".into(), "nothing to say"),
    ];
    for (name, source, expected) in cases {
        let path = dir.path().join("t.jinja");
        std::fs::write(&path, source).unwrap();
        let start = Instant::now();
        let output = template(dir.path(), &path, &serde_json::json!([]), &[]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{name}: {errors}");
        assert!(errors.starts_with("forebay: chat template: ") && errors.lines().count() == 1, "{name}: {errors}");
        assert!(errors.contains(expected), "{name}: {errors}");
        assert!(output.stdout.is_empty() && start.elapsed() < Duration::from_secs(25), "{name} took {:?}", start.elapsed());
    }
}

#[test]
fn a_wrong_request_is_exit_code_2() {
    for arguments in [&["template"][..], &["template", "x", "--template-file", "y", "--messages", "z"], &["tokenize"], &["nonsense"], &[]] {
        let output = Command::new(env!("CARGO_BIN_EXE_forebay")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }
    let output = Command::new(env!("CARGO_BIN_EXE_forebay")).args(["run", "--help"]).output().unwrap();
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("--top-p"));
}
