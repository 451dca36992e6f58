//! From messages to ids.

use super::sandbox;
use crate::error::{Error, Result};
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

impl Prompt {
    /// A template and its variables (`bos_token`, `enable_thinking`, ...); `messages` is added by [`Prompt::encode`].
    pub fn new(template: &str, variables: Map<String, Value>) -> Self {
        Prompt { template: template.to_string(), variables }
    }

    /// Whether the template reads `enable_thinking`.
    pub fn can_switch_thinking(&self) -> bool {
        self.template.contains("enable_thinking")
    }

    /// Text and ids of a conversation, ready for the assistant's answer. Strings in the messages that look like special
    /// tokens stay text. Rendered in a child process ([`sandbox::render`]).
    ///
    /// # Errors
    /// [`Error::Text`] when the template fails.
    pub fn encode(&self, messages: &[Message], tokenizer: &Tokenizer) -> Result<(String, Vec<u32>)> {
        let contains = |mark: char| self.template.contains(mark) || messages.iter().any(|message| message.content.contains(mark));
        let mut guard = Guard::new(tokenizer, contains)?;
        let messages: Vec<Value> =
            messages.iter().map(|message| json!({"role": message.role, "content": guard.protect(&message.content)})).collect();
        let mut variables = self.variables.clone();
        variables.insert("messages".into(), messages.into());
        variables.insert("add_generation_prompt".into(), true.into());
        let rendered = sandbox::render(&self.template, &variables)?;
        let ids = guard.encode(&rendered)?;
        if ids.is_empty() {
            return Err(Error::Text("chat template: the prompt is empty".into()));
        }
        Ok((guard.plain(&rendered), ids))
    }
}
