//! `forebay run`: one answer, or a conversation.

use super::generate::{Answer, Generator, Stop};
use super::interrupt::Interrupt;
use super::{Failure, Outcome, answer, answer_json, chat, engine, files, report, sampling, template, tokenize};
use crate::chat::{Message, Prompt};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::pack::Pack;
use crate::sampler::Sampler;
use crate::tokenizer::{MAX_TEXT_BYTES, Specials, Tokenizer};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

/// Answer a prompt, or chat when standard input and output are a terminal
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Pack
    file: PathBuf,
    /// Prompt; standard input if absent, a conversation at a terminal
    prompt: Option<String>,
    /// Most tokens of an answer [default: until the model ends it]
    #[arg(short = 'n', long = "predict", visible_alias = "max-tokens", value_name = "N", value_parser = engine::tokens)]
    most: Option<u32>,
    /// Tokens of prompt and answer together [default: 4096, or the model's own limit if that is less]
    #[arg(short, long = "ctx-size", value_name = "CTX", value_parser = engine::tokens)]
    context: Option<u32>,
    #[command(flatten)]
    engine: engine::Flags,
    #[command(flatten)]
    sampling: sampling::Flags,
    /// System message
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Let the model think before it answers, if its template has the choice
    #[arg(long, conflicts_with_all = ["no_think", "raw"])]
    think: bool,
    /// Do not let it
    #[arg(long, conflicts_with = "raw")]
    no_think: bool,
    /// Feed the prompt as it is, special tokens parsed, without the chat template
    #[arg(long)]
    raw: bool,
    /// Neither read first what the last session used most, nor leave a note of what this one used (PACK.warm)
    #[arg(long)]
    no_warm_start: bool,
    /// Print one JSON object at the end instead of the text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let interrupt = Interrupt::install();
    let manifest = Pack::open(&arguments.file)?.manifest;
    let prompt = chat_prompt(arguments, &manifest)?;
    let terminal = std::io::stdin().is_terminal();
    let conversation = arguments.prompt.is_none() && terminal && std::io::stdout().is_terminal();
    let text = match &arguments.prompt {
        Some(text) => Some(text.clone()),
        None if conversation && arguments.json => return Err(Failure::Usage("--json needs a prompt".into())),
        None if conversation => None,
        None if terminal => return Err(Failure::Usage("a prompt is needed when standard output is not a terminal".into())),
        None => Some(files::read_text(Path::new("-"), MAX_TEXT_BYTES as u64)?),
    };
    let tokenizer = tokenize::load(&arguments.file, &manifest)?;
    let params = arguments.sampling.params(&manifest.generation);
    let stops = manifest.generation.stop_tokens.clone();
    drop(manifest);
    let ids = text.as_deref().map(|text| first_ids(arguments, prompt.as_ref(), &tokenizer, text)).transpose()?;
    let mut engine = arguments.engine.open(&arguments.file, arguments.context, &interrupt.cancel)?;
    if !arguments.no_warm_start {
        engine.warm_start();
    }
    let sampler = Sampler::new(params);
    let mut generator = Generator { tokenizer: &tokenizer, sampler, stops: &stops, most: arguments.most, interrupt: &interrupt };
    let Some(ids) = ids else {
        let ended = chat::run(&mut engine, &mut generator, prompt.as_ref(), arguments.system.as_deref());
        if !arguments.no_warm_start {
            engine.save_warm();
        }
        return ended;
    };
    let outcome = one_answer(arguments, &mut engine, &mut generator, &ids)?;
    if !arguments.no_warm_start {
        engine.save_warm();
    }
    if arguments.json {
        answer_json(&report::object(&outcome, &engine, &params, arguments.engine.activations()))?;
    }
    eprintln!("{}", report::line(&outcome, &engine));
    match outcome.stop {
        Stop::Interrupted => Err(Error::Interrupted.into()),
        Stop::Context => {
            let context = engine.context();
            let text = format!("the answer fills the context of {context} tokens; a larger -c lets it go on");
            Err(Error::Request(text).into())
        }
        Stop::End | Stop::Length => Ok(()),
    }
}

fn one_answer(arguments: &Arguments, engine: &mut Engine, generator: &mut Generator<'_>, ids: &[u32]) -> Result<Answer> {
    if arguments.json {
        return generator.answer(engine, ids, &mut |_| Ok(()));
    }
    let mut ended = true;
    let outcome = generator.answer(engine, ids, &mut |piece| {
        ended = piece.ends_with('\n');
        answer(piece)
    })?;
    if !ended {
        answer("\n")?;
    }
    Ok(outcome)
}

/// The pack's template with what the flags say, unless there is none or it is not wanted.
fn chat_prompt(arguments: &Arguments, manifest: &forebay_format::Manifest) -> Outcome<Option<Prompt>> {
    let Some(source) = manifest.chat_template.as_deref().filter(|_| !arguments.raw) else {
        if arguments.system.is_some() || arguments.think || arguments.no_think {
            return Err(Failure::Usage("--system, --think and --no-think need a chat template, and the pack has none".into()));
        }
        if !arguments.raw {
            eprintln!("the pack has no chat template: the prompt is fed as it is");
        }
        return Ok(None);
    };
    let mut variables = template::special_texts(&manifest.generation);
    if arguments.think || arguments.no_think {
        variables.insert("enable_thinking".into(), arguments.think.into());
    }
    let prompt = Prompt::new(source, variables);
    if (arguments.think || arguments.no_think) && !prompt.can_switch_thinking() {
        return Err(Failure::Usage("the pack's chat template has no enable_thinking for --think and --no-think".into()));
    }
    Ok(Some(prompt))
}

/// Ids of a one-shot prompt.
fn first_ids(arguments: &Arguments, prompt: Option<&Prompt>, tokenizer: &Tokenizer, text: &str) -> Result<Vec<u32>> {
    let mut ids = match prompt {
        Some(prompt) => {
            let system = arguments.system.iter().map(|text| Message { role: "system", content: text.clone() });
            let user = Message { role: "user", content: text.to_string() };
            let messages: Vec<Message> = system.chain([user]).collect();
            prompt.render(&messages, tokenizer)?.ids()?
        }
        None => tokenizer.encode(text, Specials::Parse)?,
    };
    tokenize::put_bos(tokenizer, &mut ids);
    if ids.is_empty() {
        return Err(Error::Request("the prompt is empty".into()));
    }
    Ok(ids)
}
