//! Everything that holds weights: the pack, its I/O, the trunk and the window.
//!
//! A layer's experts are [requested](Store::request), all misses at once, and taken in as they arrive with [`Store::advance`]: slice by slice, each checked.
//! What is there already is computed with meanwhile.

mod ahead;
mod expert;
pub mod load;
mod neurons;
mod reader;
mod replay;
mod rows;
mod schedule;
mod stream;
mod triggers;
pub mod warm;

use std::time::{Duration, Instant};

use forebay_format::model::{Ffn, Role};
use forebay_format::{BundleId, FormatError, Kind, QuantType, Record};

use crate::budget::MemoryPlan;
use crate::error::{Error, Result};
use crate::io::{Histogram, IoBackend, PIECE_BYTES, Queue, Urgency};
use crate::kernels::{Matrix, Pool};
use crate::pack::Pack;
use crate::trunk::{Place, TrunkMap};
pub use crate::trunk::{RunId, TensorHandle};
use crate::window::arena::Arena;
pub use crate::window::policy::Purpose;
use crate::window::policy::{Key, Policy, Shape};
use crate::window::{PlanError, ReadPlan, State, plan};
use expert::LayerParts;
pub use expert::{ExpertView, SliceView};
pub use load::{Pace, Sample};
pub use neurons::{GroupPart, Resident};
use neurons::{Neurons, NewError};
use reader::{MAX_DELIVERIES, Reader};
pub use replay::ReadLog;
pub use schedule::Schedule;

/// Steps of at most this many tokens (decoding, speculation) count for the policy's frequencies; longer ones are prompts.
const DECODE_ROWS: usize = 8;
/// A prompt holds at most one part in this many of the window at a time.
const PROMPT_SHARE: usize = 4;
/// No fetch.
const NONE: u32 = u32::MAX;

/// Counts since the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IoStats {
    /// Backend that reads.
    pub backend: &'static str,
    /// Bytes read, the trunk's included.
    pub bytes: u64,
    /// Bytes of the trunk: at start, and since then where it does not fit.
    pub trunk_bytes: u64,
    /// Requests to the kernel.
    pub requests: u64,
    /// Requests repeated after an I/O error.
    pub retries: u64,
    /// Experts and neuron groups asked for that were in the window.
    pub hits: u64,
    /// Experts and neuron groups asked for that were not.
    pub misses: u64,
    /// Experts read on a guess.
    pub guesses: u64,
    /// Guesses that were right.
    pub guesses_used: u64,
    /// Deliveries read again because a sum did not match.
    pub rereads: u64,
    /// Time spent waiting for experts, or for layers that do not fit.
    pub stall: Duration,
    /// Time from asking for a layer's neuron groups until the last of them was there.
    pub group_time: Duration,
    /// The memory is locked.
    pub locked: bool,
    /// The memory is registered with the kernel's I/O.
    pub registered: bool,
    /// Microseconds from asking the kernel for a piece to seeing it complete.
    pub latency: Histogram,
    /// Bytes of the pieces asked for.
    pub sizes: Histogram,
    /// How the drive is read.
    pub pace: Pace,
    /// What the drive gave in each way that was tried; empty if there was too little to read.
    pub curve: Vec<Sample>,
}

impl IoStats {
    /// Share of experts and neuron groups that were in the window, 0 to 1; `None` before the first.
    pub fn hit_rate(&self) -> Option<f64> {
        let all = self.hits + self.misses;
        (all > 0).then(|| self.hits as f64 / all as f64)
    }
}

/// Slices of an expert, by bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Those that have arrived.
    pub slices: u64,
    /// Those with rows of gate and up.
    pub gate_up: u64,
    /// Those with rows of down.
    pub down: u64,
}

/// What is in a slot.
#[derive(Clone, Copy)]
struct Slot {
    /// Slices that have arrived, by bit; bit 0 stands for all of a bundle that comes in one delivery.
    arrived: u64,
    /// The fetch on its way there, or [`NONE`].
    fetch: u32,
    /// That fetch is for the warm start: nobody waits for it.
    warm: bool,
    /// It was read for a prompt on a guess, and not asked for since.
    prepared: bool,
}

/// Everything that holds weights.
pub struct Store {
    pack: Pack,
    io: Reader,
    trunk: Arena,
    map: TrunkMap,
    stream: stream::Stream,
    rows: rows::Rows,
    window: Arena,
    neurons: Neurons,
    slots: Vec<Slot>,
    state: State,
    read_plan: ReadPlan,
    parts: Vec<Option<LayerParts>>,
    purpose: Purpose,
    hits: u64,
    misses: u64,
    guesses: u64,
    guesses_used: u64,
    stall: Duration,
    trunk_bytes: u64,
    warning: Option<String>,
    /// Experts still to be read for the warm start, the next one last, and how many of them are on their way.
    warm: Vec<Key>,
    warming: usize,
    bench: replay::Bench,
    schedule: Schedule,
    curve: Vec<Sample>,
    /// Experts of a plan on a guess; kept for its memory.
    guessed: Vec<u32>,
}

impl Store {
    /// Takes the memory that `plan` gives, reads the trunk into it and checks its sums.
    ///
    /// Errors: [`Error::Io`] or [`Error::Format`], naming the bundle; [`Error::Budget`] if the memory cannot be had.
    pub fn open(pack: Pack, plan: &MemoryPlan, io: IoBackend, pool: &Pool) -> Result<Store> {
        let opened = crate::io::open(&pack.path, &pack.file, io).map_err(|error| Error::Io {
            file: pack.path.clone(),
            what: "cannot start reading".into(),
            error,
        })?;
        let mut store = Store::with_queue(pack, plan, opened.queue, pool)?;
        store.warning = opened.warning;
        Ok(store)
    }

    /// As [`Store::open`], with a queue of the caller's.
    pub fn with_queue(pack: Pack, plan: &MemoryPlan, queue: Queue, pool: &Pool) -> Result<Store> {
        let format = |error| Error::Format { file: pack.path.clone(), error };
        let memory = |error: std::io::Error| Error::Budget(format!("cannot map the memory of the plan ({error}):\n{}", plan.breakdown()));
        if plan.row_slots > 0 && pack.manifest.spec.tied_head {
            return Err(Error::Request("the head is the embedding matrix: its rows cannot be read one by one".into()));
        }
        let map = TrunkMap::new(&pack.manifest).map_err(format)?;
        let mut lengths = Vec::new();
        for (run, id) in TrunkMap::bundles(&pack.manifest).enumerate() {
            let length = to_usize(pack.index.get(id).map_err(format)?.length).map_err(format)?;
            lengths.push(if plan.holds_run(run) { length } else { 0 });
        }
        let stream = stream::Stream::new(map.runs(), plan);
        lengths.extend(std::iter::repeat_n(to_usize(plan.ring_span_bytes).map_err(format)?, stream.spans()));
        let rows = rows::Rows::new(lengths.len(), plan.row_slots as usize);
        lengths.extend(std::iter::repeat_n(to_usize(plan.row_slot_bytes).map_err(format)?, plan.row_slots as usize));
        let slot = to_usize(plan.slot_bytes).map_err(format)?;
        let trunk = Arena::new(lengths.iter().copied()).map_err(memory)?;
        let window = Arena::new(std::iter::repeat_n(slot, plan.slots as usize + plan.staging as usize)).map_err(memory)?;
        let shape = Shape::new(pack.manifest.spec.layers.iter().map(|l| match &l.ffn {
            Ffn::Routed(r) => (r.experts, r.top_k),
            Ffn::Dense(_) => (0, 0),
        }));
        let shape = shape.ok_or_else(|| format(FormatError::invalid("manifest", "more than 2^32 experts")))?;
        let parts = LayerParts::of(&pack).map_err(format)?;
        let most_experts = (0..shape.layers() as u32).map(|l| shape.range(l).len()).max().unwrap_or(0);
        let policy = Policy::new(&shape);
        let state = State::with_staging(shape, plan.slots + plan.staging, plan.staging, policy);
        let mut io = Reader::new(queue, plan.slots.max(plan.floor_group_slots) as usize);
        let neurons = Neurons::new(&pack, plan).map_err(|e| match e {
            NewError::Format(e) => format(e),
            NewError::Memory(e) => memory(e),
        })?;
        let arenas = [&trunk, &window].into_iter().chain(neurons.arenas());
        arenas.clone().for_each(|arena| arena.populate(pool.threads()));
        let regions: Vec<_> = arenas.filter_map(Arena::region).collect();
        io.registered = io.queue.register(&regions);
        let read_plan = ReadPlan::for_state(&state);
        let mut store = Store {
            pack,
            io,
            trunk,
            map,
            stream,
            rows,
            slots: vec![Slot { arrived: 0, fetch: NONE, warm: false, prepared: false }; window.len()],
            window,
            neurons,
            state,
            read_plan,
            parts,
            purpose: Purpose::Decode,
            hits: 0,
            misses: 0,
            guesses: 0,
            guesses_used: 0,
            stall: Duration::ZERO,
            trunk_bytes: 0,
            warning: None,
            warm: Vec::new(),
            warming: 0,
            bench: replay::Bench::default(),
            schedule: Schedule::default(),
            curve: Vec::new(),
            guessed: Vec::with_capacity(most_experts),
        };
        store.load_trunk(plan, pool)?;
        store.load_triggers(pool)?;
        Ok(store)
    }

    /// The pack.
    pub fn pack(&self) -> &Pack {
        &self.pack
    }

    /// One line to show the user, if reading is not done in the best way.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// The tensor of a run with this purpose. For load time; a step uses handles.
    pub fn find(&self, run: RunId, role: Role) -> Option<TensorHandle> {
        self.map.find(run, role)
    }

    /// A tensor of the trunk, in memory. A handle of another store, and one of a layer that was not [entered](Store::enter), give an empty matrix.
    pub fn tensor(&self, handle: TensorHandle) -> Matrix<'_> {
        let bytes = |place: &Place| self.trunk.bytes(self.stream.span(place.run)?);
        let matrix = self.map.place(handle).and_then(|place| place.matrix(bytes(place)?));
        matrix.unwrap_or(Matrix::whole(QuantType::F32, 0, 0, &[]))
    }

    /// Experts that can be held at once.
    pub fn capacity(&self) -> usize {
        self.state.slots()
    }

    /// Experts of the model.
    pub fn experts(&self) -> usize {
        self.state.experts()
    }

    /// Announces a step of `rows` tokens and returns how many experts to hold at a time. A few tokens may take the whole window; a prompt gets
    /// a part of it, so that the rest keeps what decoding needs (unless everything fits).
    pub fn begin(&mut self, rows: usize) -> usize {
        let slots = self.capacity();
        self.set_purpose(if rows <= DECODE_ROWS { Purpose::Decode } else { Purpose::Prefill });
        match self.purpose {
            Purpose::Decode => slots,
            Purpose::Prefill => self.prompt_share(),
        }
    }

    /// Experts that a prompt holds at a time.
    fn prompt_share(&self) -> usize {
        let slots = self.capacity();
        if slots >= self.state.experts() { slots } else { (slots / PROMPT_SHARE).max(self.state.floor()).min(slots) }
    }

    /// What the following requests are for.
    pub fn set_purpose(&mut self, purpose: Purpose) {
        self.purpose = purpose;
    }

    /// Wants `experts` of `layer`, all of them at once, until the next request (or the one after it, if that says `keep_last`). Hits are there; all misses are
    /// queued and arrive with [`Store::advance`]. Repeated experts count once.
    ///
    /// Errors: [`Error::Request`] for more experts than [`Store::capacity`], and [`Error::Format`] for one that the layer has not.
    pub fn request(&mut self, layer: u32, experts: &[u32], keep_last: bool) -> Result<()> {
        if self.bench.pretends() {
            self.hits += experts.len() as u64;
            return Ok(());
        }
        let mut planned = plan(&self.state, layer, experts, self.purpose, keep_last, &mut self.read_plan);
        if matches!(planned, Err(PlanError::TooMany { .. })) && self.warming > 0 {
            // A small window, and what the warm start is reading fills it.
            self.end_warm_start()?;
            planned = plan(&self.state, layer, experts, self.purpose, keep_last, &mut self.read_plan);
        }
        let pack = &self.pack;
        planned.map_err(|e| match e {
            PlanError::NoSuchExpert(expert) => {
                Error::Format { file: pack.path.clone(), error: FormatError::NoSuchBundle(BundleId::expert(layer, expert)) }
            }
            PlanError::TooMany { wanted, slots } => {
                Error::Request(format!("layer {layer}: {wanted} experts are wanted at once, but the window has {slots} slots"))
            }
        })?;
        self.state.apply(&self.read_plan);
        let slots = &mut self.slots;
        let prepared = |&&(_, slot): &&(u32, u32)| slots.get_mut(slot as usize).is_some_and(|s| std::mem::take(&mut s.prepared));
        let prepared = self.read_plan.hits.iter().filter(prepared).count();
        self.hits += (self.read_plan.hits.len() - prepared) as u64;
        self.misses += (self.read_plan.misses.len() + prepared) as u64;
        self.guesses_used += prepared as u64;
        self.guesses_used += self.read_plan.misses.iter().filter(|m| m.staged).count() as u64;
        self.settle();
        if self.read_plan.misses.is_empty() {
            return Ok(());
        }
        self.read_misses(layer)
    }

    /// Queues what the plan does not find.
    fn read_misses(&mut self, layer: u32) -> Result<()> {
        self.bench.record(layer, self.read_plan.misses.iter().map(|m| m.expert));
        for i in 0..self.read_plan.misses.len() {
            let miss = self.read_plan.misses[i];
            if !miss.staged
                && let Err(e) = self.fetch(BundleId::expert(layer, miss.expert), miss.slot, Urgency::Demand)
            {
                // What was not queued is not on its way: its slot still has the bytes of another expert.
                for unread in &self.read_plan.misses[i..] {
                    self.state.forget(layer, unread.expert);
                }
                return Err(self.recover(e));
            }
        }
        self.start()
    }

    /// Takes in what has arrived, checking it on all threads of `pool`; with `wait`, and if nothing has, waits for the next delivery. False if nothing
    /// was taken in.
    ///
    /// Errors: [`Error::Io`] or [`Error::Format`] naming the expert that cannot be read. Nothing is in flight any more then, what arrived whole stays, and
    /// the window remains usable.
    pub fn advance(&mut self, pool: &Pool, wait: bool) -> Result<bool> {
        let start = (wait && !self.io.queue.is_idle()).then(Instant::now);
        let collected = self.io.collect(&self.pack, pool, wait);
        self.stall += start.map_or(Duration::ZERO, |s| s.elapsed());
        let mut failed = None;
        if collected? {
            while let Some(arrival) = self.io.next(&self.pack) {
                failed = failed.or(self.take_in(arrival));
            }
            if let Some(e) = failed {
                return Err(self.recover(e));
            }
            self.pump()?;
            return Ok(true);
        }
        self.pump()?;
        Ok(false)
    }

    /// Notes what arrived. The error, if it is of an expert that is wanted.
    fn take_in(&mut self, arrival: reader::Arrival) -> Option<Error> {
        match arrival.fetch.id.kind {
            Kind::Expert => {}
            Kind::NeuronGroup => {
                self.take_in_groups(arrival);
                return None;
            }
            _ => {
                self.take_in_trunk(arrival);
                return None;
            }
        }
        let reader::Arrival { fetch, number, delivery, lease, result, last } = arrival;
        self.window.restore(lease);
        let slot = self.slots.get_mut(fetch.span).filter(|s| s.fetch == number)?;
        if result.is_ok() {
            slot.arrived |= bits(delivery * fetch.slices, fetch.slices);
        }
        if last {
            slot.fetch = NONE;
        }
        let prepared = slot.prepared;
        let guessed = slot.warm || prepared;
        let asked = !guessed || self.read_plan.asks_for(fetch.span as u32);
        let held = self.state.slot(fetch.id.layer, fetch.id.ordinal) == Some(fetch.span as u32);
        let wanted = asked && held;
        if last {
            self.end_warm(fetch.id, fetch.span, !fetch.spoiled);
            if prepared {
                self.read_plan.unpin(fetch.span as u32);
            }
        }
        if fetch.spoiled && !wanted {
            self.state.unstage(fetch.span as u32);
        }
        if fetch.spoiled && (wanted || prepared && held) && last {
            self.state.forget(fetch.id.layer, fetch.id.ordinal);
        }
        result.err().filter(|_| wanted)
    }

    /// Notes what arrived of a layer or of the embedding. An error is told to whoever wants it.
    fn take_in_trunk(&mut self, arrival: reader::Arrival) {
        let reader::Arrival { fetch, number, lease, result, last, .. } = arrival;
        self.trunk_bytes += lease.len() as u64;
        self.trunk.restore(lease);
        match fetch.id.kind {
            Kind::Embedding => self.rows.take_in(result),
            _ => self.stream.take_in(fetch, number, result, last),
        }
    }

    /// After an error nothing may stay in flight: waits for it. Experts that did not arrive whole are forgotten.
    fn recover(&mut self, error: Error) -> Error {
        let pool = Pool::new(1);
        while let Ok(true) = self.io.collect(&self.pack, &pool, true) {
            while let Some(arrival) = self.io.next(&self.pack) {
                self.take_in(arrival);
            }
        }
        for i in 0..self.read_plan.misses.len() {
            let expert = self.read_plan.misses[i].expert;
            let layer = self.read_plan.layer();
            if !self.is_whole(layer, expert) {
                self.state.forget(layer, expert);
            }
        }
        error
    }

    /// Queues all deliveries of a bundle into a slot.
    fn fetch(&mut self, id: BundleId, slot: u32, urgency: Urgency) -> Result<()> {
        let record = self.pack.index.get(id).map_err(|error| Error::Format { file: self.pack.path.clone(), error })?;
        let parts = self.parts.get(id.layer as usize).and_then(Option::as_ref).filter(|p| is_sliced(p, record));
        let slices = parts.map_or(1, |p| p.slices(record));
        // Nobody waits for a guess slice by slice, and a request costs the kernel the same whatever its length: with one of 1.8 MB for seven of 256 KiB a token of the
        // 35B-A3B shape at 4 GiB takes 5 of 185 ms less.
        let request = if urgency == Urgency::Ahead { self.io.pace.request.max(PIECE_BYTES) } else { self.io.pace.request };
        let each = slices_per_read(record.length, slices, request);
        let deliveries = slices.div_ceil(each);
        let Some(entry) = self.slots.get_mut(slot as usize) else { return Err(lost(&self.pack, id)) };
        let number = self.io.fetch(id, slot as usize, deliveries, each);
        *entry = Slot { arrived: 0, fetch: number, warm: false, prepared: false };
        for delivery in 0..deliveries {
            let own = delivery * each..(delivery + 1) * each;
            let ends = |p: &LayerParts| Some(p.slice_range(record, own.start)?.start..p.slice_range(record, own.end.min(slices) - 1)?.end);
            let part = parts.filter(|_| deliveries > 1).and_then(ends).unwrap_or(0..record.length as usize);
            // Bytes stay out only when the backend broke while reading into them.
            let lease = self.window.lease_part(slot as usize, part.clone()).ok_or_else(|| lost(&self.pack, id))?;
            self.io.deliver(number, record, delivery, part.start as u64..part.end as u64, lease, urgency);
        }
        Ok(())
    }

    /// Hands to the kernel what is queued.
    fn start(&mut self) -> Result<()> {
        let pack = &self.pack;
        self.io.queue.start().map_err(|error| Error::Io { file: pack.path.clone(), what: "cannot start reading".into(), error })
    }

    /// Slot of an expert that is wanted.
    fn slot(&self, layer: u32, expert: u32) -> Option<usize> {
        match self.bench.pretended(layer, expert) {
            Some(slot) => Some(slot as usize),
            None => self.state.slot(layer, expert).map(|s| s as usize),
        }
    }

    /// All of an expert that is wanted has arrived.
    pub fn is_whole(&self, layer: u32, expert: u32) -> bool {
        self.slot(layer, expert).and_then(|slot| self.slots.get(slot)).is_some_and(|s| s.fetch == NONE)
    }

    /// What of a wanted expert has arrived. All zero for a bundle that is not delivered in slices.
    pub fn arrived(&self, layer: u32, expert: u32) -> Arrived {
        let slot = self.slot(layer, expert).and_then(|slot| self.slots.get(slot));
        match (self.bundle(layer, expert), slot) {
            (Some((parts, record)), Some(slot)) if is_sliced(parts, record) => {
                let (gate_up, down) = parts.masks(record);
                let all = gate_up | down;
                Arrived { slices: if slot.fetch == NONE { all } else { slot.arrived & all }, gate_up, down }
            }
            _ => Arrived::default(),
        }
    }

    /// An expert that is wanted and has arrived whole.
    pub fn expert(&self, layer: u32, expert: u32) -> Option<ExpertView<'_>> {
        let slot = self.slot(layer, expert).filter(|_| self.is_whole(layer, expert))?;
        let (parts, record) = self.bundle(layer, expert)?;
        parts.view(record, self.window.part(slot, 0..usize::try_from(record.length).ok()?)?)
    }

    /// The rows in a slice that has arrived, of an expert that is wanted.
    pub fn slice(&self, layer: u32, expert: u32, slice: usize) -> Option<SliceView<'_>> {
        let slot = self.slot(layer, expert)?;
        let (parts, record) = self.bundle(layer, expert)?;
        parts.slice(record, slice, self.window.part(slot, parts.slice_range(record, slice)?)?)
    }

    fn bundle(&self, layer: u32, expert: u32) -> Option<(&LayerParts, &Record)> {
        let record = self.pack.index.get(BundleId::expert(layer, expert)).ok()?;
        Some((self.parts.get(layer as usize)?.as_ref()?, record))
    }

    /// Counts since the start.
    pub fn stats(&self) -> IoStats {
        let queue = self.io.queue.stats();
        IoStats {
            backend: self.io.queue.backend(),
            bytes: queue.bytes,
            trunk_bytes: self.trunk_bytes,
            requests: queue.requests,
            retries: queue.retries,
            hits: self.hits,
            misses: self.misses,
            guesses: self.guesses,
            guesses_used: self.guesses_used,
            rereads: self.io.rereads,
            stall: self.stall,
            group_time: self.neurons.time,
            locked: self.trunk.locked() && self.window.locked() && self.neurons.locked(),
            registered: self.io.registered,
            latency: queue.latency.clone(),
            sizes: queue.sizes.clone(),
            pace: self.io.pace,
            curve: self.curve.clone(),
        }
    }
}

/// What of a bundle has arrived is told slice by slice; one cut finer than a word has bits comes as a whole.
fn is_sliced(parts: &LayerParts, record: &Record) -> bool {
    (1..=MAX_DELIVERIES).contains(&parts.slices(record))
}

/// How many of the `slices` of a bundle of so many bytes are read with one request of about `request` bytes.
pub fn slices_per_read(bytes: u64, slices: usize, request: usize) -> usize {
    let one = (bytes / slices.max(1) as u64).max(1);
    // A request that would leave a rest shorter than half of it takes that too.
    let each = (request as u64).saturating_mul(3) / 2 / one;
    usize::try_from(each).unwrap_or(slices).clamp(1, slices.max(1))
}

/// `count` bits from `first` on.
fn bits(first: usize, count: usize) -> u64 {
    let low = |n: usize| if n >= u64::BITS as usize { u64::MAX } else { (1 << n) - 1 };
    low(first + count) & !low(first)
}

fn lost(pack: &Pack, id: BundleId) -> Error {
    let error = std::io::Error::other("its memory was lost when the I/O backend failed");
    Error::Io { file: pack.path.clone(), what: format!("cannot read {id}"), error }
}

fn to_usize(bytes: u64) -> std::result::Result<usize, FormatError> {
    usize::try_from(bytes).map_err(|_| FormatError::TooLarge { what: "run", value: bytes, limit: usize::MAX as u64 })
}

#[cfg(test)]
mod tests;
