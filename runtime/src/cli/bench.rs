//! `forebay bench`: speed, and where the time goes. What a phase is, is said in [`crate::bench`].

use super::bench_report::{Report, Run};
use super::interrupt::Interrupt;
use super::progress::Progress;
use super::{Failure, Outcome, answer, answer_json, engine, files, tokenize};
use crate::bench::measure::{Feed, Watch};
use crate::bench::trace::{Header, Recorder};
use crate::bench::{self, Bounds, Phase, tokens, turns};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::pack::Pack;
use crate::store::Schedule;
use crate::tokenizer::{MAX_TEXT_BYTES, Specials};
use clap::ValueEnum;
use std::path::PathBuf;

/// Measure speed: a prompt and single tokens, each from an empty window, and single tokens after a warm-up
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Pack
    file: PathBuf,
    /// Tokens of the prompt; 0 for none
    #[arg(short, long = "n-prompt", value_name = "N", default_value_t = 512)]
    prompt: u32,
    /// Tokens decoded one by one after the warm-up; 0 for none
    #[arg(short = 'n', long = "n-gen", value_name = "N", default_value_t = 128)]
    decode: u32,
    /// Tokens decoded before those, from an empty window; with 0 the others are the cold ones
    #[arg(long, value_name = "N", default_value_t = 32)]
    warmup: u32,
    /// Also measure the tokens after sequences of so many tokens, whose keys and values are made up
    #[arg(long, value_name = "D1,D2", value_delimiter = ',', value_parser = engine::tokens)]
    depth: Vec<u32>,
    /// Runs; medians are reported
    #[arg(short, long = "repetitions", value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Seed of the random tokens
    #[arg(long, value_name = "N", default_value_t = 1, conflicts_with = "tokens_from")]
    seed: u64,
    /// Take the first tokens of this text instead of random ones: routing of trained models depends on it
    #[arg(long, value_name = "TEXT")]
    tokens_from: Option<PathBuf>,
    /// Write the experts that the tokens of the first run choose, for cargo x cache-sim
    #[arg(long, value_name = "OUT")]
    trace: Option<PathBuf>,
    /// How reading and computing share time: what the product does, or a simpler way to compare with
    #[arg(long, value_enum, default_value_t = How::Ahead)]
    schedule: How,
    /// Do not check the sums of what is read: what checking costs
    #[arg(long)]
    no_sums: bool,
    /// Decode the tokens of -n in all of these ways in turn, a few tokens each, and measure nothing else: what each step brings, in the same minute
    #[arg(long, conflicts_with_all = ["schedule", "no_sums", "trace", "depth"])]
    in_turns: bool,
    /// Keep neuron groups in the window for N tokens after the one that used them, at most; 0: each token reads all it needs
    #[arg(long, value_name = "N")]
    window_tokens: Option<u32>,
    /// Read the two halves of a neuron group by requests of their own, as if they were not bundled
    #[arg(long)]
    unbundled: bool,
    #[command(flatten)]
    engine: engine::Flags,
    /// A table, or one JSON object
    #[arg(short, long, value_enum, default_value_t = Format::Md)]
    output: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum How {
    /// Misses are read one by one, then computed
    Turns,
    /// All misses of a layer are queued at once, then computed
    Queued,
    /// Hits are computed meanwhile, misses as they come
    Arrival,
    /// Misses come slice by slice
    Slices,
    /// The next layers are read on a guess
    Ahead,
}

impl From<How> for Schedule {
    fn from(how: How) -> Schedule {
        match how {
            How::Turns => Schedule::Turns,
            How::Queued => Schedule::Queued,
            How::Arrival => Schedule::Arrival,
            How::Slices => Schedule::Slices,
            How::Ahead => Schedule::Ahead,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Md,
    Json,
}

pub(super) fn run(arguments: &Arguments) -> Outcome {
    let interrupt = Interrupt::install();
    let work = Work::new(arguments)?;
    let trace = arguments.trace.as_deref().map(|path| Recorder::create(path, &work.header)).transpose()?;
    let mut report = Report::new(arguments.engine.activations(), &work.source);
    let context = u32::try_from(work.context()).unwrap_or(u32::MAX);
    let mut engine = arguments.engine.open(&arguments.file, Some(context), &interrupt.cancel)?;
    engine.set_schedule(arguments.schedule.into());
    engine.check_sums(!arguments.no_sums);
    engine.limit_window(arguments.window_tokens.unwrap_or(u32::MAX));
    engine.read_apart(arguments.unbundled);
    for number in 1..=arguments.runs {
        let title = format!("run {number} of {}", arguments.runs);
        let mut bench = Bench { engine: &mut engine, title, interrupt: &interrupt, trace: trace.as_ref().filter(|_| number == 1) };
        report.add(if arguments.in_turns { bench.in_turns(&work)? } else { bench.run(&work)? });
    }
    trace.as_ref().map_or(Ok(()), Recorder::finish)?;
    report.engine(&engine);
    match arguments.output {
        Format::Md => answer(&report.table())?,
        Format::Json => answer_json(&report.object())?,
    }
    Ok(())
}

/// The tokens of every run.
struct Work {
    prompt: Vec<u32>,
    cold: Vec<u32>,
    warm: Vec<u32>,
    depths: Vec<u32>,
    /// Where they come from, for reports.
    source: String,
    header: Header,
}

impl Work {
    fn new(arguments: &Arguments) -> Outcome<Work> {
        let pack = Pack::open(&arguments.file)?;
        let spec = &pack.manifest.spec;
        let (prompt, decode) = (arguments.prompt as usize, arguments.decode as usize);
        // Without tokens to decode there is nothing to warm up for.
        let warmup = if decode == 0 { 0 } else { arguments.warmup as usize };
        let longest = prompt.max(warmup.saturating_add(decode));
        if longest == 0 {
            return Err(Failure::Usage("-p 0 and -n 0 leave nothing to measure".into()));
        }
        let depths = arguments.depth.clone();
        if decode == 0 && !depths.is_empty() {
            return Err(Failure::Usage("--depth measures the tokens of -n, and -n is 0".into()));
        }
        if decode == 0 && arguments.in_turns {
            return Err(Failure::Usage("--in-turns decodes the tokens of -n, and -n is 0".into()));
        }
        let deepest = depths.iter().max().map_or(0, |&d| decode.saturating_add(d as usize));
        if longest.max(deepest) > spec.context as usize {
            let longest = longest.max(deepest);
            let text = format!("{longest} tokens do not fit the model's context of {}; use a smaller -p, -n or --depth", spec.context);
            return Err(Error::Request(text).into());
        }
        let (ids, source) = match &arguments.tokens_from {
            None => (tokens::random(arguments.seed, spec.vocab, longest), format!("random, seed {}", arguments.seed)),
            Some(path) => {
                let tokenizer = tokenize::load(&arguments.file, &pack.manifest)?;
                let ids = tokenizer.encode(&files::read_text(path, MAX_TEXT_BYTES as u64)?, Specials::Plain)?;
                let name = path.file_name().unwrap_or(path.as_os_str());
                (ids, format!("text of {}", name.to_string_lossy()))
            }
        };
        let part = |range: std::ops::Range<usize>| {
            ids.get(range)
                .map(<[u32]>::to_vec)
                .ok_or_else(|| Error::Request(format!("{source}: {} tokens are less than {longest}", ids.len())))
        };
        let (prompt, mut cold, mut warm) = (part(0..prompt)?, part(0..warmup)?, part(warmup..warmup + decode)?);
        if cold.is_empty() {
            std::mem::swap(&mut cold, &mut warm);
        }
        let header = Header::new(&pack.superblock.pack_id, spec, &source);
        Ok(Work { prompt, cold, warm, depths, source, header })
    }

    /// Longest sequence.
    fn context(&self) -> usize {
        let deepest = self.depths.iter().max().map_or(0, |&d| d as usize + self.single().len());
        self.prompt.len().max(self.cold.len() + self.warm.len()).max(deepest)
    }

    /// The tokens of `-n`.
    fn single(&self) -> &[u32] {
        if self.warm.is_empty() { &self.cold } else { &self.warm }
    }
}

/// A run, with progress and Ctrl-C.
struct Bench<'a> {
    engine: &'a mut Engine,
    title: String,
    interrupt: &'a Interrupt,
    trace: Option<&'a Recorder>,
}

impl Bench<'_> {
    fn run(&mut self, work: &Work) -> Result<Run> {
        let mut run = Run::default();
        if !work.prompt.is_empty() {
            self.cold()?;
            run.prompt = Some(self.with_bounds("prompt", &[], &work.prompt, Feed::Prompt)?);
        }
        if work.warm.is_empty() {
            if !work.cold.is_empty() {
                self.cold()?;
                run.cold = Some(self.with_bounds("decoding", &[], &work.cold, Feed::Decode)?);
            }
        } else {
            self.cold()?;
            run.cold = Some(self.phase("warm-up", &work.cold, Feed::Decode)?);
            run.warm = Some(self.with_bounds("decoding", &work.cold, &work.warm, Feed::Decode)?);
        }
        for &depth in &work.depths {
            self.engine.reset();
            self.engine.pretend_depth(depth as usize)?;
            run.deep.push((depth, self.phase(&format!("decoding at {depth}"), work.single(), Feed::Decode)?));
        }
        self.engine.reset();
        Ok(run)
    }

    /// Single tokens in all ways, after a warm-up.
    fn in_turns(&mut self, work: &Work) -> Result<Run> {
        self.cold()?;
        if !work.warm.is_empty() {
            self.phase("warm-up", &work.cold, Feed::Decode)?;
        }
        let tokens = work.single();
        let ways = self.watched("decoding in turns", tokens.len(), |engine, watch| turns::in_turns(engine, tokens, watch))?;
        self.engine.reset();
        Ok(Run { ways, ..Run::default() })
    }

    /// Empties sequence and window.
    fn cold(&mut self) -> Result<()> {
        self.engine.reset();
        self.engine.clear_window()
    }

    /// A phase after `context`, and then its two halves alone.
    fn with_bounds(&mut self, name: &str, context: &[u32], tokens: &[u32], feed: Feed) -> Result<Phase> {
        // Whatever was kept before is of no interest.
        drop(self.engine.log_reads());
        let mut phase = self.phase(name, tokens, feed)?;
        let log = self.engine.log_reads();
        if self.engine.plan().groups > 0 {
            // Reads of neuron groups are not logged; how long they take is counted while they are made.
            return Ok(phase);
        }
        let name = format!("{name}, computing only");
        let compute =
            self.watched(&name, context.len() + tokens.len(), |engine, watch| bench::compute_only(engine, context, tokens, feed, watch))?;
        let (io, io_bytes) = bench::io_only(self.engine, &log)?;
        phase.bounds = Some(Bounds { compute, io, io_bytes });
        Ok(phase)
    }

    /// A phase, traced if that is wanted.
    fn phase(&mut self, name: &str, tokens: &[u32], feed: Feed) -> Result<Phase> {
        if let Some(trace) = self.trace {
            trace.prompt(feed == Feed::Prompt);
            self.engine.set_router_sink(Some(trace.sink()));
        }
        let measured = self.watched(name, tokens.len(), |engine, watch| feed.run(engine, tokens, watch));
        self.engine.set_router_sink(None);
        measured
    }

    /// Shows how far `work` on `tokens` tokens is, and ends it at Ctrl-C.
    fn watched<T>(&mut self, name: &str, tokens: usize, work: impl FnOnce(&mut Engine, Watch<'_>) -> Result<T>) -> Result<T> {
        self.interrupt.prompt();
        let mut progress = Progress::of(&format!("{}, {name}", self.title), tokens);
        let mut done = 0;
        let done = work(self.engine, &mut |more| {
            done += more;
            progress.show(done);
            if self.interrupt.stopped() { Err(Error::Interrupted) } else { Ok(()) }
        });
        self.interrupt.idle();
        done
    }
}
