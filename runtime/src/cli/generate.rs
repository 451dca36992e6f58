//! An answer, token by token.

use super::interrupt::Interrupt;
use super::progress;
use crate::engine::{Engine, Wanted};
use crate::error::{Error, Result};
use crate::sampler::Sampler;
use crate::store::IoStats;
use crate::tokenizer::Tokenizer;
use std::time::{Duration, Instant};

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The model ended it.
    End,
    /// `-n` tokens.
    Length,
    /// The context is full.
    Context,
    /// Ctrl-C.
    Interrupted,
}

impl Stop {
    /// Name in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Stop::End => "end",
            Stop::Length => "length",
            Stop::Context => "context",
            Stop::Interrupted => "interrupted",
        }
    }
}

/// What an answer took.
pub(super) struct Answer {
    /// Its tokens, the end token included if there was one.
    pub(super) tokens: Vec<u32>,
    /// Its text.
    pub(super) text: String,
    /// Why it ended.
    pub(super) stop: Stop,
    /// Tokens of the prompt that were fed (not those that were there already).
    pub(super) prompt_tokens: usize,
    /// Time for those.
    pub(super) prompt_time: Duration,
    /// Tokens fed after the prompt: what `decode_time` and the counters of `decode` are about.
    pub(super) decoded: usize,
    /// Time for those.
    pub(super) decode_time: Duration,
    /// Counters when decoding began and when it ended.
    pub(super) decode: (IoStats, IoStats),
}

/// What an answer needs besides the prompt.
pub(super) struct Generator<'a> {
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) sampler: Sampler,
    /// Tokens that end an answer.
    pub(super) stops: &'a [u32],
    /// Most tokens of an answer.
    pub(super) most: Option<u32>,
    pub(super) interrupt: &'a Interrupt,
}

impl Generator<'_> {
    /// Feeds `prompt` and then its own tokens; `show` gets the text as it comes. The last token is not fed.
    ///
    /// # Errors
    /// Whatever feeding or `show` gives. Ctrl-C while the prompt is read is [`Error::Interrupted`], afterwards a way to stop.
    pub(super) fn answer(&mut self, engine: &mut Engine, prompt: &[u32], show: &mut dyn FnMut(&str) -> Result<()>) -> Result<Answer> {
        let start = Instant::now();
        let room = engine.context().saturating_sub(engine.position());
        if prompt.len() > room {
            return Err(Error::Request(format!(
                "the prompt has {} tokens, but {room} of the context of {} are free; use a larger -c (the model's limit is {})",
                prompt.len(),
                engine.context(),
                engine.manifest().spec.context
            )));
        }
        let mut logits = progress::feed(engine, prompt, self.interrupt)?;
        let prompt_time = start.elapsed();
        let (start, before) = (Instant::now(), engine.stats());
        self.interrupt.answer();
        let mut stream = self.tokenizer.stream(true);
        let (mut tokens, mut text, mut decoded) = (Vec::new(), String::new(), 0);
        let stop = loop {
            if self.most.is_some_and(|most| tokens.len() >= most as usize) {
                break Stop::Length;
            }
            if self.interrupt.stopped() {
                break Stop::Interrupted;
            }
            let token = self.sampler.sample(&logits);
            let token = token.ok_or_else(|| Error::Request("the model gives no likely next token; the pack may be broken".into()))?;
            tokens.push(token);
            if self.stops.contains(&token) {
                break Stop::End;
            }
            let piece = stream.push(token);
            if !piece.is_empty() {
                text.push_str(&piece);
                show(&piece)?;
            }
            if engine.position() >= engine.context() {
                break Stop::Context;
            }
            if self.most.is_some_and(|most| tokens.len() >= most as usize) {
                break Stop::Length;
            }
            engine.feed(&[token], Wanted::Last, &mut |_, row| {
                logits.clear();
                logits.extend_from_slice(row);
            })?;
            decoded += 1;
        };
        let rest = stream.finish();
        if !rest.is_empty() {
            text.push_str(&rest);
            show(&rest)?;
        }
        let decode = (before, engine.stats());
        let decode_time = start.elapsed();
        Ok(Answer { tokens, text, stop, prompt_tokens: prompt.len(), prompt_time, decoded, decode_time, decode })
    }
}
