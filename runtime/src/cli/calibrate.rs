//! `forebay calibrate`: how high the sketch must score a neuron for its group to be read, learned from a text with our own forward pass.

use super::interrupt::Interrupt;
use super::progress::Progress;
use super::{Failure, Outcome, answer, answer_json, engine, files, tokenize};
use crate::calibration::{Calibration, file, measure};
use crate::error::Error;
use crate::pack::Pack;
use crate::tokenizer::{MAX_TEXT_BYTES, Specials};
use serde_json::json;
use std::path::PathBuf;

/// Learn from a text which neurons --sparsity predicted has to read, measure what that costs, and keep it beside the pack
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Pack with neuron groups
    file: PathBuf,
    /// Text
    #[arg(short = 'f', long = "file", value_name = "TEXT")]
    text: PathBuf,
    /// Tokens of a chunk
    #[arg(short, long = "ctx-size", value_name = "CTX", default_value = "256", value_parser = engine::tokens)]
    context: u32,
    /// Chunks, spread over the text: thresholds are learned from the first half, and measured with the second
    #[arg(long, value_name = "N", default_value = "16", value_parser = engine::tokens)]
    chunks: u32,
    #[command(flatten)]
    engine: engine::Flags,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let interrupt = Interrupt::install();
    let exact = arguments.engine.exactly();
    let exact = exact.ok_or_else(|| Failure::Usage("calibrate needs to know which neurons fire; leave --sparsity out".into()))?;
    let pack = Pack::open(&arguments.file)?;
    let tokenizer = tokenize::load(&arguments.file, &pack.manifest)?;
    let ids = tokenizer.encode(&files::read_text(&arguments.text, MAX_TEXT_BYTES as u64)?, Specials::Plain)?;
    let (id, bos) = (pack.superblock.pack_id, tokenizer.bos());
    drop((pack, tokenizer));
    let context = arguments.context as usize;
    let all: Vec<&[u32]> = ids.chunks_exact(context).collect();
    if all.is_empty() || context < 4 {
        let text = format!("{}: {} tokens do not fill a chunk of {context} (at least 4)", arguments.text.display(), ids.len());
        return Err(Error::Request(text).into());
    }
    let wanted = all.len().min(arguments.chunks as usize);
    let spread = (0..wanted).filter_map(|i| all.get(i * all.len() / wanted));
    let chunks: Vec<Vec<u32>> = spread.map(|chunk| bos.into_iter().chain(chunk.iter().copied()).take(context).collect()).collect();
    let mut engine = exact.open(&arguments.file, Some(arguments.context), &interrupt.cancel)?;
    interrupt.prompt();
    let mut progress = Progress::of("calibrating", measure::work(&chunks));
    let mut done = 0;
    let calibration = measure::calibrate(&mut engine, &chunks, &mut |more| {
        done += more;
        progress.show(done);
        if interrupt.stopped() { Err(Error::Interrupted) } else { Ok(()) }
    })?;
    progress.finish();
    let path = file::path(&arguments.file);
    let io = |error| Error::Io { file: path.clone(), what: "writing the calibration".into(), error };
    file::write(&path, &id, &calibration).map_err(io)?;
    if arguments.json {
        answer_json(&json!({"file": path, "default": calibration.choose(None), "calibration": calibration}))?;
    } else {
        answer(&table(&calibration))?;
    }
    eprintln!("wrote {}", path.display());
    Ok(())
}

/// Markdown: a row for each recall, the default marked.
fn table(c: &Calibration) -> String {
    let grouped: Vec<f64> = c.layers.iter().filter(|l| !l.thresholds.is_empty()).map(|l| l.active).collect();
    let active = grouped.iter().sum::<f64>() / grouped.len().max(1) as f64;
    let mut text = format!(
        "Learned from {} tokens, measured with {}; {:.1}% of the neurons fire, {:.0}% of a token's groups had one that did for the token before too.\nA token that finds nothing in the window reads:\n\n\
         | recall | groups wanted | MB/token | KL | perplexity |\n|---:|---:|---:|---:|---:|\n\
         | exact (triggers in memory) | {:.1}% | {:.2} | 0 | |\n",
        c.tokens,
        c.scored,
        active * 100.0,
        c.firing.again * 100.0,
        c.firing.groups * 100.0,
        c.firing.bytes as f64 / 1e6
    );
    for (i, row) in c.table.iter().enumerate() {
        let mark = if i == c.choose(None) { " (default)" } else { "" };
        text += &format!(
            "| {:.1}%{mark} | {:.1}% | {:.2} | {:.5} | {:+.2}% |\n",
            row.recall * 100.0,
            row.read * 100.0,
            row.bytes as f64 / 1e6,
            row.kl,
            row.perplexity_change * 100.0
        );
    }
    text
}
