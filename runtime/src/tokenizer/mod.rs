//! Text to ids and back, from the `tokenizer.json` document in a pack's manifest.
//!
//! The document is untrusted: [`document`] checks what the `tokenizers` crate takes for granted, and every call into the
//! crate runs behind [`guard`], which turns a panic into an error.

mod decode;
mod document;
mod guard;
mod guarded;

pub use decode::StreamDecoder;
pub use guarded::Guard;

use crate::error::{Error, Result};
use decode::Pieces;
use forebay_format::layout::manifest;
use std::sync::{Mutex, MutexGuard};

/// Largest document accepted, in bytes.
pub const MAX_DOCUMENT_BYTES: usize = 256 << 20;
/// Longest text encoded in one call, in bytes: an encoding takes some hundred bytes for each of its tokens.
pub const MAX_TEXT_BYTES: usize = 64 << 20;

/// What strings that look like special tokens mean in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// They are those tokens.
    Parse,
    /// They are text like any other.
    Plain,
}

/// A loaded tokenizer.
pub struct Tokenizer {
    inner: Mutex<tokenizers::Tokenizer>,
    pieces: Pieces,
    specials: Vec<document::Added>,
    bos: Option<u32>,
}

impl Tokenizer {
    /// Loads the manifest's tokenizer for a model of `vocab` ids.
    ///
    /// # Errors
    /// [`Error::Text`] for a document that contradicts itself or the model, [`Error::Unsupported`] for one that needs more
    /// than this version has.
    pub fn new(source: &manifest::Tokenizer, vocab: u32) -> Result<Self> {
        let checked = document::check(&source.json, vocab)?;
        let mut inner = guard::call("loading the tokenizer", || tokenizers::Tokenizer::from_bytes(source.json.as_bytes()))?;
        // A training set-up's truncation or padding would cut or lengthen prompts.
        guard::call("loading the tokenizer", || inner.with_truncation(None).map(|t| t.with_padding(None)).map(|_| ()))?;
        for added in &checked.added {
            if inner.token_to_id(&added.content) != Some(added.id) {
                let text = added.content.escape_debug();
                return Err(Error::Text(format!("tokenizer: the added token '{text}' cannot have the id {}", added.id)));
            }
        }
        if source.bos.is_some_and(|bos| bos >= vocab) {
            return Err(Error::Text("tokenizer: the beginning-of-sequence token is outside the vocabulary".into()));
        }
        let pieces = Pieces::new(&source.json)?;
        let specials = checked.added.into_iter().filter(|added| added.special).collect();
        Ok(Tokenizer { inner: Mutex::new(inner), pieces, specials, bos: source.bos })
    }

    /// Token in front of every sequence, if the model wants one. [`Tokenizer::encode`] does not add it.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Ids of a text.
    ///
    /// # Errors
    /// [`Error::Text`] when the text is longer than [`MAX_TEXT_BYTES`] or the tokenizer fails on it.
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(Error::Text(format!("a text of {} bytes; at most {MAX_TEXT_BYTES} are encoded at once", text.len())));
        }
        let mut inner = self.lock();
        inner.set_encode_special_tokens(specials == Specials::Plain);
        let encoding = guard::call("encoding a text", || inner.encode_fast(text, false))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of ids. Bytes that are not UTF-8 become U+FFFD; ids outside the vocabulary become nothing.
    pub fn decode(&self, ids: &[u32], skip_specials: bool) -> String {
        let mut stream = self.stream(skip_specials);
        let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
        text.push_str(&stream.finish());
        text
    }

    /// A decoder for one answer, id by id.
    pub fn stream(&self, skip_specials: bool) -> StreamDecoder<'_> {
        StreamDecoder::new(self, skip_specials)
    }

    /// Whether the id is a special token (one that no plain text encodes to).
    pub fn is_special(&self, id: u32) -> bool {
        self.specials.iter().any(|added| added.id == id)
    }

    /// The token's text as the vocabulary has it.
    fn token(&self, id: u32) -> Option<String> {
        let inner = self.lock();
        // `id_to_token` of the crate ignores the normalised form that decoding needs.
        inner.get_added_vocabulary().simple_id_to_token(id).or_else(|| tokenizers::Model::id_to_token(inner.get_model(), id))
    }

    fn lock(&self) -> MutexGuard<'_, tokenizers::Tokenizer> {
        // A panic inside the crate cannot leave the tokenizer half changed: encoding only reads it (its cache is its own).
        self.inner.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests;
