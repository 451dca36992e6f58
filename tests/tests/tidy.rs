//! What must hold of the source tree itself: layout, crate names, dependency direction, where `unsafe` may stand, and that no model family
//! is named outside the converter.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests crate lies in the workspace").to_path_buf()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every `.rs` file below a folder of the workspace, as (path relative to the root, text).
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.expect("directory entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
                found.push((name, std::fs::read_to_string(&path).expect("readable source")));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has no sources");
    found.sort();
    found
}

/// Workspace crates a manifest's `[dependencies]` and `[build-dependencies]` name (dev-dependencies may go further).
fn workspace_dependencies(manifest: &str) -> Vec<String> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line.to_string();
        } else if section.ends_with("dependencies]") && !section.contains("dev-") {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if name.starts_with("forebay") {
                found.push(name.to_string());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn crates_have_the_designed_names_and_dependencies() {
    let expected: [(&str, &str, &[&str]); 5] = [
        ("format-spec", "forebay-format", &[]),
        ("repack", "forebay-repack", &["forebay-format"]),
        ("runtime", "forebay", &["forebay-format"]),
        ("tests", "forebay-tests", &["forebay", "forebay-format", "forebay-repack"]),
        ("scripts", "forebay-scripts", &["forebay"]),
    ];
    for (folder, name, dependencies) in expected {
        let manifest = read(format!("{folder}/Cargo.toml"));
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{folder} is not crate {name}");
        assert_eq!(workspace_dependencies(&manifest), dependencies, "{folder} depends on the wrong workspace crates");
    }
    // Neither binary crate may reach the other through its tests.
    assert!(!read("repack/Cargo.toml").contains("\nforebay.workspace"), "repack must not see runtime");
    assert!(!read("runtime/Cargo.toml").contains("forebay-repack"), "runtime must not see repack");
}

#[test]
fn workspace_states_edition_resolver_msrv_and_licence() {
    let manifest = read("Cargo.toml");
    for line in ["resolver = \"3\"", "edition = \"2024\"", "rust-version = \"", "license = \"MIT OR Apache-2.0\""] {
        assert!(manifest.contains(line), "Cargo.toml lacks {line}");
    }
    for file in [
        "Cargo.lock",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "docs/LEARNED.md",
        "format-spec/SPEC.md",
        ".ci/run",
    ] {
        assert!(root().join(file).is_file(), "{file} is missing");
    }
}

#[test]
fn no_model_family_is_named_outside_the_converter() {
    let families = ["llama", "qwen", "mixtral", "olmoe", "deepseek", "gemma", "mistral", "gpt_oss", "gpt-oss", "minimax", "kimi"];
    let programs = ["llama.cpp", "llama-perplexity", "llama-bench"];
    let checked = ["format-spec/src", "runtime/src"].into_iter().flat_map(sources);
    for (file, text) in checked {
        // Unit tests may use real names: templates and vocabularies of known models are their fixtures.
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate() {
            let mut line = line.to_lowercase();
            for program in programs {
                line = line.replace(program, "");
            }
            // The rule of RoPE scaling that configuration files call so.
            line = line.replace("\"llama3\"", "");
            if let Some(family) = families.iter().find(|f| line.contains(*f)) {
                panic!("{file}:{}: names the model family {family}; describe the mechanism instead", number + 1);
            }
        }
    }
}

#[test]
fn unsafe_stands_only_where_it_may() {
    let allowed = ["runtime/src/io/", "runtime/src/window/arena", "runtime/src/kernels/"];
    for (file, text) in ["format-spec/src", "repack/src", "runtime/src", "scripts/src", "tests/src"].into_iter().flat_map(sources) {
        if allowed.iter().any(|a| file.starts_with(a)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let names_it = code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|w| w == "unsafe");
            assert!(!names_it, "{file}:{}: unsafe outside io/, window/arena and kernels/", number + 1);
        }
    }
    for file in ["format-spec/src/lib.rs", "repack/src/lib.rs"] {
        assert!(read(file).contains("#![forbid(unsafe_code)]"), "{file} must forbid unsafe");
    }
}

#[test]
fn runtime_modules_point_one_way() {
    // forward -> mixer|ffn -> window + kernels, window -> policy, io: nothing points back up.
    let rules: [(&str, &[&str]); 4] = [
        (
            "runtime/src/kernels",
            &["crate::window", "crate::io", "crate::store", "crate::forward", "crate::mixer", "crate::ffn", "crate::engine", "crate::cli"],
        ),
        (
            "runtime/src/io",
            &["crate::window::Window", "crate::store", "crate::forward", "crate::mixer", "crate::ffn", "crate::engine", "crate::cli"],
        ),
        ("runtime/src/window", &["crate::store", "crate::forward", "crate::mixer", "crate::ffn", "crate::engine", "crate::cli"]),
        ("runtime/src/mixer", &["crate::forward", "crate::engine", "crate::cli"]),
    ];
    for (folder, forbidden) in rules {
        for (file, text) in sources(folder) {
            if let Some(f) = forbidden.iter().find(|f| text.contains(*f)) {
                panic!("{file} uses {f}, which lies above it");
            }
        }
    }
}

#[test]
fn no_unfinished_marks_and_no_ignored_tests() {
    // Put together at run time, so that this file does not find itself.
    let marks = [["todo", "!("].concat(), ["unimpl", "emented!("].concat(), ["FIX", "ME"].concat(), ["#[ig", "nore"].concat()];
    for (file, text) in ["format-spec", "repack", "runtime", "scripts", "tests"].into_iter().flat_map(sources) {
        for mark in &marks {
            assert!(!text.contains(mark.as_str()), "{file} has {mark}");
        }
    }
}

#[test]
fn files_stay_readable() {
    for (file, text) in ["format-spec/src", "repack/src", "runtime/src", "scripts/src"].into_iter().flat_map(sources) {
        let lines = text.lines().count();
        assert!(lines <= 600, "{file} has {lines} lines; split it by idea");
    }
}
