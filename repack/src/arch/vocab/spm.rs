//! SentencePiece BPE as a `tokenizer.json` document.
//!
//! SentencePiece joins the adjacent pair whose joined text is the piece with the highest score, the leftmost of equals, and
//! stores no merges. A merge list says the same when it holds every split of every piece into two pieces, ranked by the
//! score of the joined piece. Splits of one piece have equal scores; the longer left part goes first, which is the leftmost
//! choice inside runs of one repeated character (there the single leftover is always at the end). Characters that are no
//! piece become byte tokens.

use super::{Kind, Meta, Vocabulary, malformed};
use crate::error::Result;
use crate::source::GgufValue;
use serde_json::{Value, json};

/// Longest piece that is split in search of merges, in bytes: the work grows with the square of the length.
const MAX_PIECE_BYTES: usize = 1024;
/// U+2581, which stands for a space inside pieces.
const SPACE: &str = "▁";

pub(super) fn document(meta: &Meta<'_>, vocabulary: &Vocabulary<'_>) -> Result<Value> {
    let prefix = meta.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let merges = merges(meta, vocabulary)?;
    let unknown = unknown(meta, vocabulary)?;
    let byte_fallback = vocabulary.kinds.contains(&Kind::Byte);
    let mut normalizers = Vec::new();
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.push(json!({"type": "Prepend", "prepend": SPACE}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    normalizers.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE}));
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added_tokens(),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": byte_fallback,
            "ignore_merges": false,
            "vocab": vocabulary.as_json(),
            "merges": merges,
        },
    }))
}

/// Text of the unknown token: the one of that kind, or `tokenizer.ggml.unknown_token_id`.
fn unknown<'v>(meta: &Meta<'_>, vocabulary: &'v Vocabulary<'_>) -> Result<Option<&'v str>> {
    let id = match vocabulary.kinds.iter().position(|&kind| kind == Kind::Unknown) {
        Some(id) => Some(id),
        None => meta.id("tokenizer.ggml.unknown_token_id", vocabulary)?.map(|id| id as usize),
    };
    Ok(id.and_then(|id| vocabulary.texts.get(id)).map(|text| &**text))
}

/// Every way to make a piece of two pieces, in the order in which SentencePiece would prefer them.
fn merges(meta: &Meta<'_>, vocabulary: &Vocabulary<'_>) -> Result<Vec<Value>> {
    let scores = meta.array("tokenizer.ggml.scores")?.ok_or_else(|| malformed("tokenizer.ggml.scores is missing"))?;
    if scores.len() < vocabulary.texts.len() {
        return Err(malformed(format!("{} scores for {} tokens", scores.len(), vocabulary.texts.len())));
    }
    let joinable = |id: usize| matches!(vocabulary.kinds.get(id), Some(Kind::Normal | Kind::UserDefined | Kind::Unused));
    let mut found: Vec<(f64, usize, usize)> = Vec::new(); // score, id, bytes of the left part
    for (id, (text, score)) in vocabulary.texts.iter().zip(scores).enumerate() {
        if !joinable(id) {
            continue;
        }
        let score = match score {
            GgufValue::Float(score) if !score.is_nan() => *score,
            GgufValue::Int(score) => *score as f64,
            GgufValue::Uint(score) => *score as f64,
            _ => return Err(malformed(format!("score {id} is not a number"))),
        };
        if text.len() > MAX_PIECE_BYTES {
            return Err(malformed(format!("token {id} is {} bytes long; at most {MAX_PIECE_BYTES} are accepted", text.len())));
        }
        for (at, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(at);
            let part = |text: &str| vocabulary.ids.get(text).is_some_and(|&id| joinable(id as usize));
            if part(left) && part(right) {
                found.push((score, id, at));
            }
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(b.2.cmp(&a.2)));
    let pair = |&(_, id, at): &(f64, usize, usize)| {
        let (left, right) = vocabulary.texts.get(id)?.split_at(at);
        Some(json!([left, right]))
    };
    Ok(found.iter().filter_map(pair).collect())
}
