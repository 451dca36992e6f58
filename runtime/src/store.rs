//! Everything that holds weights: the pack, its I/O, the trunk and the window.

use std::time::{Duration, Instant};

use forebay_format::model::{Ffn, Role};
use forebay_format::{BundleId, FormatError, QuantType};

use crate::budget::MemoryPlan;
use crate::error::{Error, Result};
pub use crate::expert::ExpertView;
use crate::expert::LayerParts;
use crate::io::{IoBackend, Queue};
use crate::kernels::Matrix;
use crate::pack::Pack;
use crate::reader::Reader;
use crate::trunk::{Place, TrunkMap};
pub use crate::trunk::{RunId, TensorHandle};
use crate::window::arena::Arena;
pub use crate::window::policy::Purpose;
use crate::window::policy::{Policy, Shape};
use crate::window::{PlanError, ReadPlan, State, plan};

/// Steps of at most this many tokens (decoding, speculation) count for the policy's frequencies; longer ones are prompts.
const DECODE_ROWS: usize = 8;
/// A prompt holds at most one part in this many of the window at a time.
const PROMPT_SHARE: usize = 4;

/// Counts since the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IoStats {
    /// Backend that reads.
    pub backend: &'static str,
    /// Bytes read, the trunk's included.
    pub bytes: u64,
    /// Bytes of the trunk.
    pub trunk_bytes: u64,
    /// Requests to the kernel.
    pub requests: u64,
    /// Requests repeated after an I/O error.
    pub retries: u64,
    /// Experts asked for that were in the window.
    pub hits: u64,
    /// Experts asked for that were not.
    pub misses: u64,
    /// Bundles read again because a sum did not match.
    pub rereads: u64,
    /// Time spent waiting for experts.
    pub stall: Duration,
    /// The memory is locked.
    pub locked: bool,
    /// The memory is registered with the kernel's I/O.
    pub registered: bool,
}

impl IoStats {
    /// Share of experts that were in the window, 0 to 1; `None` before the first.
    pub fn hit_rate(&self) -> Option<f64> {
        let all = self.hits + self.misses;
        (all > 0).then(|| self.hits as f64 / all as f64)
    }
}

/// Everything that holds weights.
pub struct Store {
    pack: Pack,
    io: Reader,
    trunk: Arena,
    map: TrunkMap,
    window: Arena,
    state: State,
    read_plan: ReadPlan,
    parts: Vec<Option<LayerParts>>,
    purpose: Purpose,
    hits: u64,
    misses: u64,
    stall: Duration,
    trunk_bytes: u64,
    warning: Option<String>,
}

impl Store {
    /// Takes the memory that `plan` gives, reads the trunk into it and checks its sums.
    ///
    /// Errors: [`Error::Io`] or [`Error::Format`], naming the bundle; [`Error::Budget`] if the memory cannot be had.
    pub fn open(pack: Pack, plan: &MemoryPlan, io: IoBackend) -> Result<Store> {
        let opened = crate::io::open(&pack.path, &pack.file, io).map_err(|error| Error::Io {
            file: pack.path.clone(),
            what: "cannot start reading".into(),
            error,
        })?;
        let mut store = Store::with_queue(pack, plan, opened.queue)?;
        store.warning = opened.warning;
        Ok(store)
    }

    /// As [`Store::open`], with a queue of the caller's.
    pub fn with_queue(pack: Pack, plan: &MemoryPlan, queue: Queue) -> Result<Store> {
        let format = |error| Error::Format { file: pack.path.clone(), error };
        let memory = |error: std::io::Error| Error::Budget(format!("cannot map the memory of the plan ({error}):\n{}", plan.breakdown()));
        let map = TrunkMap::new(&pack.manifest).map_err(format)?;
        let mut lengths = Vec::new();
        for id in TrunkMap::bundles(&pack.manifest) {
            lengths.push(to_usize(pack.index.get(id).map_err(format)?.length).map_err(format)?);
        }
        let slot = to_usize(plan.slot_bytes).map_err(format)?;
        let trunk = Arena::new(lengths.iter().copied()).map_err(memory)?;
        let window = Arena::new(std::iter::repeat_n(slot, plan.slots as usize)).map_err(memory)?;
        let shape = Shape::new(pack.manifest.spec.layers.iter().map(|l| match &l.ffn {
            Ffn::Routed(r) => (r.experts, r.top_k),
            Ffn::Dense(_) => (0, 0),
        }));
        let shape = shape.ok_or_else(|| format(FormatError::invalid("manifest", "more than 2^32 experts")))?;
        let parts = LayerParts::of(&pack).map_err(format)?;
        let policy = Policy::new(&shape);
        let state = State::new(shape, plan.slots, policy);
        let mut io = Reader { queue, rereads: 0, registered: false };
        let regions: Vec<_> = [trunk.region(), window.region()].into_iter().flatten().collect();
        io.registered = io.queue.register(&regions);
        let read_plan = ReadPlan::for_state(&state);
        let mut store = Store {
            pack,
            io,
            trunk,
            map,
            window,
            state,
            read_plan,
            parts,
            purpose: Purpose::Decode,
            hits: 0,
            misses: 0,
            stall: Duration::ZERO,
            trunk_bytes: 0,
            warning: None,
        };
        store.load_trunk()?;
        Ok(store)
    }

    fn load_trunk(&mut self) -> Result<()> {
        let bundles: Vec<BundleId> = TrunkMap::bundles(&self.pack.manifest).collect();
        let mut queued = Ok(());
        for (span, &id) in bundles.iter().enumerate() {
            queued = queued.and_then(|()| queue_bundle(&self.pack, &mut self.io, id, span as u64, &mut self.trunk, span));
        }
        let bundle = |tag: u64| usize::try_from(tag).ok().and_then(|i| bundles.get(i).copied());
        let trunk = &mut self.trunk;
        let read = self.io.finish(&self.pack, bundle, |_, lease, _| trunk.restore(lease));
        self.trunk_bytes = self.io.queue.stats().bytes;
        queued.and(read)
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

    /// A tensor of the trunk. A handle of another store gives an empty matrix.
    pub fn tensor(&self, handle: TensorHandle) -> Matrix<'_> {
        let matrix = self.map.place(handle).and_then(|place: &Place| place.matrix(self.trunk.bytes(place.run)?));
        matrix.unwrap_or(Matrix { qtype: QuantType::F32, rows: 0, cols: 0, bytes: &[], piece_rows: 1, piece_stride: 0 })
    }

    /// Experts that can be held at once.
    pub fn capacity(&self) -> usize {
        self.state.slots()
    }

    /// Announces a step of `rows` tokens and returns how many experts to hold at a time. A few tokens may take the whole window; a prompt gets
    /// a part of it, so that the rest keeps what decoding needs (unless everything fits).
    pub fn begin(&mut self, rows: usize) -> usize {
        let slots = self.capacity();
        self.set_purpose(if rows <= DECODE_ROWS { Purpose::Decode } else { Purpose::Prefill });
        match self.purpose {
            Purpose::Decode => slots,
            Purpose::Prefill if slots >= self.state.experts() => slots,
            Purpose::Prefill => (slots / PROMPT_SHARE).max(self.state.floor()).min(slots),
        }
    }

    /// What the following holds are for.
    pub fn set_purpose(&mut self, purpose: Purpose) {
        self.purpose = purpose;
    }

    /// Brings `experts` of `layer` into the window, all of them at once, and keeps them there until the next hold. All misses are
    /// queued before the first is waited for. Repeated experts count once.
    ///
    /// Errors: [`Error::Request`] for more experts than [`Store::capacity`]; [`Error::Io`] or [`Error::Format`] naming the expert that cannot be read; the
    /// window stays usable.
    pub fn hold(&mut self, layer: u32, experts: &[u32]) -> Result<()> {
        let pack = &self.pack;
        let format = |error| Error::Format { file: pack.path.clone(), error };
        plan(&self.state, layer, experts, self.purpose, &mut self.read_plan).map_err(|e| match e {
            PlanError::NoSuchExpert(expert) => format(FormatError::NoSuchBundle(BundleId::expert(layer, expert))),
            PlanError::TooMany { wanted, slots } => {
                Error::Request(format!("layer {layer}: {wanted} experts are wanted at once, but the window has {slots} slots"))
            }
        })?;
        self.state.apply(&self.read_plan);
        self.hits += self.read_plan.hits.len() as u64;
        self.misses += self.read_plan.misses.len() as u64;
        if self.read_plan.misses.is_empty() {
            return Ok(());
        }
        let start = Instant::now();
        let result = self.fetch(layer);
        self.stall += start.elapsed();
        if result.is_err() {
            // Whatever did arrive is good, but a failed hold leaves nothing half done.
            for &(expert, _) in &self.read_plan.misses {
                self.state.forget(layer, expert);
            }
        }
        result
    }

    fn fetch(&mut self, layer: u32) -> Result<()> {
        let mut queued = Ok(());
        for &(expert, slot) in &self.read_plan.misses {
            let id = BundleId::expert(layer, expert);
            queued = queued.and_then(|()| queue_bundle(&self.pack, &mut self.io, id, expert as u64, &mut self.window, slot as usize));
        }
        let bundle = |tag: u64| u32::try_from(tag).ok().map(|expert| BundleId::expert(layer, expert));
        let window = &mut self.window;
        // Even after an error nothing may stay in the queue: its tags would be taken for the next hold's.
        let read = self.io.finish(&self.pack, bundle, |_, lease, _| window.restore(lease));
        queued.and(read)
    }

    /// An expert that is in the window.
    pub fn expert(&self, layer: u32, expert: u32) -> Option<ExpertView<'_>> {
        let slot = self.state.slot(layer, expert)?;
        let record = self.pack.index.get(BundleId::expert(layer, expert)).ok()?;
        let parts = self.parts.get(layer as usize)?.as_ref()?;
        parts.view(record, self.window.bytes(slot as usize)?)
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
            rereads: self.io.rereads,
            stall: self.stall,
            locked: self.trunk.locked() && self.window.locked(),
            registered: self.io.registered,
        }
    }
}

fn queue_bundle(pack: &Pack, io: &mut Reader, id: BundleId, tag: u64, arena: &mut Arena, span: usize) -> Result<()> {
    let record = pack.index.get(id).map_err(|error| Error::Format { file: pack.path.clone(), error })?;
    // A span stays out only when the backend broke while reading into it.
    let lease = arena.lease(span).ok_or_else(|| {
        let error = std::io::Error::other("its memory was lost when the I/O backend failed");
        Error::Io { file: pack.path.clone(), what: format!("cannot read {id}"), error }
    })?;
    io.read(record, tag, lease);
    Ok(())
}

fn to_usize(bytes: u64) -> std::result::Result<usize, FormatError> {
    usize::try_from(bytes).map_err(|_| FormatError::TooLarge { what: "run", value: bytes, limit: usize::MAX as u64 })
}

#[cfg(test)]
mod tests;
