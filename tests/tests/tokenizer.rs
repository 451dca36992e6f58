//! GGUF vocabularies through the converter's translation and the runtime's tokenizer.

use forebay::tokenizer::{Specials, Tokenizer};
use forebay_repack::arch::vocab::tokenizer_from_gguf;
use forebay_repack::source::{self, Meta};
use serde_json::Value;
use std::path::Path;

const VECTORS: &str = include_str!("../../runtime/tests/fixtures/tokenizer-vectors.json");

/// The bundled model has the vocabulary that the fixture's ids were computed with; llama.cpp's format keeps no normalizer.
#[test]
fn the_bundled_vocabulary_gives_the_ids_of_the_python_package() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../demo/pocket-moe-10m-q8_0.gguf");
    let Meta::Gguf(kvs) = source::open(&path).unwrap().meta else { panic!("not a GGUF file") };
    let tokenizer = Tokenizer::new(&tokenizer_from_gguf(&kvs).unwrap().unwrap(), 8192).unwrap();
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    let sets = vectors["tokenizers"].as_array().unwrap().iter();
    let mut checked = 0;
    for set in sets.filter(|set| set["tokenizer"] == "trained" && set["normalizer"] == false) {
        for case in set["cases"].as_array().unwrap() {
            let ids = |key: &str| case[key].as_array().map(|ids| ids.iter().map(|id| id.as_u64().unwrap() as u32).collect::<Vec<_>>());
            let (text, parsed) = (case["text"].as_str().unwrap(), ids("ids").unwrap());
            assert_eq!(tokenizer.encode(text, Specials::Parse).unwrap(), parsed, "{text:?}");
            assert_eq!(tokenizer.encode(text, Specials::Plain).unwrap(), ids("plain").unwrap_or(parsed.clone()), "{text:?}, as text");
            assert_eq!(tokenizer.decode(&parsed, false), case["decoded"].as_str().unwrap(), "{text:?}, decoded");
            checked += 1;
        }
    }
    assert!(checked >= 40, "only {checked} cases");
}
