//! Perplexity and greedy continuations of trained models against `models/expected.json`: the whole way from a checkpoint over tokenizer, pack and
//! forward pass. Protocol of llama-perplexity: chunks of 512 tokens, each a sequence of its own, of which the second half is scored.
//!
//! All chunks are run by default. What a model costs is printed.

use forebay::kernels::ActivationMode;
use forebay::kv::KvType;
use forebay::tokenizer::{Specials, Tokenizer};
use forebay::{Engine, Options, Wanted};
use forebay_tests::numbers::{argmax, kl, log_softmax, mean};
use forebay_tests::{packs, shared};
use serde_json::Value;
use std::path::Path;
use std::time::Instant;

const CHUNK: usize = 512;

/// A model of `../shared/models`, converted, with its entry of `expected.json`.
struct Trained {
    engine: Engine,
    tokenizer: Tokenizer,
    expected: Value,
    // Held so that the pack outlives the engine.
    _dir: tempfile::TempDir,
}

fn open(shared: &Path, name: &str, activations: ActivationMode, kv: Option<KvType>) -> Trained {
    let models = shared.join("models");
    let all = std::fs::read_to_string(models.join("expected.json")).expect("expected.json");
    let expected = serde_json::from_str::<Value>(&all).expect("expected.json")[name].clone();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let pack = packs::convert(&models.join(name), dir.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let engine = Engine::open(&pack, &Options { activations, kv, ..Options::default() }).unwrap_or_else(|e| panic!("{name}: {e}"));
    let source = engine.manifest().tokenizer.as_ref().expect("the model has a tokenizer");
    let tokenizer = Tokenizer::new(source, engine.manifest().spec.vocab).unwrap_or_else(|e| panic!("{name}: {e}"));
    Trained { engine, tokenizer, expected, _dir: dir }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().map(|list| list.iter().filter_map(Value::as_u64).map(|id| id as u32).collect()).unwrap_or_default()
}

impl Trained {
    /// Perplexity over all chunks of the held-out text.
    fn perplexity(&mut self, shared: &Path) -> f64 {
        let text = std::fs::read_to_string(shared.join("text/heldout-60k.txt")).expect("the held-out text");
        let tokens = self.tokenizer.encode(&text, Specials::Parse).expect("ids");
        assert_eq!(Some(tokens.len() as u64), self.expected["tokens"].as_u64(), "tokens of the held-out text");
        let (mut sum, mut count) = (0.0, 0usize);
        for chunk in tokens.chunks_exact(CHUNK) {
            self.engine.reset();
            let (first, scored) = chunk.split_at(CHUNK / 2);
            let mut score = |position: usize, row: &[f32]| {
                if let Some(&next) = chunk.get(position + 1) {
                    sum -= log_softmax(row)[next as usize];
                    count += 1;
                }
            };
            self.engine.feed(first, Wanted::Last, &mut |_, _| ()).expect("the first half");
            self.engine.feed(scored, Wanted::All, &mut score).expect("the second half");
        }
        assert_eq!(Some((tokens.len() / CHUNK) as u64), self.expected["chunks"].as_u64(), "chunks");
        (sum / count as f64).exp()
    }

    /// The greedy continuation of the expected prompt, as many tokens as are expected.
    fn continuation(&mut self) -> Vec<u32> {
        let prompt = self.tokenizer.encode(self.expected["prompt"].as_str().expect("a prompt"), Specials::Parse).expect("ids");
        assert_eq!(prompt, ids(&self.expected["prompt_ids"]), "ids of the prompt");
        let wanted = ids(&self.expected["greedy_ids"]).len();
        self.engine.reset();
        let mut made: Vec<u32> = Vec::new();
        while made.len() < wanted {
            let next = made.last().map_or(prompt.clone(), |&last| vec![last]);
            self.engine.feed(&next, Wanted::Last, &mut |_, row| made.push(argmax(row))).expect("a token");
        }
        made
    }
}

/// Perplexity within `tolerance` (relative) of `expected[key]`, and the greedy continuation equal if there is one.
fn check(name: &str, activations: ActivationMode, key: &str, tolerance: f64) {
    let Some(shared) = shared::shared() else { return };
    let start = Instant::now();
    let mut trained = open(&shared, name, activations, None);
    if trained.expected["greedy_ids"].is_array() {
        assert_eq!(trained.continuation(), ids(&trained.expected["greedy_ids"]), "{name}: greedy continuation");
    }
    let expected = trained.expected[key].as_f64().expect("an expected perplexity");
    let have = trained.perplexity(&shared);
    let off = have / expected - 1.0;
    eprintln!(
        "{name:26} {activations:?}: perplexity {have:.4}, expected {expected:.4} ({:+.4}%), {:.1} s",
        off * 100.0,
        start.elapsed().as_secs_f64()
    );
    assert!(off.abs() <= tolerance, "{name}: perplexity {have} is {:.3}% off {expected}", off * 100.0);
}

#[test]
fn hybrid_mixture_in_bf16() {
    check("q35-moe-45m", ActivationMode::F32, "ppl_f32", 0.001);
}

#[test]
fn relu_dense_in_bf16() {
    check("relu-llama-19m", ActivationMode::F32, "ppl_f32", 0.001);
}

#[test]
fn bundled_model_in_q8_0() {
    check("pocket-moe-10m-q8_0.gguf", ActivationMode::Int8, "ppl_llama_cpp", 0.005);
}

/// What keys and values in 8 bits cost: the divergence from the same path with half precision, over the second halves of the first chunks.
#[test]
fn keys_and_values_in_q8_0() {
    let Some(shared) = shared::shared() else { return };
    for (name, limit) in [("q35-moe-45m", 0.002), ("relu-llama-19m", 0.002)] {
        let [exact, rough] = [KvType::F16, KvType::Q8_0].map(|kv| {
            let mut trained = open(&shared, name, ActivationMode::Int8, Some(kv));
            let text = std::fs::read_to_string(shared.join("text/heldout-60k.txt")).expect("the held-out text");
            let tokens = trained.tokenizer.encode(&text, Specials::Parse).expect("ids");
            let mut logits: Vec<Vec<f32>> = Vec::new();
            for chunk in tokens.chunks_exact(CHUNK).take(8) {
                trained.engine.reset();
                let (first, scored) = chunk.split_at(CHUNK / 2);
                trained.engine.feed(first, Wanted::Last, &mut |_, _| ()).expect("the first half");
                trained.engine.feed(scored, Wanted::All, &mut |_, row| logits.push(row.to_vec())).expect("the second half");
            }
            logits
        });
        let kls: Vec<f64> = exact.iter().zip(&rough).map(|(e, r)| kl(e, r)).collect();
        let worst = kls.iter().copied().fold(0.0, f64::max);
        let same = exact.iter().zip(&rough).filter(|(e, r)| argmax(e) == argmax(r)).count();
        eprintln!("{name:26} q8_0 keys and values: KL mean {:.6}, worst {worst:.4}, best token equal {same} of {}", mean(&kls), kls.len());
        assert!(mean(&kls) < limit, "{name}: mean KL {}", mean(&kls));
    }
}
