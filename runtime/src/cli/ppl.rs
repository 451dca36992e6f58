//! `forebay ppl`: perplexity by llama-perplexity's protocol, so that numbers can be compared.
//!
//! The text is cut into chunks of `c` tokens, each read from an empty context (its first token replaced by the BOS, if
//! the model wants one). In each chunk the tokens at `c/2 + 1 ..` are scored: `c - c/2 - 1` of them.
//!
//! With `--kl` a second engine computes the same tokens on the exact path, and the scored distributions are compared.

use super::interrupt::Interrupt;
use super::progress::Progress;
use super::{Outcome, answer, answer_json, engine, files, report, tokenize};
use crate::calibration::measure;
use crate::engine::{Engine, Wanted};
use crate::error::{Error, Result};
use crate::pack::Pack;
use crate::tokenizer::{MAX_TEXT_BYTES, Specials};
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Measure the perplexity of a text: chunks of -c tokens, the second half of each scored
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Pack
    file: PathBuf,
    /// Text
    #[arg(short = 'f', long = "file", value_name = "TEXT")]
    text: PathBuf,
    /// Tokens of a chunk
    #[arg(short, long = "ctx-size", value_name = "CTX", default_value = "512", value_parser = engine::tokens)]
    context: u32,
    /// Only the first N chunks
    #[arg(long, value_name = "N", value_parser = engine::tokens)]
    chunks: Option<u32>,
    /// Also the mean KL divergence from the exact path (--activations f32), for which a second engine gets half of the RAM limit
    #[arg(long)]
    kl: bool,
    #[command(flatten)]
    engine: engine::Flags,
    /// Print one JSON object instead of a line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let interrupt = Interrupt::install();
    let manifest = Pack::open(&arguments.file)?.manifest;
    let tokenizer = tokenize::load(&arguments.file, &manifest)?;
    let text = files::read_text(&arguments.text, MAX_TEXT_BYTES as u64)?;
    let ids = tokenizer.encode(&text, Specials::Plain)?;
    let bos = tokenizer.bos();
    // The engine's memory plan begins where the tokenizer's ends.
    drop((manifest, tokenizer, text));
    let context = arguments.context as usize;
    if context < 4 {
        return Err(super::Failure::Usage("-c needs at least 4 tokens".into()));
    }
    let all = ids.len() / context;
    if all == 0 {
        return Err(Error::Request(format!("{}: {} tokens do not fill a chunk of {context}", arguments.text.display(), ids.len())).into());
    }
    let chunks = arguments.chunks.map_or(all, |n| all.min(n as usize));
    let (mut engine, mut exact) = if arguments.kl {
        let [engine, exact] = arguments.engine.open_with_exact(&arguments.file, arguments.context, &interrupt.cancel)?;
        (engine, Some(Exact { engine: exact, logits: Vec::new(), divergence: 0.0 }))
    } else {
        (arguments.engine.open(&arguments.file, Some(arguments.context), &interrupt.cancel)?, None)
    };
    interrupt.prompt();
    let start = Instant::now();
    let mut score = Score::default();
    let threshold = engine.activation_threshold();
    let (mut uncut, mut cost, mut compared) = (measure::Exact::default(), 0.0, 0);
    let mut progress = Progress::new(chunks * context);
    for (i, chunk) in ids.chunks_exact(context).take(chunks).enumerate() {
        if interrupt.stopped() {
            return Err(Error::Interrupted.into());
        }
        let mut chunk = chunk.to_vec();
        if let (Some(bos), Some(first)) = (bos, chunk.first_mut()) {
            *first = bos;
        }
        add(&mut engine, exact.as_mut(), &chunk, &mut score)?;
        if threshold > 0.0 {
            engine.set_activation_threshold(0.0);
            let rows = uncut.feed(&mut engine, &chunk)?;
            engine.set_activation_threshold(threshold);
            cost += uncut.compare(&mut engine, &chunk, rows)?.0;
            compared += rows;
        }
        progress.finish();
        eprintln!("[{}/{chunks}] {:.4}", i + 1, score.perplexity());
        progress.show((i + 1) * context);
    }
    progress.finish();
    let (ppl, error) = (score.perplexity(), score.error());
    let kl = exact.as_ref().map(|exact| exact.divergence / score.count as f64);
    let seconds = start.elapsed().as_secs_f64();
    let cut = (compared > 0).then(|| cost / compared as f64);
    if arguments.json {
        let mut object = json!({
            "ppl": ppl,
            "error": error,
            "kl_divergence": kl,
            "tokens": ids.len(),
            "scored": score.count,
            "chunks": chunks,
            "context": context,
            "seconds": seconds,
            "tokens_per_second": (chunks * context) as f64 / seconds,
            "activations": arguments.engine.activations(),
            "kv_type": engine.kv_type().name(),
            "memory": report::memory(&engine),
        });
        if let Some(object) = object.as_object_mut() {
            object.extend(report::sparsity(&engine));
            object.extend(cut.map(|kl| ("kl".to_string(), json!(kl))));
        }
        answer_json(&object)?;
    } else {
        let cut = cut.map(|kl| format!("KL {kl:.5} over {compared} tokens against threshold 0"));
        let lossy: Vec<String> = report::lossy_kv(&engine).into_iter().chain(report::lossy(&engine)).chain(cut).collect();
        let lossy = if lossy.is_empty() { String::new() } else { format!(" ({})", lossy.join("; ")) };
        let kl = kl.map(|kl| format!("mean KL divergence from f32 activations = {kl:.6}\n")).unwrap_or_default();
        answer(&format!("PPL = {ppl:.4} +/- {error:.5}{lossy}\n{kl}"))?;
    }
    Ok(())
}

/// Tokens whose logits on the exact path are kept at a time.
const PIECE: usize = 16;

/// The exact path beside the one that is scored.
struct Exact {
    engine: Engine,
    /// Of the tokens of one piece.
    logits: Vec<f32>,
    /// Sum over the scored tokens.
    divergence: f64,
}

/// Scores the second half of a chunk. The last token is only predicted, so it is not fed.
fn add(engine: &mut Engine, mut exact: Option<&mut Exact>, chunk: &[u32], score: &mut Score) -> Result<()> {
    let (unscored, rest) = chunk.split_at(chunk.len() / 2);
    let (_, targets) = rest.split_at(1.min(rest.len()));
    let (scored, _) = rest.split_at(rest.len().saturating_sub(1));
    engine.reset();
    engine.feed(unscored, Wanted::Last, &mut |_, _| {})?;
    let Some(exact) = &mut exact else {
        let mut targets = targets.iter();
        return engine.feed(scored, Wanted::All, &mut |_, logits| targets.next().into_iter().for_each(|&target| score.add(logits, target)));
    };
    exact.engine.reset();
    exact.engine.feed(unscored, Wanted::Last, &mut |_, _| {})?;
    for (piece, targets) in scored.chunks(PIECE).zip(targets.chunks(PIECE)) {
        exact.logits.clear();
        exact.engine.feed(piece, Wanted::All, &mut |_, logits| exact.logits.extend_from_slice(logits))?;
        let mut rows = exact.logits.chunks_exact(exact.logits.len() / piece.len()).zip(targets);
        engine.feed(piece, Wanted::All, &mut |_, logits| {
            if let Some((truth, &target)) = rows.next() {
                score.add(logits, target);
                exact.divergence += divergence(truth, logits);
            }
        })?;
    }
    Ok(())
}

/// `sum of p ln(p / q)`, where `p` and `q` are the softmaxes of these logits.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let log_total = |x: &[f32]| {
        let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        f64::from(most) + x.iter().map(|&v| f64::from(v - most).exp()).sum::<f64>().ln()
    };
    let (total_p, total_q) = (log_total(p), log_total(q));
    let terms = p.iter().zip(q).map(|(&p, &q)| {
        let (p, q) = (f64::from(p) - total_p, f64::from(q) - total_q);
        p.exp() * (p - q)
    });
    terms.sum()
}

/// Sums of negative log likelihoods.
#[derive(Default)]
struct Score {
    sum: f64,
    squares: f64,
    count: u64,
}

impl Score {
    fn add(&mut self, logits: &[f32], target: u32) {
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
        let logit = logits.get(target as usize).copied().unwrap_or(f32::NEG_INFINITY);
        let nll = total.ln() - f64::from(logit - most);
        self.sum += nll;
        self.squares += nll * nll;
        self.count += 1;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count as f64
    }

    fn perplexity(&self) -> f64 {
        self.mean().exp()
    }

    /// Standard error of the perplexity.
    fn error(&self) -> f64 {
        let variance = self.squares / self.count as f64 - self.mean() * self.mean();
        if variance > 0.0 && self.count > 1 { (variance / (self.count - 1) as f64).sqrt() * self.perplexity() } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::{Score, divergence};

    #[test]
    fn divergence_by_hand() {
        // p = (1/2, 1/2), q = (1/4, 3/4): ln 2 / 2 + ln(2/3) / 2; logits are shifted at will.
        let kl = divergence(&[5.0, 5.0], &[0.25_f32.ln() - 1.0, 0.75_f32.ln() - 1.0]);
        assert!((kl - 0.5 * (4.0f64 / 3.0).ln()).abs() < 1e-7, "{kl}");
        assert_eq!(divergence(&[1.0, -2.0, 3.0], &[1.0, -2.0, 3.0]), 0.0);
    }

    #[test]
    fn a_uniform_distribution_has_the_perplexity_of_its_size() {
        let mut score = Score::default();
        (0..10).for_each(|target| score.add(&[3.0; 10], target));
        assert!((score.perplexity() - 10.0).abs() < 1e-9 && score.error() < 1e-6, "{} {}", score.perplexity(), score.error());
    }

    #[test]
    fn the_error_is_that_of_the_mean() {
        // Two equally likely outcomes with nll ln 2 and ln 8: mean 2 ln 2, standard deviation ln 2.
        let mut score = Score::default();
        for _ in 0..50 {
            score.add(&[0.5_f32.ln(), 0.125_f32.ln(), 0.375_f32.ln()], 0);
            score.add(&[0.5_f32.ln(), 0.125_f32.ln(), 0.375_f32.ln()], 1);
        }
        assert!((score.perplexity() - 4.0).abs() < 1e-6);
        assert!((score.error() - 4.0 * 2_f64.ln() / 99_f64.sqrt()).abs() < 1e-6, "{}", score.error());
    }
}
