//! The engine: a pack, the memory it runs in, and one sequence of tokens.

use crate::budget::{MemoryPlan, Needs, tokenizer_bytes};
use crate::calibration::tally::Tally;
use crate::calibration::{self, PLAIN_THRESHOLD, Row};
use crate::error::{Error, Result};
use crate::ffn::neurons::{Counts, NeuronScratch, Selection};
use crate::forward::{self, RouterSink};
use crate::io::IoBackend;
use crate::kernels::{ActivationMode, Kernels, Pool};
use crate::kv::KvType;
use crate::memory::RamLimit;
use crate::model::{self, FfnLayer, Model};
use crate::pack::Pack;
use crate::scratch::{Scratch, Sizes, Step};
use crate::state::Session;
use crate::store::{IoStats, ReadLog, Resident, Schedule, Store, warm};
use crate::threads::default_threads;
use forebay_format::{Kind, Manifest};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Rows of a prompt step if memory allows and nobody asks otherwise.
const DEFAULT_CHUNK: u32 = 512;
/// Longest prompt step that can be asked for.
const MAX_CHUNK: u32 = 8192;
/// Context if nobody asks for one (or the model's own, if that is shorter).
const DEFAULT_CONTEXT: u32 = 4096;
/// Part of the limit that a prompt step's scratch may take before shorter steps are preferred.
const SCRATCH_SHARE: u64 = 8;

/// Positions that [`Engine::pretend_depth`] makes up at a time.
const PRETEND_ROWS: usize = 256;

/// Which neurons of networks with neuron groups are read and computed. Nothing to packs without groups.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Sparsity {
    /// Those that fire: the triggers stay in memory and tell. The same bits as [`Sparsity::Off`].
    #[default]
    Exact,
    /// Those whose score by the sketch lies above the threshold of their layer: the one with this recall, or with the calibration's own choice. Not exact.
    Predicted {
        /// Share of the firing neurons to find.
        recall: Option<f64>,
    },
    /// All.
    Off,
}

impl Sparsity {
    fn resident(self) -> Resident {
        if self == Sparsity::Exact { Resident::Triggers } else { Resident::Nothing }
    }
}

/// How to open an engine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Limit on all memory together.
    pub ram: RamLimit,
    /// Tokens of the longest sequence; `None`: 4096, or the model's own context if shorter.
    pub context: Option<u32>,
    /// Compute threads; `None`: physical cores allowed to this process.
    pub threads: Option<usize>,
    /// How activations meet quantised weights.
    pub activations: ActivationMode,
    /// Type of keys and values; `None`: f16, or f32 with [`ActivationMode::F32`].
    pub kv: Option<KvType>,
    /// How the pack is read.
    pub io: IoBackend,
    /// Rows of a prompt step; `None`: up to 512, fewer if memory is tight. Changes speed, never results.
    pub chunk: Option<u32>,
    /// Which neurons are read and computed; `None`: [`Sparsity::Exact`] if the limit has room for the triggers, else [`Sparsity::Off`], which gives the same bits.
    pub sparsity: Option<Sparsity>,
    /// Products of gate and up below this many times their row's root mean square count as zero. Not exact, unless 0.
    pub activation_threshold: f32,
    /// Set it to stop between layers with [`Error::Interrupted`].
    pub cancel: Arc<AtomicBool>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            ram: RamLimit::Auto,
            context: None,
            threads: None,
            activations: ActivationMode::Int8,
            kv: None,
            io: IoBackend::Auto,
            chunk: None,
            sparsity: None,
            activation_threshold: 0.0,
            cancel: Arc::default(),
        }
    }
}

impl Options {
    /// Type of keys and values.
    pub fn kv_type(&self) -> KvType {
        self.kv.unwrap_or_else(|| KvType::of(self.activations))
    }

    /// Compute threads.
    pub fn thread_count(&self) -> usize {
        self.threads.unwrap_or_else(default_threads).max(1)
    }
}

/// Which positions of a [`Engine::feed`] to compute logits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The last token's: what the next token is chosen from.
    Last,
    /// Every token's.
    All,
}

/// A model in memory with one sequence.
pub struct Engine {
    store: Store,
    plan: MemoryPlan,
    model: Model,
    session: Session,
    scratch: Scratch,
    pool: Pool,
    kernels: Kernels,
    kv_type: KvType,
    context: usize,
    chunk: usize,
    cancel: Arc<AtomicBool>,
    router_sink: Option<RouterSink>,
    prediction: Option<Prediction>,
    cut: f32,
}

/// How neurons are predicted, for result lines.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// The row of the calibration that is used; `None` without a calibration.
    pub row: Option<Row>,
}

impl Engine {
    /// Opens a pack: plans all memory, allocates it, reads and verifies the trunk.
    ///
    /// # Errors
    /// [`Error::Budget`] if the limit is too low, with the smallest one that works; [`Error::Format`] and [`Error::Io`] if the pack cannot be
    /// read; [`Error::Request`] if the options do not fit the model.
    pub fn open(path: &Path, options: &Options) -> Result<Engine> {
        let pack = Pack::open(path)?;
        model::check(&pack.manifest).map_err(|error| Error::Format { file: path.to_owned(), error })?;
        let context = context(&pack.manifest, options.context)?;
        let (chunk, plan) = plan(&pack, context, options)?;
        Engine::with_plan(pack, plan, context, chunk, options)
    }

    /// As [`Engine::open`], with a plan of the caller's: one for this pack, context and prompt step (see [`needs`]), perhaps with fewer slots than memory
    /// allows. `options.ram` is not looked at.
    ///
    /// # Errors
    /// As for [`Engine::open`].
    pub fn with_plan(pack: Pack, plan: MemoryPlan, context: u32, chunk: u32, options: &Options) -> Result<Engine> {
        model::check(&pack.manifest).map_err(|error| Error::Format { file: pack.path.clone(), error })?;
        let without_triggers = plan.groups > 0 && plan.resident == Resident::Nothing;
        let sparsity = options.sparsity.unwrap_or(if without_triggers { Sparsity::Off } else { Sparsity::Exact });
        if without_triggers && sparsity == Sparsity::Exact {
            return Err(Error::Request("exact sparsity needs a plan with resident triggers".into()));
        }
        let mode = options.activations;
        let spec = pack.manifest.spec.clone();
        let session = Session::new(&spec, context as usize, options.kv_type());
        let pool = Pool::new(options.thread_count());
        let mut scratch = Scratch::new(&spec, &Sizes::new(&spec, chunk.max(1) as usize, context as usize, pool.threads()), mode);
        scratch.neurons = NeuronScratch::new(&pack.manifest, chunk.max(1) as usize);
        let mut store = Store::open(pack, &plan, options.io, &pool)?;
        let mut model = Model::load(&mut store, &pool)?;
        let (file, id, layers) = (&store.pack().path, &store.pack().superblock.pack_id, model.layers.len());
        let prediction = match sparsity {
            Sparsity::Predicted { recall } if plan.groups > 0 => {
                let known = calibration::file::read(&calibration::file::path(file), id, layers);
                let chosen = known.as_ref().map(|c| c.choose(recall));
                let thresholds = known.as_ref().map(|c| c.layers.as_slice());
                select(&mut model, sparsity, thresholds.zip(chosen));
                Some(Prediction { row: known.as_ref().zip(chosen).and_then(|(c, i)| c.table.get(i).copied()) })
            }
            sparsity => {
                select(&mut model, sparsity, None);
                None
            }
        };
        Ok(Engine {
            store,
            plan,
            model,
            session,
            scratch,
            pool,
            kernels: Kernels::detect(mode),
            kv_type: options.kv_type(),
            context: context as usize,
            chunk: chunk.max(1) as usize,
            cancel: Arc::clone(&options.cancel),
            router_sink: None,
            prediction,
            cut: options.activation_threshold,
        })
    }

    /// The pack's manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.store.pack().manifest
    }

    /// Where the memory goes.
    pub fn plan(&self) -> &MemoryPlan {
        &self.plan
    }

    /// Reads, hits and misses so far.
    pub fn stats(&self) -> IoStats {
        self.store.stats()
    }

    /// Takes over what the last session that called [`Engine::save_warm`] used most, if it left a file beside the pack (see [`crate::store::warm`]), and begins to read
    /// it in the background. A missing or unusable file is no error.
    pub fn warm_start(&mut self) {
        let (pack, keys) = (self.store.pack(), self.store.experts());
        if let Some(hot) = warm::read(&warm::path(&pack.path), &pack.superblock.pack_id, keys) {
            self.store.warm_up(&hot);
        }
    }

    /// Goes on with the warm start, without waiting; false when nothing is left to do. For when there is nothing else to do.
    ///
    /// # Errors
    /// The I/O backend's. (An expert that cannot be read is no error until it is wanted.)
    pub fn idle(&mut self) -> Result<bool> {
        self.store.idle(&self.pool)
    }

    /// Leaves a file beside the pack that tells the next session what to read first. Best effort: false if it cannot be written, or if all experts fit anyway
    /// and none was used.
    pub fn save_warm(&self) -> bool {
        let (pack, hot) = (self.store.pack(), self.store.hot());
        !hot.is_empty() && warm::write(&warm::path(&pack.path), &pack.superblock.pack_id, &hot).is_ok()
    }

    /// Keeps a log of the reads of experts from here on, and returns the one kept so far. For benchmarks.
    pub fn log_reads(&mut self) -> ReadLog {
        self.store.log_reads()
    }

    /// Reads the batches of `log` again without computing anything: time taken and bytes read. The window is empty afterwards.
    ///
    /// # Errors
    /// As for reads in [`Engine::feed`].
    pub fn replay_reads(&mut self, log: &ReadLog) -> Result<(Duration, u64)> {
        self.store.replay(log, &self.pool)
    }

    /// From here on every expert is said to be in the window, with other experts' weights where it is not: results are wrong, but the time is that of
    /// computing alone. `false` ends it.
    pub fn pretend_resident(&mut self, on: bool) {
        self.store.pretend_resident(on);
    }

    /// How reading and computing share time from here on. For benchmarks.
    pub fn set_schedule(&mut self, schedule: Schedule) {
        self.store.set_schedule(schedule);
    }

    /// The sequence is said to have `depth` tokens: their keys and values are made up, recurrent states stay as they are. What follows means nothing, but takes the
    /// time of a token at that depth. For benchmarks.
    ///
    /// # Errors
    /// [`Error::Request`] if the context holds fewer tokens, or the last step did not finish.
    pub fn pretend_depth(&mut self, depth: usize) -> Result<()> {
        if self.session.torn || depth > self.context {
            return Err(Error::Request(format!("a depth of {depth} tokens does not fit a context of {}", self.context)));
        }
        let (pool, kernels, cancel) = (&self.pool, &self.kernels, &*self.cancel);
        let spec = &self.store.pack().manifest.spec;
        for position in (0..depth).step_by(PRETEND_ROWS) {
            let rows = PRETEND_ROWS.min(depth - position);
            self.session.pretend(spec, &Step { pool, kernels, rows, position, cut: 0.0, cancel });
        }
        self.session.position = depth;
        Ok(())
    }

    /// Sums of what is read are checked (always, unless this was called) or not. For a benchmark that tells what checking costs.
    pub fn check_sums(&mut self, on: bool) {
        self.store.check_sums(on);
    }

    /// Empties the window and forgets what its policy has learned, so that the next step starts cold.
    ///
    /// # Errors
    /// Those of reads that were still on their way.
    pub fn clear_window(&mut self) -> Result<()> {
        self.store.clear_window(&self.pool)
    }

    /// Neurons that were active, and groups that were wanted, so far. All zero without neuron groups.
    pub fn neuron_counts(&self) -> Counts {
        self.scratch.neurons.counts
    }

    /// Bytes of all neuron groups on disk, and of what is left of them without their triggers.
    pub fn group_bytes(&self) -> [u64; 2] {
        let index = &self.store.pack().index;
        let groups = index.records().iter().filter(|r| r.id.kind == Kind::NeuronGroup);
        groups.fold([0, 0], |[whole, rest], r| {
            let triggers = index.layout(r).slices.first().copied().unwrap_or(0);
            [whole + r.length, rest + r.length.saturating_sub(triggers)]
        })
    }

    /// How neurons are predicted; `None` if they are not.
    pub fn prediction(&self) -> Option<Prediction> {
        self.prediction
    }

    /// Products of gate and up below this many times their row's root mean square count as zero; 0: all count.
    pub fn activation_threshold(&self) -> f32 {
        self.cut
    }

    /// Sets [`Engine::activation_threshold`] from here on.
    pub fn set_activation_threshold(&mut self, threshold: f32) {
        self.cut = threshold;
    }

    /// Counts scores by the sketch of neurons that fire, and of all, from here on. For an engine with exact sparsity.
    pub fn start_tally(&mut self) {
        self.scratch.neurons.tally = Some(Tally::new(self.model.layers.len()));
    }

    /// What was counted; ends counting.
    pub fn take_tally(&mut self) -> Option<Tally> {
        self.scratch.neurons.tally.take()
    }

    /// Predicts neurons from here on, with the thresholds of row `row` of a calibration; `None`: exact again. For an engine that was opened with exact sparsity, to
    /// measure what predictions cost.
    pub fn predict(&mut self, layers: &[calibration::Layer], row: Option<usize>) {
        let sparsity = if row.is_some() { Sparsity::Predicted { recall: None } } else { Sparsity::Exact };
        select(&mut self.model, sparsity, row.map(|row| (layers, row)));
    }

    /// Groups stay in the window for at most so many steps after their last use. For measurements.
    pub fn limit_window(&mut self, steps: u32) {
        self.store.limit_window(steps);
    }

    /// The two slices of a neuron group are read by requests of their own, as if they lay apart. For measurements.
    pub fn read_apart(&mut self, on: bool) {
        self.store.read_apart(on);
    }

    /// Steps since the neuron group that leaves next was used: the k of "the last k tokens".
    pub fn window_span(&self) -> u32 {
        self.store.window_span()
    }

    /// Longest sequence, in tokens.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Rows of a prompt step.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// Kernel set, for result lines.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// Type of keys and values, for result lines.
    pub fn kv_type(&self) -> KvType {
        self.kv_type
    }

    /// Compute threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Tokens fed since the start or the last reset; the position of the next one.
    pub fn position(&self) -> usize {
        self.session.position
    }

    /// Forgets the sequence. Experts stay in the window.
    pub fn reset(&mut self) {
        self.session.reset();
    }

    /// Calls `sink` for every routed layer and token from now on.
    pub fn set_router_sink(&mut self, sink: Option<RouterSink>) {
        self.router_sink = sink;
    }

    /// Appends `tokens` to the sequence; `sink` gets the position and the logits (`[vocab]`) of each token `wanted`, in order. With no
    /// tokens it does nothing.
    ///
    /// # Errors
    /// [`Error::Request`] for an id outside the vocabulary or more tokens than the context holds (nothing is fed then);
    /// [`Error::Interrupted`] after a cancel, and whatever a read may give: after those only [`Engine::reset`] helps.
    pub fn feed(&mut self, tokens: &[u32], wanted: Wanted, sink: &mut dyn FnMut(usize, &[f32])) -> Result<()> {
        self.check_request(tokens)?;
        let mut left = tokens;
        while !left.is_empty() {
            let (now, later) = left.split_at(left.len().min(self.chunk));
            left = later;
            let (pool, kernels, cancel) = (&self.pool, &self.kernels, &*self.cancel);
            let step = Step { pool, kernels, rows: now.len(), position: self.session.position, cut: self.cut, cancel };
            let (store, session, scratch) = (&mut self.store, &mut self.session, &mut self.scratch);
            forward::forward(&self.model, store, session, scratch, &step, now, &mut self.router_sink)?;
            let rows = match wanted {
                Wanted::All => 0..now.len(),
                Wanted::Last if left.is_empty() => now.len() - 1..now.len(),
                Wanted::Last => continue,
            };
            forward::logits(&self.model, store, scratch, &step, rows, &mut |row, logits| sink(step.position + row, logits));
        }
        Ok(())
    }

    fn check_request(&self, tokens: &[u32]) -> Result<()> {
        if self.session.torn {
            return Err(Error::Request("the last step did not finish; reset the sequence before feeding more".into()));
        }
        if let Some(id) = tokens.iter().find(|&&t| t as usize >= self.model.vocab) {
            return Err(Error::Request(format!("token {id} is not in the vocabulary of {} tokens", self.model.vocab)));
        }
        let (position, context) = (self.session.position, self.context);
        if tokens.len() > context - position {
            let most = self.manifest().spec.context;
            let help = if context < most as usize { format!("; open it with a longer one (-c, up to {most})") } else { String::new() };
            return Err(Error::Request(format!(
                "{} more tokens at position {position} do not fit the context of {context} tokens{help}",
                tokens.len()
            )));
        }
        Ok(())
    }
}

/// Tells the layers which groups are wanted; for predictions with the thresholds of this row of a calibration.
fn select(model: &mut Model, sparsity: Sparsity, known: Option<(&[calibration::Layer], usize)>) {
    for (number, layer) in model.layers.iter_mut().enumerate() {
        if let FfnLayer::Neurons(ffn) = &mut layer.ffn {
            let threshold = known.and_then(|(layers, row)| layers.get(number)?.thresholds.get(row).copied());
            ffn.selection = match sparsity {
                Sparsity::Exact => Selection::Exact,
                Sparsity::Predicted { .. } => Selection::Predicted(threshold.unwrap_or(PLAIN_THRESHOLD)),
                Sparsity::Off => Selection::All,
            };
        }
    }
}

/// The context to open with.
fn context(manifest: &Manifest, asked: Option<u32>) -> Result<u32> {
    let most = manifest.spec.context;
    match asked {
        None => Ok(most.min(DEFAULT_CONTEXT)),
        Some(0) => Err(Error::Request("a context of 0 tokens holds nothing; -c needs at least 1".into())),
        Some(c) if c > most => {
            Err(Error::Request(format!("a context of {c} tokens is more than the model's {most}; use -c {most} or less")))
        }
        Some(c) => Ok(c),
    }
}

/// What [`Engine::open`] would do with these options: context, rows of a prompt step, and the memory plan.
///
/// # Errors
/// [`Error::Budget`] and [`Error::Request`] as there.
pub fn planned(pack: &Pack, options: &Options) -> Result<(u32, u32, MemoryPlan)> {
    let context = context(&pack.manifest, options.context)?;
    let (chunk, plan) = plan(pack, context, options)?;
    Ok((context, chunk, plan))
}

/// What the sequence and the steps need, from the manifest and the options' types and threads alone.
pub fn needs(manifest: &Manifest, context: u32, chunk: u32, options: &Options) -> Needs {
    let (kv, state) = Session::bytes(&manifest.spec, context, options.kv_type());
    let sizes = Sizes::new(&manifest.spec, chunk as usize, context as usize, options.thread_count());
    let scratch = sizes.bytes(options.activations).saturating_add(model::decoded_bytes(manifest));
    let scratch = scratch.saturating_add(NeuronScratch::bytes(manifest, chunk as usize));
    let tokenizer = manifest.tokenizer.as_ref().map_or(0, |t| tokenizer_bytes(&t.json));
    Needs { kv, state, scratch, tokenizer, resident: options.sparsity.unwrap_or_default().resident() }
}

/// Rows of a prompt step, and the memory plan for it. Where nobody says which neurons are read and the triggers do not fit, all are.
fn plan(pack: &Pack, context: u32, options: &Options) -> Result<(u32, MemoryPlan)> {
    let exact = plan_for(pack, context, options);
    if options.sparsity.is_some() || pack.manifest.neurons.is_empty() {
        return exact;
    }
    let all = Options { sparsity: Some(Sparsity::Off), ..options.clone() };
    let least = |options: &Options| Options { ram: RamLimit::Bytes(u64::MAX), chunk: Some(1), ..options.clone() };
    let floor = |options: &Options| plan_for(pack, context, &least(options)).map_or(u64::MAX, |(_, plan)| plan.floor);
    let floors = [floor(options), floor(&all)];
    let mut planned = match exact {
        Err(Error::Budget(why)) => match plan_for(pack, context, &all) {
            Err(Error::Budget(_)) if floors[0] < floors[1] => return Err(Error::Budget(why)),
            other => other?,
        },
        exact => exact?,
    };
    planned.1.floor = floors[0].min(floors[1]);
    planned.1.triggers_floor = (planned.1.resident == Resident::Nothing).then_some(floors[0]);
    Ok(planned)
}

/// The longest prompt step that fits comfortably, and the memory plan for it.
fn plan_for(pack: &Pack, context: u32, options: &Options) -> Result<(u32, MemoryPlan)> {
    let limit = options.ram.resolve();
    let with = |chunk: u32| {
        let needs = needs(&pack.manifest, context, chunk, options);
        let plan = MemoryPlan::new(&pack.manifest, &pack.index, &pack.superblock, &needs, limit);
        (needs.scratch, plan)
    };
    if let Some(chunk) = options.chunk {
        if chunk == 0 || chunk > MAX_CHUNK {
            return Err(Error::Request(format!("a prompt step of {chunk} tokens is not between 1 and {MAX_CHUNK}")));
        }
        let chunk = chunk.min(context);
        return with(chunk).1.map(|plan| (chunk, plan));
    }
    let mut chunk = DEFAULT_CHUNK.min(context);
    loop {
        let (scratch, plan) = with(chunk);
        match plan {
            Ok(plan) if chunk == 1 || scratch <= limit / SCRATCH_SHARE => return Ok((chunk, plan)),
            Err(e) if chunk == 1 => return Err(e),
            _ => chunk /= 2,
        }
    }
}
