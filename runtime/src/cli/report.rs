//! What a run was like: one line for people, one object for programs.

use super::engine::peak_memory;
use super::generate::Answer;
use crate::budget::MemoryPlan;
use crate::engine::Engine;
use crate::kv::KvType;
use crate::memory::show_bytes;
use crate::sampler::Params;
use crate::store::IoStats;
use forebay_format::Manifest;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// What whoever reads a number about a made-up pack must know, by key of the settings: `synthetic`, `alias`. Empty for packs of real weights.
pub(super) fn made_up(manifest: &Manifest) -> Map<String, Value> {
    let notes = &manifest.provenance.notes;
    ["synthetic", "alias"].iter().filter_map(|&key| Some((key.to_string(), notes.get(key)?.as_str().into()))).collect()
}

/// The same as a line.
pub(super) fn made_up_line(manifest: &Manifest) -> Option<String> {
    let notes = &manifest.provenance.notes;
    let what = notes.get("synthetic")?;
    let places = notes.get("alias").map(|n| format!("; {n} experts share a place on disk, so the file is smaller than the model"));
    Some(format!("made-up pack ({what}){}: speed only, the text means nothing", places.unwrap_or_default()))
}

/// What is not exact about a result, as a line; `None` if nothing is.
pub(super) fn lossy(engine: &Engine) -> Option<String> {
    let cut = Some(engine.activation_threshold()).filter(|&t| t > 0.0);
    let cut = cut.map(|t| format!("products below {t} times their root mean square count as zero (forebay ppl measures what that costs)"));
    let both = predicted(engine).into_iter().chain(cut).collect::<Vec<_>>().join("; ");
    Some(both).filter(|text| !text.is_empty())
}

/// Why every neuron is read though the pack has groups; `None` if the triggers fit or somebody asked for it.
pub(super) fn without_triggers(plan: &MemoryPlan) -> Option<String> {
    let mib = plan.triggers_floor? >> 20;
    Some(format!(
        "the rows that tell which neurons fire do not fit: every neuron is read (--sparsity off; the same result). --ram {mib}M is enough for --sparsity exact; predicted reads fewer here, not exactly"
    ))
}

fn predicted(engine: &Engine) -> Option<String> {
    Some(match engine.prediction()?.row {
        None => "predicted neurons, not calibrated (forebay calibrate measures what that costs)".into(),
        Some(row) => format!(
            "predicted neurons at recall {:.1}%: KL {:.5}, perplexity {:+.2}% when calibrated",
            row.recall * 100.0,
            row.kl,
            row.perplexity_change * 100.0
        ),
    })
}

/// The same for programs, by key of the settings; empty if everything is exact.
pub(super) fn sparsity(engine: &Engine) -> Map<String, Value> {
    let mut map = Map::new();
    if engine.activation_threshold() > 0.0 {
        map.insert("activation_threshold".into(), json!(engine.activation_threshold()));
    }
    let Some(prediction) = engine.prediction() else { return map };
    map.insert("sparsity".into(), json!("predicted"));
    if let Some(row) = prediction.row {
        map.extend([("recall".to_string(), json!(row.recall)), ("kl".to_string(), json!(row.kl))]);
        map.insert("perplexity_change".into(), json!(row.perplexity_change));
    }
    map
}

/// `prompt N tok X tok/s · M tok Y tok/s · Z MB read/token · window hit H% · peak RAM P of LIMIT`.
pub(super) fn line(answer: &Answer, engine: &Engine) -> String {
    let decode = Decode::new(answer);
    let mut parts = vec![
        format!("prompt {} tok {:.1} tok/s", answer.prompt_tokens, rate(answer.prompt_tokens, answer.prompt_time)),
        format!("{} tok {:.2} tok/s", answer.tokens.len(), rate(answer.decoded, answer.decode_time)),
        format!("{:.1} MB read/token", decode.bytes_per_token() / 1e6),
    ];
    if let Some(rate) = decode.hit_rate() {
        parts.push(format!("window hit {:.0}%", rate * 100.0));
    }
    parts.extend(lossy_kv(engine));
    parts.extend(lossy(engine));
    let limit = show_bytes(engine.plan().limit);
    parts.push(peak_memory().map_or(format!("RAM limit {limit}"), |peak| format!("peak RAM {} of {limit}", show_bytes(peak))));
    parts.join(" · ")
}

/// What a result line says of keys and values whose type was chosen at a loss.
pub(super) fn lossy_kv(engine: &Engine) -> Option<String> {
    (engine.kv_type() == KvType::Q8_0).then(|| "keys and values in q8_0".into())
}

/// The object of `run --json`; its keys are documented in the README.
pub(super) fn object(answer: &Answer, engine: &Engine, params: &Params, activations: &str) -> Value {
    let decode = Decode::new(answer);
    let mut object = json!({
        "text": answer.text,
        "tokens": answer.tokens,
        "stop": answer.stop.name(),
        "prompt": {
            "tokens": answer.prompt_tokens,
            "seconds": answer.prompt_time.as_secs_f64(),
            "tokens_per_second": rate(answer.prompt_tokens, answer.prompt_time),
        },
        "decode": {
            "tokens": answer.decoded,
            "seconds": answer.decode_time.as_secs_f64(),
            "tokens_per_second": rate(answer.decoded, answer.decode_time),
            "bytes_read": decode.bytes,
            "bytes_read_per_token": decode.bytes_per_token(),
            "hits": decode.hits,
            "misses": decode.misses,
            "hit_rate": decode.hit_rate(),
            "guesses": decode.guesses,
            "guesses_used": decode.guesses_used,
            "stall_seconds": decode.stall.as_secs_f64(),
        },
        "memory": memory(engine),
        "settings": {
            "context": engine.context(),
            "threads": engine.threads(),
            "io": engine.stats().backend,
            "kernels": engine.kernels().name(),
            "activations": activations,
            "kv_type": engine.kv_type().name(),
            "temperature": params.temperature,
            "top_k": params.top_k,
            "top_p": params.top_p,
            "min_p": params.min_p,
            "seed": params.seed,
        },
    });
    if let Some(settings) = object.get_mut("settings").and_then(Value::as_object_mut) {
        settings.extend(made_up(engine.manifest()));
        settings.extend(sparsity(engine));
    }
    object
}

/// Where the memory went; every number in bytes, except the slots and experts of the window.
pub(super) fn memory(engine: &Engine) -> Value {
    let mut memory = budget(engine.plan());
    memory["peak"] = json!(peak_memory());
    memory
}

/// The same before anything runs: `peak` is null.
pub(super) fn budget(plan: &MemoryPlan) -> Value {
    let read_ahead = plan.slot_bytes.saturating_mul(u64::from(plan.staging));
    let parts = [
        plan.triggers,
        plan.group_window(),
        read_ahead,
        plan.overhead,
        plan.trunk,
        plan.ring(),
        plan.rows(),
        plan.kv,
        plan.state,
        plan.scratch,
        plan.tokenizer,
        plan.margin,
    ];
    let window = plan.slot_bytes.saturating_mul(u64::from(plan.slots));
    json!({
        "limit": plan.limit,
        "planned": parts.iter().fold(window, |sum, part| sum.saturating_add(*part)),
        "peak": null,
        "overhead": plan.overhead,
        "trunk": plan.trunk,
        "ring": plan.ring(),
        "embedding_rows": plan.rows(),
        "streamed": plan.streamed_bytes,
        "streamed_layers": plan.streamed.len(),
        "kv": plan.kv,
        "state": plan.state,
        "scratch": plan.scratch,
        "tokenizer": plan.tokenizer,
        "margin": plan.margin,
        "window": window,
        "read_ahead": read_ahead,
        "slot_bytes": plan.slot_bytes,
        "triggers": plan.triggers,
        "sketch": plan.sketch,
        "neuron_window": plan.group_window(),
        "group_slot_bytes": plan.group_slot_bytes,
        "group_slots": plan.group_slots,
        "groups": plan.groups,
        "slots": plan.slots,
        "experts": plan.experts,
        "floor": plan.floor,
    })
}

/// Differences of the counters over the decoded tokens.
struct Decode {
    tokens: usize,
    bytes: u64,
    hits: u64,
    misses: u64,
    guesses: u64,
    guesses_used: u64,
    stall: Duration,
}

impl Decode {
    fn new(answer: &Answer) -> Self {
        let (before, after) = &answer.decode;
        let over = |counter: fn(&IoStats) -> u64| counter(after).saturating_sub(counter(before));
        Decode {
            tokens: answer.decoded,
            bytes: over(|stats| stats.bytes),
            hits: over(|stats| stats.hits),
            misses: over(|stats| stats.misses),
            guesses: over(|stats| stats.guesses),
            guesses_used: over(|stats| stats.guesses_used),
            stall: after.stall.saturating_sub(before.stall),
        }
    }

    fn bytes_per_token(&self) -> f64 {
        if self.tokens == 0 { 0.0 } else { self.bytes as f64 / self.tokens as f64 }
    }

    /// Share of experts found in the window; `None` if none was asked for.
    fn hit_rate(&self) -> Option<f64> {
        let all = self.hits + self.misses;
        (all > 0).then(|| self.hits as f64 / all as f64)
    }
}

/// Tokens a second; 0 for no time.
pub(super) fn rate(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}
