//! Text from users next to special tokens from a template, without the one being taken for the other.
//!
//! Before a template sees them, strings of a conversation get a *mark* (a noncharacter that nothing else contains) inside
//! whatever looks like a special token. The template works as usual on everything else. In the rendered prompt only
//! unbroken special tokens are the template's own; the rest is encoded as plain text, without the marks.

use super::{Specials, Tokenizer};
use crate::error::{Error, Result};
use std::collections::HashMap;

/// Code points that Unicode reserves for a program's own use inside a text.
const MARKS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// Breaks special tokens in untrusted strings and encodes the prompt they end up in.
pub struct Guard<'a> {
    tokenizer: &'a Tokenizer,
    /// Special tokens by their first character, longest first.
    by_first: HashMap<char, Vec<usize>>,
    mark: char,
    used: bool,
}

impl<'a> Guard<'a> {
    /// A guard whose mark is in none of `texts`.
    ///
    /// # Errors
    /// [`Error::Text`] when the texts use up every noncharacter there is.
    pub fn new<'t>(tokenizer: &'a Tokenizer, texts: impl Fn(char) -> bool + 't) -> Result<Self> {
        let mark = MARKS.into_iter().find(|&mark| !texts(mark));
        let mark = mark.ok_or_else(|| Error::Text("the conversation contains every noncharacter from U+FDD0 to U+FDEF".into()))?;
        let mut by_first: HashMap<char, Vec<usize>> = HashMap::new();
        for (i, special) in tokenizer.specials.iter().enumerate() {
            if let Some(first) = special.content.chars().next() {
                by_first.entry(first).or_default().push(i);
            }
        }
        for list in by_first.values_mut() {
            list.sort_by_key(|&i| std::cmp::Reverse(tokenizer.specials.get(i).map_or(0, |special| special.content.len())));
        }
        Ok(Guard { tokenizer, by_first, mark, used: false })
    }

    /// The string with every special token in it broken, and with a beginning of one at its end broken too (another string
    /// may follow it). A token of one character cannot be broken.
    pub fn protect(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for (at, c) in text.char_indices() {
            out.push(c);
            let rest = text.get(at..).unwrap_or_default();
            let looks_like = |special: &str| special.starts_with(rest) || rest.starts_with(special);
            if self.candidates(c).any(|(_, special)| looks_like(special)) {
                out.push(self.mark);
                self.used = true;
            }
        }
        out
    }

    /// The rendered prompt as a person would read it.
    pub fn plain(&self, rendered: &str) -> String {
        if self.used { rendered.replace(self.mark, "") } else { rendered.to_string() }
    }

    /// What follows `before` in a rendered prompt that begins with it, marks aside.
    pub fn strip_prefix<'t>(&self, rendered: &'t str, before: &str) -> Option<&'t str> {
        let mut rest = rendered.chars();
        for expected in before.chars() {
            let found = rest.by_ref().find(|&c| !self.used || c != self.mark)?;
            if found != expected {
                return None;
            }
        }
        Some(rest.as_str())
    }

    /// Ids of a rendered prompt.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode(&self, rendered: &str) -> Result<Vec<u32>> {
        if !self.used {
            return self.tokenizer.encode(rendered, Specials::Parse);
        }
        let mut ids = Vec::new();
        let mut start = 0;
        let mut at = 0;
        while let Some(c) = rendered.get(at..).and_then(|rest| rest.chars().next()) {
            let rest = rendered.get(at..).unwrap_or_default();
            let Some((special, content)) = self.candidates(c).find(|(_, special)| rest.starts_with(special)) else {
                at += c.len_utf8();
                continue;
            };
            let special = self.tokenizer.specials.get(special);
            let mut before = rendered.get(start..at).unwrap_or_default();
            if special.is_some_and(|special| special.lstrip) {
                before = before.trim_end();
            }
            self.encode_plain(before, &mut ids)?;
            ids.extend(special.map(|special| special.id));
            at += content.len();
            if special.is_some_and(|special| special.rstrip) {
                let after = rendered.get(at..).unwrap_or_default();
                at += after.len() - after.trim_start().len();
            }
            start = at;
        }
        self.encode_plain(rendered.get(start..).unwrap_or_default(), &mut ids)?;
        Ok(ids)
    }

    fn encode_plain(&self, text: &str, ids: &mut Vec<u32>) -> Result<()> {
        let text = text.replace(self.mark, "");
        if !text.is_empty() {
            ids.extend(self.tokenizer.encode(&text, Specials::Plain)?);
        }
        Ok(())
    }

    fn candidates(&self, first: char) -> impl Iterator<Item = (usize, &'a str)> {
        let list = self.by_first.get(&first).map(Vec::as_slice).unwrap_or_default();
        let specials = &self.tokenizer.specials;
        list.iter().filter_map(|&i| Some((i, specials.get(i)?.content.as_str())))
    }
}
