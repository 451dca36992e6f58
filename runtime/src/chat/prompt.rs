//! From messages to ids.

use super::sandbox;
use crate::error::Result;
use crate::tokenizer::{Guard, Tokenizer};
use serde_json::{Map, Value, json};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user`, `assistant`, ...
    pub role: &'static str,
    /// Its text.
    pub content: String,
}

/// A model's chat template with what it is rendered with besides the messages.
#[derive(Clone, Debug)]
pub struct Prompt {
    template: String,
    variables: Map<String, Value>,
}

/// A conversation as the model gets it, ready for the assistant's answer.
pub struct Rendered<'a> {
    guard: Guard<'a>,
    marked: String,
}

impl Prompt {
    /// A template and its variables (`bos_token`, `enable_thinking`, ...); `messages` is added by [`Prompt::render`].
    pub fn new(template: &str, variables: Map<String, Value>) -> Self {
        Prompt { template: template.to_string(), variables }
    }

    /// Whether the template reads `enable_thinking`.
    pub fn can_switch_thinking(&self) -> bool {
        self.template.contains("enable_thinking")
    }

    /// Renders a conversation in a child process ([`sandbox::render`]). Strings in the messages that look like special
    /// tokens stay text.
    ///
    /// # Errors
    /// [`crate::Error::Text`] when the template fails.
    pub fn render<'a>(&self, messages: &[Message], tokenizer: &'a Tokenizer) -> Result<Rendered<'a>> {
        let contains = |mark: char| self.template.contains(mark) || messages.iter().any(|message| message.content.contains(mark));
        let mut guard = Guard::new(tokenizer, contains)?;
        let messages: Vec<Value> =
            messages.iter().map(|message| json!({"role": message.role, "content": guard.protect(&message.content)})).collect();
        let mut variables = self.variables.clone();
        variables.insert("messages".into(), messages.into());
        variables.insert("tools".into(), Value::Null);
        variables.insert("add_generation_prompt".into(), true.into());
        let marked = sandbox::render(&self.template, &variables)?;
        Ok(Rendered { guard, marked })
    }
}

impl Rendered<'_> {
    /// The text as a person would read it.
    pub fn text(&self) -> String {
        self.guard.plain(&self.marked)
    }

    /// Its ids.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn ids(&self) -> Result<Vec<u32>> {
        self.guard.encode(&self.marked)
    }

    /// Ids of what follows `before`, if the text begins with that.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn ids_after(&self, before: &str) -> Result<Option<Vec<u32>>> {
        match self.guard.strip_prefix(&self.marked, before) {
            Some(rest) => self.guard.encode(rest).map(Some),
            None => Ok(None),
        }
    }
}
