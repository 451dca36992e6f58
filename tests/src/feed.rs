//! Feeding an engine and keeping every bit: what the law is held to.

use forebay::{Engine, Wanted};

/// `count` ids spread over a vocabulary, always the same.
pub fn spread(count: usize, vocab: u32) -> Vec<u32> {
    (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) % vocab).collect()
}

/// Bits of all logits: a prompt of so many tokens in one feed, then `decoded` more token by token.
///
/// # Panics
/// If a token cannot be fed.
pub fn bits(engine: &mut Engine, prompt: usize, decoded: usize) -> Vec<u32> {
    let tokens = spread(prompt + decoded, engine.manifest().spec.vocab);
    let (prompt, decoded) = tokens.split_at(prompt);
    let mut bits = Vec::new();
    let mut keep = |_: usize, row: &[f32]| bits.extend(row.iter().map(|x| x.to_bits()));
    engine.feed(prompt, Wanted::All, &mut keep).unwrap_or_else(|e| panic!("{e}"));
    for token in decoded {
        engine.feed(&[*token], Wanted::Last, &mut keep).unwrap_or_else(|e| panic!("{e}"));
    }
    bits
}
