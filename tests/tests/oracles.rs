//! Logits, router choices and greedy tokens against an independent implementation, for every family, from Hugging Face and GGUF sources.
//!
//! Tolerances are those of the oracles' README. A case prints one line.

use forebay::kernels::ActivationMode;
use forebay::{Engine, Options};
use forebay_tests::numbers::{argmax, deviation, kl, largest_difference, mean, median, rms_difference};
use forebay_tests::oracle::{GREEDY, Oracle, Outcome, agreeing, compare_router, decided, run};
use forebay_tests::{packs, shared};
use std::path::{Path, PathBuf};

/// Largest logit error of the exact path. Logits here reach 15, so this is stricter than a part of the largest; at 1e-3 a wrong norm
/// epsilon goes unnoticed.
const EXACT: f32 = 2e-4;
/// Largest error of an expert's weight on the exact path.
const ROUTER_WEIGHT: f32 = 1e-4;
/// Router margins below this may be overturned by rounding; ids are then not compared.
const ROUTER_MARGIN: f32 = 1e-4;
/// Median divergence per position of the default path, in nats.
const MEDIAN_KL: f64 = 0.01;
/// Median rms error of the default path, as a part of the logits' deviation. The largest, over eight positions of `llama-rope3` in `q8_0`, was 0.040 with eight float sums a row
/// and is 0.041 with one (its median divergence 0.0039 and 0.0038): which activations fall to which side of a rounding is chance.
const MEDIAN_RMS: f64 = 0.045;

/// Families that are supported, with the GGUF types of their files.
const FOLDERS: &[(&str, &[&str])] = &[
    ("llama", &["f16", "q8_0"]),
    ("llama-rope3", &["f16", "q8_0"]),
    ("llama-relu", &[]),
    ("opt", &[]),
    ("qwen2", &["f16", "q8_0"]),
    ("qwen3", &["f16", "q8_0"]),
    ("mixtral", &["f16", "q8_0"]),
    ("olmoe", &["f16", "q8_0"]),
    ("qwen3_moe", &["f16", "q8_0"]),
    ("qwen3_5_moe", &["f16", "q8_0"]),
];
/// Types of the files in `qwen3_moe-256`.
const TYPES: &[&str] = &[
    "q8_0",
    "q6_k",
    "q5_k_m",
    "q4_k_m",
    "q3_k_m",
    "q2_k",
    "q5_1",
    "q5_0",
    "q4_1",
    "q4_0",
    "iq4_xs",
    "iq4_nl",
    "iq3_s",
    "iq3_xxs",
    "iq2_m",
    "iq2_xs",
    "iq2_xxs",
    "iq1_m",
    "iq1_s",
    "tq1_0",
    "tq2_0",
    "mxfp4_moe",
];

/// A checkpoint and the truth about it.
struct Case {
    name: String,
    source: PathBuf,
    expected: PathBuf,
}

impl Case {
    /// The Hugging Face directory itself.
    fn directory(root: &Path, folder: &str) -> Case {
        Case { name: folder.into(), source: root.join(folder), expected: root.join(folder).join("expected.safetensors") }
    }

    /// `model-TYPE.gguf`. An f16 file holds the same numbers as the directory, so it shares its truth.
    fn gguf(root: &Path, folder: &str, kind: &str) -> Case {
        let dir = root.join(folder);
        let expected = if kind == "f16" { "expected.safetensors".into() } else { format!("expected-{kind}.safetensors") };
        Case { name: format!("{folder} {kind}"), source: dir.join(format!("model-{kind}.gguf")), expected: dir.join(expected) }
    }
}

fn open(pack: &Path, activations: ActivationMode) -> Engine {
    let options = Options { activations, ..Options::default() };
    Engine::open(pack, &options).unwrap_or_else(|e| panic!("{e}"))
}

/// Runs both prompts; how many rows of logits the oracle has tells how many to keep.
fn outcomes(engine: &mut Engine, oracle: &Oracle) -> [Outcome; 2] {
    let vocab = engine.manifest().spec.vocab as usize;
    oracle.prompts.each_ref().map(|p| run(engine, &p.prompt, p.logits.len() / vocab).unwrap_or_else(|e| panic!("{e}")))
}

/// The exact path. Returns what is wrong.
fn exact(case: &Case, pack: &Path, oracle: &Oracle) -> Vec<String> {
    let have = outcomes(&mut open(pack, ActivationMode::F32), oracle);
    let (mut wrong, mut line) = (Vec::new(), format!("{:24} f32 ", case.name));
    for (want, have) in oracle.prompts.iter().zip(&have) {
        let n = want.prompt.len();
        let error = largest_difference(&want.logits, &have.logits);
        if error > EXACT {
            wrong.push(format!("prompt of {n}: logits differ by {error:.2e}, the limit is {EXACT:.0e}"));
        }
        let (ids, weights) = compare_router(want, have);
        if (ids > 0 && oracle.router_margin > ROUTER_MARGIN) || weights > ROUTER_WEIGHT {
            wrong.push(format!("prompt of {n}: {ids} choices of experts differ, weights by {weights:.2e}"));
        }
        let (equal, must) = (agreeing(want, have), decided(want, EXACT));
        if equal < must {
            wrong.push(format!("prompt of {n}: only {equal} greedy tokens equal, margins decide {must}"));
        }
        line += &format!(" | {n:3}: error {error:.1e}, {ids} routes differ, greedy {equal}/{GREEDY} ({must} decided)");
    }
    eprintln!("{line}");
    wrong
}

/// The default path: 8-bit activations, half-precision cache. Single positions of a mixture of experts may part by a flipped expert, so medians are judged.
fn default_path(case: &Case, pack: &Path, oracle: &Oracle) -> Vec<String> {
    let mut engine = open(pack, ActivationMode::Int8);
    let have = outcomes(&mut engine, oracle);
    let vocab = engine.manifest().spec.vocab as usize;
    let (mut wrong, mut line) = (Vec::new(), format!("{:24} int8", case.name));
    for (want, have) in oracle.prompts.iter().zip(&have) {
        let n = want.prompt.len();
        let rows = || want.logits.chunks_exact(vocab).zip(have.logits.chunks_exact(vocab));
        let kls: Vec<f64> = rows().map(|(w, h)| kl(w, h)).collect();
        let errors: Vec<f64> = rows().map(|(w, h)| rms_difference(w, h) / deviation(w)).collect();
        let same_best = rows().filter(|(w, h)| argmax(w) == argmax(h)).count();
        // Three deviations of the error of a logit; a margin is the difference of two.
        let error = 3.0 * median(&errors) as f32 * deviation(&want.logits) as f32;
        let (equal, must) = (agreeing(want, have), decided(want, error));
        if median(&kls) > MEDIAN_KL || median(&errors) > MEDIAN_RMS {
            wrong.push(format!("prompt of {n}: median KL {:.4}, median rms error {:.4}", median(&kls), median(&errors)));
        }
        if equal < must {
            wrong.push(format!("prompt of {n}: only {equal} greedy tokens equal, margins decide {must}"));
        }
        line += &format!(
            " | {n:3}: KL mean {:.4} median {:.4}, rms {:.3}, best equal {same_best}/{}, greedy {equal}/{GREEDY} ({must} decided)",
            mean(&kls),
            median(&kls),
            median(&errors),
            kls.len()
        );
    }
    eprintln!("{line}");
    wrong
}

fn check(cases: &[Case]) {
    let mut wrong = Vec::new();
    for case in cases {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let pack = packs::convert(&case.source, dir.path()).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let oracle = Oracle::read(&case.expected);
        let found = exact(case, &pack, &oracle).into_iter().chain(default_path(case, &pack, &oracle));
        wrong.extend(found.map(|w| format!("{}: {w}", case.name)));
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// What a clone of the repository can check by itself.
#[test]
fn committed_oracles() {
    let root = shared::fixtures().join("oracles");
    check(&[Case::directory(&root, "qwen2"), Case::gguf(&root, "llama", "q8_0"), Case::gguf(&root, "qwen3_5_moe", "q8_0")]);
}

#[test]
fn every_family() {
    let Some(shared) = shared::shared() else { return };
    let root = shared.join("oracles");
    let ggufs = FOLDERS.iter().flat_map(|(folder, kinds)| kinds.iter().map(|kind| Case::gguf(&root, folder, kind)));
    let cases: Vec<Case> = FOLDERS.iter().map(|(folder, _)| Case::directory(&root, folder)).chain(ggufs).collect();
    check(&cases);
}

#[test]
fn every_quant_type() {
    let Some(shared) = shared::shared() else { return };
    let root = shared.join("oracles");
    let types = TYPES.iter().map(|kind| Case::gguf(&root, "qwen3_moe-256", kind));
    let cases: Vec<Case> = std::iter::once(Case::directory(&root, "qwen3_moe-256")).chain(types).collect();
    check(&cases);
}
