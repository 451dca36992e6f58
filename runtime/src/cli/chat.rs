//! A conversation at a terminal.

use super::generate::{Generator, Stop};
use super::{Outcome, answer, report, tokenize};
use crate::chat::{Message, Prompt};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::tokenizer::Specials;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use std::path::PathBuf;
use std::time::Duration;

const HELP: &str = "\
/help    this text
/clear   forget the conversation
/bye     leave (also Ctrl-D)
\"\"\"      begin and end a message of several lines
Ctrl-C stops an answer; twice, or at the prompt, it leaves.";

/// What the engine has read so far.
#[derive(Default)]
struct Context {
    /// Ids fed.
    ids: Vec<u32>,
    /// Their text.
    text: String,
    /// Token that ended the last answer; chosen, but not fed.
    last: Option<u32>,
}

/// Between looks at what has been read while the user types: what is in flight lasts longer on most drives, and the processor stays cool.
const IDLE_PAUSE: Duration = Duration::from_millis(5);

/// A line of the user.
enum Input {
    Message(String),
    Clear,
    Help,
    Leave,
}

pub(super) fn run(engine: &mut Engine, generator: &mut Generator<'_>, prompt: Option<&Prompt>, system: Option<&str>) -> Outcome {
    let mut editor = DefaultEditor::new().map_err(terminal)?;
    let system: Vec<Message> = system.map(|text| Message { role: "system", content: text.to_string() }).into_iter().collect();
    let mut messages = system.clone();
    let mut context = Context::default();
    eprintln!("/help for help");
    loop {
        generator.interrupt.idle();
        let text = match read_meanwhile(&mut editor, engine)? {
            Input::Leave => return Ok(()),
            Input::Help => {
                eprintln!("{HELP}");
                continue;
            }
            Input::Clear => {
                messages = system.clone();
                forget(engine, &mut context);
                continue;
            }
            Input::Message(text) => text,
        };
        messages.push(Message { role: "user", content: text });
        match turn(engine, generator, prompt, &messages, &mut context) {
            Ok(Some(reply)) => messages.push(Message { role: "assistant", content: reply }),
            // Nothing was said: the question is forgotten too.
            Ok(None) => drop(messages.pop()),
            Err(error @ (Error::Request(_) | Error::Text(_))) => {
                eprintln!("{error}");
                messages.pop();
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// One answer. `None` if it was stopped before it began.
fn turn(
    engine: &mut Engine,
    generator: &mut Generator<'_>,
    prompt: Option<&Prompt>,
    messages: &[Message],
    context: &mut Context,
) -> Result<Option<String>> {
    let (new, text) = next_ids(engine, generator, prompt, messages, context)?;
    let outcome = match generator.answer(engine, &new, &mut answer) {
        Err(Error::Interrupted) => {
            // The sequence stopped inside a step; the next turn reads the conversation again.
            forget(engine, context);
            eprintln!("stopped");
            return Ok(None);
        }
        outcome => outcome?,
    };
    answer("\n")?;
    eprintln!("{}", report::line(&outcome, engine));
    if outcome.stop == Stop::Context {
        eprintln!("the context of {} tokens is full; /clear begins again, a larger -c holds more", engine.context());
    }
    let (fed, rest) = outcome.tokens.split_at(outcome.decoded.min(outcome.tokens.len()));
    context.ids.extend_from_slice(&new);
    context.ids.extend_from_slice(fed);
    context.text = text + &generator.tokenizer.decode(fed, false);
    context.last = rest.first().copied();
    Ok(Some(outcome.text))
}

fn forget(engine: &mut Engine, context: &mut Context) {
    engine.reset();
    *context = Context::default();
}

/// What to feed for the next answer, and the text that the engine has then read. Only what is new is fed, unless the template
/// now tells the past otherwise than it was read (some leave out what the model thought): then everything is read again.
fn next_ids(
    engine: &mut Engine,
    generator: &Generator<'_>,
    prompt: Option<&Prompt>,
    messages: &[Message],
    context: &mut Context,
) -> Result<(Vec<u32>, String)> {
    let tokenizer = generator.tokenizer;
    let Some(prompt) = prompt else {
        let text = messages.last().map_or("", |message| message.content.as_str());
        let mut ids: Vec<u32> = context.last.into_iter().collect();
        ids.extend(tokenizer.encode(text, Specials::Parse)?);
        if context.ids.is_empty() {
            tokenize::put_bos(tokenizer, &mut ids);
        }
        return Ok((ids, String::new()));
    };
    let rendered = prompt.render(messages, tokenizer)?;
    let mut ids = rendered.ids()?;
    tokenize::put_bos(tokenizer, &mut ids);
    let text = rendered.text();
    if !context.ids.is_empty() {
        if let Some(new) = ids.strip_prefix(context.ids.as_slice()).filter(|new| !new.is_empty()) {
            return Ok((new.to_vec(), text));
        }
        // The model may have cut its answer into other tokens than the tokenizer would.
        if let Some(new) = rendered.ids_after(&context.text)?.filter(|new| !new.is_empty()) {
            return Ok((new, text));
        }
        forget(engine, context);
    }
    Ok((ids, text))
}

/// The next message or command. While the user thinks and types, the engine reads what the last session used most.
fn read_meanwhile(editor: &mut DefaultEditor, engine: &mut Engine) -> Result<Input> {
    std::thread::scope(|scope| {
        let typing = scope.spawn(|| read(editor));
        while !typing.is_finished() && engine.idle()? {
            std::thread::sleep(IDLE_PAUSE);
        }
        typing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The next message or command.
fn read(editor: &mut DefaultEditor) -> Result<Input> {
    loop {
        let line = match editor.readline(">>> ") {
            Ok(line) => line,
            Err(ReadlineError::Eof) => return Ok(Input::Leave),
            Err(ReadlineError::Interrupted) => return Err(Error::Interrupted),
            Err(error) => return Err(terminal(error)),
        };
        match line.trim() {
            "" => continue,
            "/help" | "/?" => return Ok(Input::Help),
            "/clear" => return Ok(Input::Clear),
            "/bye" | "/exit" | "/quit" => return Ok(Input::Leave),
            command if command.starts_with('/') && !command.contains(char::is_whitespace) => {
                eprintln!("{command} is not a command; /help lists them");
                continue;
            }
            _ => {}
        }
        let text = match line.trim_start().strip_prefix("\"\"\"") {
            Some(first) => lines(editor, first)?,
            None => Some(line),
        };
        if let Some(text) = text {
            // The history is for this conversation only; failing to keep a line in it is no loss.
            let _ = editor.add_history_entry(&text);
            return Ok(Input::Message(text));
        }
    }
}

/// The rest of a message of several lines, up to the closing quotes; `None` if it is given up.
fn lines(editor: &mut DefaultEditor, first: &str) -> Result<Option<String>> {
    let mut text = first.to_string();
    loop {
        if let Some(whole) = text.trim_end().strip_suffix("\"\"\"") {
            return Ok(Some(whole.to_string()));
        }
        match editor.readline("... ") {
            Ok(line) => {
                text.push('\n');
                text.push_str(&line);
            }
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(None),
            Err(error) => return Err(terminal(error)),
        }
    }
}

fn terminal(error: ReadlineError) -> Error {
    let error = std::io::Error::other(error.to_string());
    Error::Io { file: PathBuf::from("terminal"), what: "reading a line".into(), error }
}
