//! Ids to text, one at a time, never splitting a character.

use super::{Tokenizer, guard};
use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

/// How a token's text becomes bytes of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pieces {
    /// Every character stands for a byte.
    ByteLevel,
    /// U+2581 stands for a space, `<0xNN>` for a byte; the first space of a text is not part of it if `strip`.
    SentencePiece {
        /// Drop the first space.
        strip: bool,
    },
    /// Anything else: the whole answer is decoded again and again by the crate, and what is new is given out.
    Whole,
}

impl Pieces {
    /// Reads the decoder of a checked document.
    pub(super) fn new(json: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Document {
            #[serde(default)]
            decoder: Value,
        }
        let document: Document = serde_json::from_str(json).map_err(|e| Error::Text(format!("tokenizer: {e}")))?;
        let decoder = document.decoder;
        let kind = |step: &Value| step.get("type").and_then(Value::as_str).map(String::from);
        let steps: Vec<&Value> = match kind(&decoder).as_deref() {
            Some("ByteLevel") => return Ok(Pieces::ByteLevel),
            Some("Sequence") => decoder.get("decoders").and_then(Value::as_array).into_iter().flatten().collect(),
            _ => return Ok(Pieces::Whole),
        };
        let replaces = |step: &Value| {
            let from = step.get("pattern").and_then(|p| p.get("String")).and_then(Value::as_str);
            from == Some("▁") && step.get("content").and_then(Value::as_str) == Some(" ")
        };
        let strips = |step: &Value| {
            let number = |key| step.get(key).and_then(Value::as_u64);
            step.get("content").and_then(Value::as_str) == Some(" ") && number("start") == Some(1) && number("stop") == Some(0)
        };
        let kinds: Vec<String> = steps.iter().map(|step| kind(step).unwrap_or_default()).collect();
        let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
        Ok(match (kinds.as_slice(), steps.as_slice()) {
            (["ByteLevel"], _) => Pieces::ByteLevel,
            (["Replace", "ByteFallback", "Fuse"], [replace, ..]) if replaces(replace) => Pieces::SentencePiece { strip: false },
            (["Replace", "ByteFallback", "Fuse", "Strip"], [replace, .., strip]) if replaces(replace) && strips(strip) => {
                Pieces::SentencePiece { strip: true }
            }
            _ => Pieces::Whole,
        })
    }
}

/// Decodes one answer. Holds back bytes of an unfinished character; bytes that no character can begin with become U+FFFD.
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    skip_specials: bool,
    /// Bytes not given out yet.
    pending: Vec<u8>,
    /// Nothing has been given out and the first space is to be dropped.
    at_start: bool,
    /// [`Pieces::Whole`]: ids of the current stretch, and how much of their text was given out.
    ids: Vec<u32>,
    given: usize,
}

impl<'a> StreamDecoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_specials: bool) -> Self {
        StreamDecoder { tokenizer, skip_specials, pending: Vec::new(), at_start: true, ids: Vec::new(), given: 0 }
    }

    /// Text that the next id completes; often empty.
    pub fn push(&mut self, id: u32) -> String {
        if self.skip_specials && self.tokenizer.is_special(id) {
            return String::new();
        }
        if self.tokenizer.pieces == Pieces::Whole {
            return self.push_whole(id);
        }
        let Some(token) = self.tokenizer.token(id) else {
            return String::new();
        };
        match self.tokenizer.pieces {
            Pieces::ByteLevel => byte_level(&token, &mut self.pending),
            _ => match byte_token(&token) {
                Some(byte) => self.pending.push(byte),
                None => self.pending.extend_from_slice(token.replace('▁', " ").as_bytes()),
            },
        }
        if self.at_start && !self.pending.is_empty() {
            self.at_start = false;
            if self.tokenizer.pieces == (Pieces::SentencePiece { strip: true }) && self.pending.first() == Some(&b' ') {
                self.pending.remove(0);
            }
        }
        take_complete(&mut self.pending)
    }

    /// What is left at the end of the answer: an unfinished character is U+FFFD.
    pub fn finish(&mut self) -> String {
        if self.tokenizer.pieces == Pieces::Whole {
            let text = self.whole();
            let rest = text.get(self.given..).unwrap_or_default().to_string();
            self.given = text.len();
            return rest;
        }
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }

    fn push_whole(&mut self, id: u32) -> String {
        self.ids.push(id);
        let text = self.whole();
        // An unfinished character shows as U+FFFD at the end: wait for the rest of it.
        let stable = text.trim_end_matches(char::REPLACEMENT_CHARACTER).len();
        let new = text.get(self.given..stable).unwrap_or_default().to_string();
        self.given = self.given.max(stable);
        new
    }

    fn whole(&self) -> String {
        let inner = self.tokenizer.lock();
        guard::call("decoding", || inner.decode(&self.ids, false)).unwrap_or_default()
    }
}

/// Removes and returns the complete characters at the front of `bytes`; what can never become UTF-8 is U+FFFD.
fn take_complete(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut rest = bytes.as_slice();
    loop {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                rest = &[];
                break;
            }
            Err(error) => {
                let (valid, after) = rest.split_at(error.valid_up_to());
                text.push_str(&String::from_utf8_lossy(valid));
                let Some(bad) = error.error_len() else {
                    rest = after;
                    break;
                };
                text.push(char::REPLACEMENT_CHARACTER);
                rest = after.get(bad..).unwrap_or_default();
            }
        }
    }
    let kept = rest.len();
    bytes.drain(..bytes.len() - kept);
    text
}

/// Byte of a `<0xNN>` token.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// Bytes of a byte-level token; a token with any other character in it stands for itself.
fn byte_level(token: &str, bytes: &mut Vec<u8>) {
    let before = bytes.len();
    for c in token.chars() {
        match byte_of(c) {
            Some(byte) => bytes.push(byte),
            None => {
                bytes.truncate(before);
                bytes.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

/// GPT-2's alphabet: printable Latin-1 bytes are themselves, the other 68 are U+0100 and up in ascending order.
fn byte_of(c: char) -> Option<u8> {
    let code = u32::from(c);
    let printable = |code: u32| matches!(code, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    match code {
        _ if printable(code) => u8::try_from(code).ok(),
        // 0x00-0x20, then 0x7f-0xa0, then 0xad.
        0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}
