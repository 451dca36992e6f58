//! Conversations to prompts by the model's own template.
//!
//! A template is code from an untrusted file. [`render`] bounds its size, its recursion and its *fuel*: instructions and
//! bytes of strings, as minijinja counts them from 3.1 on. What it does not count (lists that double) only a process of its
//! own can bound, in memory and time: [`sandbox`], which is what the command line uses.

mod dumps;
mod prompt;
mod python;
pub mod sandbox;
mod strftime;

pub use prompt::{Message, Prompt, Rendered};

use crate::error::{Error, Result};
use minijinja::value::{Serde, Value as JinjaValue};
use minijinja::{Environment, ErrorKind, UndefinedBehavior};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

/// Largest template accepted, in bytes.
pub const MAX_TEMPLATE_BYTES: usize = 1 << 20;
/// Largest rendered prompt, in bytes.
pub const MAX_OUTPUT_BYTES: usize = 64 << 20;
/// Fuel of a rendering: 1 for an instruction or for 64 bytes of a string. A conversation of 5000 messages or of 4 MB takes
/// about a tenth of it.
const FUEL: u64 = 4_000_000;
/// Nested macro calls and includes.
const MAX_RECURSION: usize = 200;

/// Renders a template with `variables` (`messages`, `tools`, `add_generation_prompt`, `bos_token`, ...), as
/// `transformers` does: blocks trimmed, no escaping, `tojson` as Python's `json.dumps`, `raise_exception`, `strftime_now`.
///
/// Memory is not wholly bounded here, see [`sandbox::render`].
///
/// # Errors
/// [`Error::Text`] with the template's line.
pub fn render(template: &str, variables: &Map<String, Value>) -> Result<String> {
    if template.len() > MAX_TEMPLATE_BYTES {
        let bytes = template.len();
        return Err(Error::Text(format!("chat template: {bytes} bytes; at most {MAX_TEMPLATE_BYTES} are accepted")));
    }
    let template = without_generation_tags(template);
    let environment = environment()?;
    let template = environment.template_from_str(&template).map_err(|e| failed(&e))?;
    let mut output = Bounded { text: Vec::new(), full: false };
    let rendered = template.render_captured_to(JinjaValue::from(Serde(variables)), &mut output).map(|_| ());
    if output.full {
        return Err(Error::Text(format!("chat template: the prompt is longer than {MAX_OUTPUT_BYTES} bytes")));
    }
    rendered.map_err(|e| failed(&e))?;
    String::from_utf8(output.text).map_err(|_| Error::Text("chat template: the prompt is not UTF-8".into()))
}

fn environment() -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|e| failed(&e))?);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_unknown_method_callback(python::method);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_RECURSION);
    environment.add_filter("tojson", dumps::tojson);
    environment.add_function("raise_exception", |text: String| -> std::result::Result<JinjaValue, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, text))
    });
    environment.add_function("strftime_now", |format: String| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        strftime::utc(now, &format)
    });
    Ok(environment)
}

/// `{% generation %}` marks what the assistant wrote, for training; to a prompt it means nothing. It becomes a condition
/// that holds, so that the white space around it is treated as before.
fn without_generation_tags(template: &str) -> Cow<'_, str> {
    if !template.contains("generation") {
        return Cow::Borrowed(template);
    }
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end);
        let inner = tag.get(2..).unwrap_or_default();
        match inner.trim_matches(|c: char| c.is_ascii_whitespace() || c == '-' || c == '+') {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn failed(error: &minijinja::Error) -> Error {
    let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
    let text = match error.kind() {
        ErrorKind::OutOfFuel => "it needs too many instructions or too much text".to_string(),
        _ => error.detail().map_or_else(|| error.kind().to_string(), String::from),
    };
    Error::Text(format!("chat template: {text}{line}"))
}

/// Collects the output up to [`MAX_OUTPUT_BYTES`].
struct Bounded {
    text: Vec<u8>,
    full: bool,
}

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.text.len().saturating_add(bytes.len()) > MAX_OUTPUT_BYTES {
            self.full = true;
            return Err(std::io::Error::other("the prompt is too long"));
        }
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
