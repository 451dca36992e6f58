//! Real vocabularies, given a toy model's weights: `forebay tokenize` gives the ids that a peer gives.

use forebay::pack::Pack;
use forebay::tokenizer::{Specials, Tokenizer};
use forebay_repack::source::{self, GgufValue, Meta};
use forebay_tests::programs::run;
use forebay_tests::shared;
use forebay_tests::toy::{Value, write_dense_gguf_with};
use std::path::Path;

/// The tokenizer's key-value pairs, as they can be written again.
fn vocabulary(path: &Path) -> (usize, Vec<(String, Value)>) {
    let Meta::Gguf(pairs) = source::open(path).expect("a vocabulary").meta else { panic!("not a GGUF file") };
    let pairs: Vec<_> = pairs.into_iter().filter(|(key, _)| key.starts_with("tokenizer.ggml.")).map(|(key, v)| (key, again(v))).collect();
    let tokens = pairs.iter().find_map(|(key, v)| match v {
        Value::Texts(tokens) if key.ends_with(".tokens") => Some(tokens.len()),
        _ => None,
    });
    (tokens.expect("tokens"), pairs)
}

fn again(value: GgufValue) -> Value {
    match value {
        GgufValue::Uint(n) => Value::U32(n as u32),
        GgufValue::Int(n) => Value::U32(n as u32),
        GgufValue::Float(x) => Value::F32(x as f32),
        GgufValue::Bool(b) => Value::Bool(b),
        GgufValue::Text(t) => Value::Text(t),
        GgufValue::Array(items) => match items.first() {
            Some(GgufValue::Text(_)) => {
                Value::Texts(items.into_iter().map(|i| if let GgufValue::Text(t) = i { t } else { String::new() }).collect())
            }
            Some(GgufValue::Float(_)) => {
                Value::Floats(items.into_iter().map(|i| if let GgufValue::Float(x) = i { x as f32 } else { 0.0 }).collect())
            }
            _ => Value::Ints(items.into_iter().map(|i| if let GgufValue::Int(n) = i { n as i32 } else { 0 }).collect()),
        },
    }
}

#[test]
fn real_vocabularies_give_a_peers_ids_through_the_program() {
    let Some(folder) = shared::shared().map(|s| s.join("vocab")) else { return };
    for name in ["gpt-2", "llama-spm", "qwen2"] {
        let gguf = folder.join(format!("ggml-vocab-{name}.gguf"));
        let read = |suffix: &str| std::fs::read_to_string(folder.join(format!("ggml-vocab-{name}.gguf{suffix}"))).expect("cases");
        let (inputs, outputs) = (read(".inp"), read(".out"));
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = |file: &str| dir.path().join(file).to_string_lossy().into_owned();
        let (tokens, pairs) = vocabulary(&gguf);
        write_dense_gguf_with(Path::new(&path("toy.gguf")), tokens, pairs).expect("the checkpoint");
        run("forebay-repack", &["convert", &path("toy.gguf"), "-o", &path("toy.fby")]).expect(0);
        let mut cases: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
        // Each case ends with the separator, so what follows the last one is none.
        assert_eq!(cases.pop(), Some(""), "{name}: text behind the last separator");
        let expected: Vec<&str> = outputs.lines().map(str::trim).collect();
        assert!(cases.len() >= 40 && cases.len() == expected.len(), "{name}: {} inputs, {} outputs", cases.len(), expected.len());
        let manifest = Pack::open(Path::new(&path("toy.fby"))).expect("the pack").manifest;
        let tokenizer = Tokenizer::new(manifest.tokenizer.as_ref().expect("a tokenizer"), manifest.spec.vocab).expect("it loads");
        for (i, (case, ids)) in cases.iter().zip(expected).enumerate() {
            let got = tokenizer.encode(case, Specials::Parse).expect("ids");
            assert_eq!(got.iter().map(u32::to_string).collect::<Vec<_>>().join(" "), ids, "{name}: {case:?}");
            // Starting the program costs half a second with the largest vocabulary: every eighth case goes the whole way.
            if i % 8 == 0 {
                std::fs::write(path("case.txt"), case).expect("the case");
                let got = run("forebay", &["tokenize", &path("toy.fby"), "-f", &path("case.txt")]).expect(0).out;
                assert_eq!(got.trim(), ids, "{name}: {case:?}, through the program");
            }
        }
    }
}
