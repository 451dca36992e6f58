//! Neuron groups on their way and in memory. A group is small (a page or a few), so that many are read at once and neighbours with one request; what stays is
//! decided by [`Recent`]. Depending on what decides which neurons fire, memory holds groups in one of two ways, see [`Resident`].

use std::time::{Duration, Instant};

use forebay_format::layout::manifest::NeuronDown;
use forebay_format::model::Ffn;
use forebay_format::neurons::GroupShape;
use forebay_format::{BundleId, FormatError, Kind, QuantType, Record};

use super::{Store, lost, reader, to_usize};
use crate::budget::MemoryPlan;
use crate::error::{Error, Result};
use crate::kernels::{Matrix, Pool};
use crate::pack::Pack;
use crate::window::arena::Arena;
use crate::window::policy::Shape;
use crate::window::recent::Recent;

/// What of neuron groups is in memory from start to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resident {
    /// The rows that decide which neurons fire (slice 0 of every group); the window holds the rest of some groups (slice 1).
    #[default]
    Triggers,
    /// Nothing; the window holds whole groups.
    Nothing,
}

/// A part of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupPart {
    /// Rows that decide whether a neuron fires.
    Trigger,
    /// Up rows beside a gate.
    Up,
    /// The group's part of down.
    Down,
}

/// The groups of a layer.
#[derive(Clone, Debug)]
struct LayerGroups {
    shape: GroupShape,
    /// Length of slice 0 of a full group.
    first_slice: usize,
}

/// See the module's text.
pub(super) struct Neurons {
    /// By layer.
    layers: Vec<Option<LayerGroups>>,
    pub(super) resident: Resident,
    /// Slices of the pack start on multiples of this.
    alignment: u64,
    /// A span for each layer.
    pub(super) triggers: Arena,
    /// One span, cut into slots of `slot` bytes.
    pub(super) window: Arena,
    slot: usize,
    recent: Recent,
    /// Deliveries on their way.
    in_flight: u32,
    failed: Option<Error>,
    /// Groups of one visit that were not there, lately: so much is kept free, so that reading can begin at once.
    reserve: usize,
    missed: usize,
    /// Those of one request, ascending.
    missing: Vec<u32>,
    /// Steps that a group stays after that of its last use, at most. For measurements.
    pub(super) most_steps: u32,
    /// Groups read on behalf of a prompt leave first.
    keep: bool,
    /// Since when groups are on their way, and how long they were before.
    since: Option<Instant>,
    pub(super) time: Duration,
    /// The two slices of a group are requests of their own, as if they lay apart. For measurements.
    pub(super) apart: bool,
}

impl Neurons {
    pub fn new(pack: &Pack, plan: &MemoryPlan) -> std::result::Result<Neurons, NewError> {
        let (spec, places) = (&pack.manifest.spec, &pack.manifest.neurons);
        let mut layers = Vec::with_capacity(spec.layers.len());
        let mut triggers = Vec::new();
        for (number, layer) in (0u32..).zip(&spec.layers) {
            let place = places.get(number as usize).and_then(Option::as_ref);
            let (Some(place), Ffn::Dense(ffn)) = (place, &layer.ffn) else {
                layers.push(None);
                triggers.push(0);
                continue;
            };
            let shape = GroupShape::new(place, ffn, spec.hidden)?;
            let record = pack.index.get(BundleId::neurons(number, 0))?;
            let first_slice = pack.index.layout(record).slices.first().copied().unwrap_or(0);
            let all = first_slice.checked_mul(shape.groups() as u64).filter(|_| plan.resident == Resident::Triggers);
            triggers.push(to_usize(all.unwrap_or(0))?);
            layers.push(Some(LayerGroups { shape, first_slice: to_usize(first_slice)? }));
        }
        let counts = layers.iter().map(|l| l.as_ref().map_or((0, 0), |l| (l.shape.groups(), 1)));
        let shape = Shape::new(counts).ok_or_else(|| FormatError::invalid("manifest", "more than 2^32 neuron groups"))?;
        let most = layers.iter().flatten().map(|l| l.shape.groups() as usize).max().unwrap_or(0);
        let slot = to_usize(plan.group_slot_bytes)?;
        let bytes = slot.checked_mul(plan.group_slots as usize).ok_or_else(|| std::io::Error::from(std::io::ErrorKind::OutOfMemory))?;
        Ok(Neurons {
            layers,
            resident: plan.resident,
            alignment: (pack.superblock.alignment as u64).max(1),
            triggers: Arena::new(triggers)?,
            window: Arena::new([bytes])?,
            slot,
            recent: Recent::new(shape, plan.group_slots),
            in_flight: 0,
            failed: None,
            reserve: 0,
            missed: 0,
            missing: Vec::with_capacity(most),
            most_steps: u32::MAX,
            keep: true,
            since: None,
            time: Duration::ZERO,
            apart: false,
        })
    }

    /// Memory that groups are read into.
    pub fn arenas(&self) -> [&Arena; 2] {
        [&self.triggers, &self.window]
    }

    pub fn locked(&self) -> bool {
        self.triggers.locked() && self.window.locked()
    }

    /// Steps since the group that leaves next was used.
    pub fn span(&self) -> u32 {
        self.recent.span()
    }

    fn layer(&self, layer: u32) -> Option<&LayerGroups> {
        self.layers.get(layer as usize)?.as_ref()
    }

    /// Groups of a layer, and the length of slice 0 of a full one; `None` if it has none.
    pub fn trigger_slices(&self, layer: u32) -> Option<(u32, usize)> {
        self.layer(layer).map(|l| (l.shape.groups(), l.first_slice))
    }

    /// Copies the triggers of whole groups of a layer from the window, where they have arrived, to where they stay.
    pub fn keep_triggers(&mut self, arrival: reader::Arrival) -> Result<()> {
        let reader::Arrival { fetch, lease, result, .. } = arrival;
        let BundleId { layer, ordinal, .. } = fetch.id;
        if let Some(LayerGroups { shape, first_slice }) =
            self.layers.get(layer as usize).and_then(Option::as_ref).filter(|_| result.is_ok())
            && let Some(all) = self.triggers.bytes_mut(layer as usize)
        {
            let each = lease.len() / fetch.bundles.max(1) as usize;
            for (group, from) in (ordinal..).zip(lease.bytes().chunks_exact(each.max(1))) {
                let length = shape.used(shape.neurons(group).len() as u32)[0] as usize;
                let to = all.get_mut(first_slice * group as usize..).and_then(|to| to.get_mut(..length));
                to.into_iter().zip(from.get(..length)).for_each(|(to, from)| to.copy_from_slice(from));
            }
        }
        self.window.restore(lease);
        result
    }

    /// Bytes of a part of a group that is in memory.
    fn part(&self, layer: u32, group: u32, part: GroupPart) -> Option<&[u8]> {
        let LayerGroups { shape, first_slice } = self.layer(layer)?;
        let neurons = shape.neurons(group);
        let neurons = neurons.end.checked_sub(neurons.start)?;
        if part == GroupPart::Trigger && self.resident == Resident::Triggers {
            let start = first_slice.checked_mul(group as usize)?;
            return self.triggers.part(layer as usize, start..start + shape.trigger_row as usize * neurons as usize);
        }
        let slot = (self.recent.slot(layer, group)? as usize).checked_mul(self.slot)?;
        // Slice 1 of the last group may start earlier than the others'.
        let second = match self.resident {
            Resident::Triggers => slot,
            Resident::Nothing => slot + shape.used(neurons)[0].next_multiple_of(self.alignment) as usize,
        };
        let (start, length) = match part {
            GroupPart::Trigger => (slot, shape.trigger_row * neurons as u64),
            GroupPart::Up => (second, shape.up_row * neurons as u64),
            GroupPart::Down => (second + shape.down_offset as usize, shape.down_row(neurons) * shape.down_rows(neurons) as u64),
        };
        self.window.part(0, start..start.checked_add(length as usize)?)
    }
}

/// The record of the first of `groups` of a layer (ascending), and how many of them, up to `most` bytes, follow each other in the file, each as long as the first.
///
/// Errors: [`Error::Format`] for a group that the layer has not.
pub(super) fn neighbours(pack: &Pack, layer: u32, groups: impl IntoIterator<Item = u32>, most: u64) -> Result<(&Record, u32)> {
    let record = |group: u32| pack.index.get(BundleId::neurons(layer, group));
    let format = |error| Error::Format { file: pack.path.clone(), error };
    let mut groups = groups.into_iter();
    let first = groups.next().unwrap_or(u32::MAX);
    let found = record(first).map_err(format)?;
    let most = most / found.length.max(1);
    let mut count = 1;
    for group in groups {
        if group.checked_sub(first) != Some(count) || u64::from(count) >= most {
            break;
        }
        let next = record(group).map_err(format)?;
        if (next.offset, next.length) != (found.offset.saturating_add(found.length * u64::from(count)), found.length) {
            break;
        }
        count += 1;
    }
    Ok((found, count))
}

/// Why there are no [`Neurons`].
pub(super) enum NewError {
    Format(FormatError),
    Memory(std::io::Error),
}

impl From<FormatError> for NewError {
    fn from(error: FormatError) -> Self {
        NewError::Format(error)
    }
}

impl From<std::io::Error> for NewError {
    fn from(error: std::io::Error) -> Self {
        NewError::Memory(error)
    }
}

impl Store {
    /// What of the neuron groups is in memory from start to end.
    pub fn resident(&self) -> Resident {
        self.neurons.resident
    }

    /// Sizes of a layer's neuron groups, if it has any.
    pub fn group_shape(&self, layer: u32) -> Option<&GroupShape> {
        self.neurons.layer(layer).map(|l| &l.shape)
    }

    /// Groups stay for at most so many steps after their last use, even where there is room: for measurements.
    pub fn limit_window(&mut self, steps: u32) {
        self.neurons.most_steps = steps;
    }

    /// The two slices of a group are read by requests of their own, as if they lay apart: for measurements.
    pub fn read_apart(&mut self, on: bool) {
        self.neurons.apart = on;
    }

    /// A layer's resident triggers, `[inner, hidden]`; an empty matrix if they are not resident.
    pub fn triggers(&self, layer: u32) -> Matrix<'_> {
        let matrix = || {
            let LayerGroups { shape, first_slice } = self.neurons.layer(layer)?;
            let bytes = self.neurons.triggers.bytes(layer as usize).filter(|b| !b.is_empty())?;
            let whole = Matrix::whole(shape.trigger, shape.inner as usize, shape.hidden as usize, bytes);
            Some(Matrix { piece_rows: shape.group as usize, piece_stride: *first_slice, ..whole })
        };
        matrix().unwrap_or(Matrix::whole(QuantType::F32, 0, 0, &[]))
    }

    /// A layer with neuron groups is about to be computed for `rows` rows.
    ///
    /// Errors: [`Error::Io`] if memory was lost when an I/O backend failed.
    pub fn visit_groups(&mut self, layer: u32, rows: usize) -> Result<()> {
        let first = !(0..layer).any(|l| self.neurons.layer(l).is_some());
        let neurons = &mut self.neurons;
        neurons.recent.visit(first);
        neurons.missed = 0;
        // As with experts: a prompt walks through nearly all groups, and what decoding needs stays.
        neurons.keep = rows <= super::DECODE_ROWS;
        if neurons.recent.newest_span() > neurons.most_steps {
            neurons.recent.clear();
        }
        while self.neurons.recent.span() > self.neurons.most_steps
            && let Some(slot) = self.neurons.recent.oldest()
        {
            self.drop_group(slot)?;
        }
        Ok(())
    }

    /// Wants groups of the layer that is being visited (ascending, none wanted before in this visit): those that are not there are queued, neighbours together.
    ///
    /// Errors: [`Error::Format`] for a group that the layer has not; [`Error::Request`] if they and what was wanted before do not fit the window.
    pub fn want_groups(&mut self, layer: u32, groups: &[u32], pool: &Pool) -> Result<()> {
        let neurons = &mut self.neurons;
        let mut missing = std::mem::take(&mut neurons.missing);
        missing.clear();
        let keep = neurons.keep;
        missing.extend(groups.iter().copied().filter(|&g| neurons.recent.touch(layer, g, keep).is_none()));
        self.hits += (groups.len() - missing.len()) as u64;
        self.misses += missing.len() as u64;
        self.neurons.missed += missing.len();
        let read = self.make_room(layer, missing.len(), pool).and_then(|()| self.read_groups(layer, &missing));
        self.neurons.missing = missing;
        read?;
        self.start()
    }

    /// Has `count` slots free.
    fn make_room(&mut self, layer: u32, count: usize, pool: &Pool) -> Result<()> {
        if self.neurons.recent.free() >= count {
            return Ok(());
        }
        // Slots move, and none may be written to meanwhile.
        self.await_groups(pool)?;
        while self.neurons.recent.free() < count {
            let Some(slot) = self.neurons.recent.oldest() else {
                let slots = self.neurons.recent.slots();
                return Err(Error::Request(format!("layer {layer}: more neuron groups are wanted at once than the window's {slots}")));
            };
            self.drop_group(slot)?;
        }
        Ok(())
    }

    /// Takes a group out of the window. Nothing is on its way.
    fn drop_group(&mut self, slot: u32) -> Result<()> {
        let neurons = &mut self.neurons;
        if let Some(moved) = neurons.recent.remove(slot) {
            let at = |slot: u32| slot as usize * neurons.slot;
            if !neurons.window.copy(0, at(moved.from), at(moved.to), neurons.slot) {
                return Err(lost(&self.pack, BundleId::neurons(0, 0)));
            }
        }
        Ok(())
    }

    /// Queues groups that are not there, into free slots.
    fn read_groups(&mut self, layer: u32, missing: &[u32]) -> Result<()> {
        let mut rest = missing;
        while let Some(&first) = rest.first() {
            let id = BundleId::neurons(layer, first);
            let whole = self.neurons.resident == Resident::Nothing;
            // Neighbours in the file are neighbours in memory, if they are as long as a slot.
            let most = if whole && !self.neurons.apart { self.io.pace.request as u64 } else { 0 };
            let (record, mut count) = neighbours(&self.pack, layer, rest.iter().copied(), most)?;
            let length = record.length;
            if length != self.neurons.slot as u64 {
                count = 1;
            }
            let second = self.pack.index.layout(record).slices.first().copied().unwrap_or(0);
            let part = if whole { 0..length * u64::from(count) } else { second..length };
            let (now, later) = rest.split_at(count as usize);
            let mut place = None;
            for &group in now {
                let slot = self.neurons.recent.insert(layer, group, self.neurons.keep).ok_or_else(|| lost(&self.pack, id))?;
                place.get_or_insert(slot as usize);
            }
            let at = place.unwrap_or(0) * self.neurons.slot;
            let (halves, together) = ([(at, 0..second), (at + second as usize, second..length)], [(at, part)]);
            let parts = if whole && self.neurons.apart { &halves[..] } else { &together[..] };
            for (at, part) in parts {
                let read = self.io.read_groups(&mut self.neurons.window, (0, *at), record, count, part.clone());
                read.ok_or_else(|| lost(&self.pack, id))?;
                self.neurons.in_flight += 1;
            }
            self.neurons.since.get_or_insert_with(Instant::now);
            rest = later;
        }
        Ok(())
    }

    /// Notes what arrived.
    pub(super) fn take_in_groups(&mut self, arrival: reader::Arrival) {
        let reader::Arrival { fetch, lease, result, .. } = arrival;
        let neurons = &mut self.neurons;
        neurons.window.restore(lease);
        neurons.in_flight -= 1;
        if let Err(e) = result {
            neurons.failed.get_or_insert(e);
        }
        debug_assert_eq!(fetch.id.kind, Kind::NeuronGroup);
    }

    /// Takes in what has arrived, without waiting: for while something else is computed.
    ///
    /// Errors: as [`Store::advance`].
    pub fn groups_meanwhile(&mut self, pool: &Pool) -> Result<()> {
        while self.neurons.in_flight > 0 && self.advance(pool, false)? {}
        Ok(())
    }

    /// Waits for all groups that are wanted.
    ///
    /// Errors: [`Error::Io`] or [`Error::Format`] naming the group that cannot be read. Nothing is in flight any more then, and the window is empty but usable.
    pub fn await_groups(&mut self, pool: &Pool) -> Result<()> {
        while self.neurons.in_flight > 0 {
            if !self.advance(pool, true)? {
                return Err(lost(&self.pack, BundleId::neurons(0, 0)));
            }
        }
        if let Some(since) = self.neurons.since.take() {
            self.neurons.time += since.elapsed();
        }
        match self.neurons.failed.take() {
            None => Ok(()),
            Some(error) => {
                // Which slots hold good bytes is not worth knowing after an error that ends the step.
                self.neurons.recent.clear();
                Err(error)
            }
        }
    }

    /// The layer is computed: groups that nobody wanted for longest leave, until the next layer has room to begin reading at once.
    ///
    /// Errors: as [`Store::await_groups`].
    pub fn leave_groups(&mut self, pool: &Pool) -> Result<()> {
        self.await_groups(pool)?;
        let neurons = &mut self.neurons;
        neurons.recent.leave();
        // A quarter more than was missing lately, which fades; never so much that it would cost the window itself.
        neurons.reserve = (neurons.missed + neurons.missed / 4).max(neurons.reserve - neurons.reserve / 8).min(neurons.recent.slots() / 16);
        let wanted_free = neurons.reserve.min(neurons.recent.groups().saturating_sub(neurons.recent.slots()));
        while self.neurons.recent.free() < wanted_free {
            let Some(slot) = self.neurons.recent.oldest() else { break };
            self.drop_group(slot)?;
        }
        Ok(())
    }

    /// The rows of a part of `groups`, which are in the window (or resident), as pieces of a matrix, into `list`.
    ///
    /// Errors: [`Error::Io`] if one is not there.
    pub fn group_rows<'a>(&'a self, layer: u32, groups: &[u32], part: GroupPart, list: &mut Vec<&'a [u8]>) -> Result<()> {
        for &group in groups {
            let rows = self.neurons.part(layer, group, part);
            list.push(rows.ok_or_else(|| lost(&self.pack, BundleId::neurons(layer, group)))?);
        }
        Ok(())
    }

    /// How a layer's part of down is stored.
    pub fn down_order(&self, layer: u32) -> Option<NeuronDown> {
        self.neurons.layer(layer).map(|l| l.shape.down_order)
    }

    /// Steps since the neuron group that leaves next was used.
    pub fn window_span(&self) -> u32 {
        self.neurons.span()
    }

    /// Empties the window of neuron groups.
    pub(super) fn clear_groups(&mut self, pool: &Pool) -> Result<()> {
        let ended = self.await_groups(pool);
        self.neurons.recent.clear();
        ended
    }
}
