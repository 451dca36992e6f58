//! The peer's ids for real vocabularies (`../shared/vocab`, see its README), and what malformed vocabularies give.

use super::*;
use gguf_rs_lib::format::metadata::MetadataValue;
use gguf_rs_lib::reader::file_reader::GGUFFileReader;
use std::io::BufReader;
use std::path::PathBuf;

fn shared(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("FOREBAY_SHARED").map(PathBuf::from);
    let root = root.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")));
    let path = root.join(name);
    if !path.exists() {
        drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("SKIP: {} is absent\n", path.display())));
        return None;
    }
    Some(path)
}

fn value(v: &MetadataValue) -> GgufValue {
    match v {
        MetadataValue::String(s) => GgufValue::Text(s.clone()),
        MetadataValue::Bool(b) => GgufValue::Bool(*b),
        MetadataValue::F32(f) => GgufValue::Float(f64::from(*f)),
        MetadataValue::F64(f) => GgufValue::Float(*f),
        MetadataValue::Array(array) => GgufValue::Array(array.iter().map(value).collect()),
        other => other.as_u64().map(GgufValue::Uint).or_else(|| other.as_i64().map(GgufValue::Int)).expect("an integer"),
    }
}

fn read(path: &std::path::Path) -> Vec<(String, GgufValue)> {
    let reader = GGUFFileReader::new(BufReader::new(std::fs::File::open(path).unwrap())).unwrap();
    reader.metadata().iter().map(|(k, v)| (k.to_string(), value(v))).collect()
}

fn peer_ids(name: &str) {
    let Some(path) = shared(&format!("vocab/ggml-vocab-{name}.gguf")) else { return };
    let tokenizer = tokenizer_from_gguf(&read(&path)).unwrap().unwrap();
    let tokenizer = tokenizers::Tokenizer::from_bytes(tokenizer.json.as_bytes()).unwrap();
    let file = |kind: &str| std::fs::read_to_string(format!("{}.{kind}", path.display())).unwrap();
    let (inputs, outputs) = (file("inp"), file("out"));
    let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
    let outputs: Vec<&str> = outputs.lines().collect();
    assert!(inputs.len() >= outputs.len() && outputs.len() > 40, "{} inputs, {} outputs", inputs.len(), outputs.len());
    for (input, expected) in inputs.iter().zip(outputs) {
        let expected: Vec<u32> = expected.split_whitespace().map(|id| id.parse().unwrap()).collect();
        let ids = tokenizer.encode_fast(*input, false).unwrap().get_ids().to_vec();
        assert_eq!(ids, expected, "{name}: {input:?}");
    }
}

#[test]
fn gpt2_ids_equal_the_peers() {
    peer_ids("gpt-2");
}

#[test]
fn qwen2_ids_equal_the_peers() {
    peer_ids("qwen2");
}

#[test]
fn sentencepiece_ids_equal_the_peers() {
    peer_ids("llama-spm");
}

/// The algorithm itself, slowly: join the adjacent pair with the best score, the leftmost of equals, until none is a piece.
fn sentencepiece(text: &str, scores: &HashMap<String, f64>) -> Vec<String> {
    let text = format!("▁{}", text.replace(' ', "▁"));
    let mut symbols: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let joined = symbols.windows(2).enumerate().filter_map(|(at, pair)| Some((at, *scores.get(&pair.concat())?)));
        let Some((at, _)) = joined.reduce(|best, next| if next.1 > best.1 { next } else { best }) else { break };
        let right = symbols.remove(at + 1);
        symbols[at].push_str(&right);
    }
    symbols
}

#[test]
fn merges_from_scores_do_what_the_scores_say() {
    let Some(path) = shared("vocab/ggml-vocab-llama-spm.gguf") else { return };
    let kvs = read(&path);
    let vocabulary = Vocabulary::read(&Meta(&kvs)).unwrap();
    let Some(GgufValue::Array(stored)) = Meta(&kvs).get("tokenizer.ggml.scores") else { panic!("no scores") };
    let pieces = vocabulary.texts.iter().zip(&vocabulary.kinds).zip(stored);
    let scores: HashMap<String, f64> = pieces
        .filter(|((_, kind), _)| **kind == Kind::Normal)
        .map(|((text, _), score)| (text.to_string(), if let GgufValue::Float(f) = score { *f } else { panic!() }))
        .collect();
    let tokenizer = tokenizer_from_gguf(&kvs).unwrap().unwrap();
    let tokenizer = tokenizers::Tokenizer::from_bytes(tokenizer.json.as_bytes()).unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let words = [
        "the", " ", "  ", "    ", "a", "aa", "aaa", "=", "==", "---", "in", "ing", "tion", " der", "\n", "é", "日本", "1", "0", "(", "))",
        "_",
    ];
    for _ in 0..500 {
        let text: String = (0..1 + random(30)).map(|_| words[random(words.len())]).collect();
        let encoding = tokenizer.encode_fast(text.as_str(), false).unwrap();
        let mut expected = Vec::new();
        for symbol in sentencepiece(&text, &scores) {
            match vocabulary.ids.get(&symbol) {
                Some(&id) => expected.push(id),
                None => expected.extend(symbol.bytes().map(|b| vocabulary.ids[&format!("<0x{b:02X}>")])),
            }
        }
        assert_eq!(encoding.get_ids(), expected, "{text:?}");
    }
}

#[test]
fn every_rule_compiles_and_has_names_of_its_own() {
    let mut seen = std::collections::HashSet::new();
    for rule in pretokenizer::RULES {
        for name in rule.names {
            assert!(seen.insert(name), "{name} is named twice");
            let tokenizer = tokenizer_from_gguf(&toy(name)).unwrap().unwrap();
            let tokenizer = tokenizers::Tokenizer::from_bytes(tokenizer.json.as_bytes()).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(tokenizer.encode_fast("abab b", false).unwrap().get_ids().first(), Some(&2), "{name}");
        }
    }
}

fn texts(list: &[&str]) -> GgufValue {
    GgufValue::Array(list.iter().map(|t| GgufValue::Text(t.to_string())).collect())
}

/// Four byte-level tokens and one control token.
fn toy(pre: &str) -> Vec<(String, GgufValue)> {
    let kvs = [
        ("model", GgufValue::Text("gpt2".into())),
        ("pre", GgufValue::Text(pre.into())),
        ("tokens", texts(&["a", "b", "ab", "Ġ", "<|im_end|>"])),
        ("token_type", GgufValue::Array([1, 1, 1, 1, 3].map(GgufValue::Int).to_vec())),
        ("merges", texts(&["a b"])),
        ("bos_token_id", GgufValue::Uint(4)),
        ("eos_token_id", GgufValue::Uint(1)),
    ];
    kvs.map(|(k, v)| (format!("tokenizer.ggml.{k}"), v)).to_vec()
}

fn with(key: &str, value: Option<GgufValue>) -> Vec<(String, GgufValue)> {
    let key = format!("tokenizer.ggml.{key}");
    let mut kvs = toy("qwen2");
    kvs.retain(|(k, _)| *k != key);
    kvs.extend(value.map(|v| (key, v)));
    kvs
}

#[test]
fn beginning_and_end_tokens() {
    let bos = |kvs: &[(String, GgufValue)]| tokenizer_from_gguf(kvs).unwrap().unwrap().bos;
    assert_eq!(bos(&toy("qwen2")), None);
    assert_eq!(bos(&toy("llama-bpe")), Some(4));
    assert_eq!(bos(&with("add_bos_token", Some(GgufValue::Bool(true)))), Some(4));
    assert_eq!(stop_tokens_from_gguf(&toy("qwen2")).unwrap(), [1, 4]);
    assert_eq!(special_text_from_gguf(&toy("qwen2"), "tokenizer.ggml.bos_token_id").unwrap().as_deref(), Some("<|im_end|>"));
    assert_eq!(tokenizer_from_gguf(&[]).unwrap(), None);

    let template = json!({"post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}, {
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]}}}]}});
    assert_eq!(bos_from_huggingface(&template, None), Some(7));
    let plain = json!({"post_processor": null, "added_tokens": [{"id": 3, "content": "<s>"}]});
    assert_eq!(bos_from_huggingface(&plain, Some(&json!({"add_bos_token": true, "bos_token": "<s>"}))), Some(3));
    assert_eq!(bos_from_huggingface(&plain, Some(&json!({"add_bos_token": false, "bos_token": "<s>"}))), None);
    assert_eq!(bos_from_huggingface(&plain, Some(&json!({"bos_token": {"content": "<s>"}}))), None);
}

#[test]
fn contradictions_are_refused() {
    let cases: [(&str, Option<GgufValue>, &str); 12] = [
        ("model", Some(GgufValue::Text("rwkv".into())), "rwkv"),
        ("model", Some(GgufValue::Uint(1)), "not a string"),
        ("pre", Some(GgufValue::Text("tomorrow's".into())), "tomorrow"),
        ("tokens", None, "tokens is missing"),
        ("tokens", Some(texts(&[])), "0 tokens"),
        ("tokens", Some(texts(&["a", "b", "ab", "a", "c"])), "tokens 0 and 3 are both 'a'"),
        ("tokens", Some(GgufValue::Array(vec![GgufValue::Int(1)])), "not a string"),
        ("token_type", Some(GgufValue::Array(vec![GgufValue::Int(1)])), "1 token types for 5"),
        ("token_type", Some(GgufValue::Array(vec![GgufValue::Int(-1); 5])), "unknown type"),
        ("merges", None, "merges is missing"),
        ("merges", Some(texts(&["a z"])), "merge 0"),
        ("merges", Some(texts(&["ab"])), "merge 0"),
    ];
    for (key, value, expected) in cases {
        let error = tokenizer_from_gguf(&with(key, value)).unwrap_err().to_string();
        assert!(error.contains(expected), "{key}: {error}");
    }
    let mut spm = with("model", Some(GgufValue::Text("llama".into())));
    assert!(tokenizer_from_gguf(&spm).unwrap_err().to_string().contains("scores is missing"));
    spm.push(("tokenizer.ggml.scores".into(), GgufValue::Array(vec![GgufValue::Float(f64::NAN); 5])));
    assert!(tokenizer_from_gguf(&spm).unwrap_err().to_string().contains("score 0"));
}
