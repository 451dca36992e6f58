//! Do manifest and index describe the same pack? Pure; both readers (the reference reader and the runtime) call it after decoding, so that what
//! follows may index by what the manifest says without checking again.

use crate::error::FormatError;
use crate::layout::index::{BundleId, GLOBAL, Index, Kind, Record};
use crate::layout::manifest::{CarriedTensor, ExpertPlace, ExpertSlice, Manifest, NeuronPlace, TensorPlace, Tiling};
use crate::layout::superblock::{Superblock, hex};
use crate::layout::{FEATURE_ALIASED, FEATURE_EXPERTS, FEATURE_NEURON_GROUPS, FEATURE_TILED_ROWS, OPTIONAL_CARRIED, OPTIONAL_SOURCE};
use crate::model::{Ffn, GatedFfn, Role};
use crate::neurons::{GroupShape, MAX_GROUP_BYTES};
use crate::quant::QuantType;
use crate::shapes::TensorShape;

/// Offsets of matrices inside a run or a slice are multiples of this (a cache line, and the widest SIMD load).
pub const TENSOR_ALIGNMENT: u64 = 64;

/// Checks the spec itself, and the manifest against spec and index: as many layers, runs, experts and carried tensors; the tensors that the spec needs, in
/// execution order and of its shapes; every tensor inside its run, 64-byte aligned, in order,
/// overlapping nothing; an expert's slices equal to the index layout of each of its layer's bundles, uniform, covering every row once.
pub fn check(manifest: &Manifest, index: &Index) -> Result<(), FormatError> {
    let layers = index.layers() as usize;
    for (what, have) in [("spec.layers", manifest.spec.layers.len()), ("trunk", manifest.trunk.len()), ("experts", manifest.experts.len())]
    {
        equal(format!("manifest: {what}"), have as u64, layers as u64, "layers in the index")?;
    }
    if !manifest.neurons.is_empty() {
        equal("manifest: neurons".into(), manifest.neurons.len() as u64, layers as u64, "layers in the index")?;
        if manifest.neurons.iter().all(Option::is_none) {
            return Err(FormatError::invalid("manifest: neurons", "no layer has any"));
        }
    }
    manifest.spec.validate()?;
    let (spec, embedding, head) = (&manifest.spec, BundleId::global(Kind::Embedding, 0), BundleId::global(Kind::Head, 0));
    check_run(index, embedding, &manifest.embedding, &spec.embedding_tensors())?;
    check_run(index, head, &manifest.head, &spec.head_tensors())?;
    let layer_parts = manifest.spec.layers.iter().zip(&manifest.trunk).zip(&manifest.experts);
    for (layer, ((spec, trunk), experts)) in (0u32..).zip(layer_parts) {
        let groups = manifest.neurons.get(layer as usize).and_then(Option::as_ref);
        let needed = if groups.is_some() { spec.tensors_beside_groups(manifest.spec.hidden)? } else { spec.tensors(manifest.spec.hidden)? };
        check_run(index, BundleId::trunk(layer), trunk, &needed)?;
        check_groups(index, layer, groups, &spec.ffn, manifest.spec.hidden)?;
        let count = index.count(Kind::Expert, layer);
        match (&spec.ffn, experts) {
            (Ffn::Routed(routed), Some(place)) => {
                equal(format!("layer {layer} experts"), count as u64, routed.experts as u64, "experts in the spec")?;
                check_experts(index, layer, place, &routed.expert, manifest.spec.hidden)?;
            }
            (Ffn::Dense(_), None) => equal(format!("layer {layer} experts"), count as u64, 0, "experts of a dense layer")?,
            _ => return Err(FormatError::invalid(format!("layer {layer} experts"), "places and spec disagree on whether it has any")),
        }
    }
    check_carried(index, &manifest.carried)?;
    check_tokens(manifest)
}

/// Special tokens are rows of the embedding: one outside the vocabulary could never be drawn, and feeding it would read past the matrix.
fn check_tokens(manifest: &Manifest) -> Result<(), FormatError> {
    let bos = manifest.tokenizer.iter().filter_map(|t| t.bos).map(|id| ("bos token", id));
    let mut named = bos.chain(manifest.generation.stop_tokens.iter().map(|&id| ("stop token", id)));
    match named.find(|&(_, id)| id >= manifest.spec.vocab) {
        Some((what, id)) => Err(FormatError::invalid(what, format!("{id} is outside the vocabulary of {}", manifest.spec.vocab))),
        None => Ok(()),
    }
}

/// Checks the superblock's identities and feature bits against manifest and index.
pub fn check_superblock(superblock: &Superblock, manifest: &Manifest, index: &Index) -> Result<(), FormatError> {
    let computed = index.content_id();
    if computed != superblock.content_id {
        return Err(FormatError::ChecksumMismatch {
            what: "the content id".into(),
            stored: hex(&superblock.content_id),
            computed: hex(&computed),
        });
    }
    let bits = [
        ("experts", superblock.required & FEATURE_EXPERTS, manifest.experts.iter().any(Option::is_some)),
        ("neuron groups", superblock.required & FEATURE_NEURON_GROUPS, !manifest.neurons.is_empty()),
        ("tiled rows", superblock.required & FEATURE_TILED_ROWS, manifest.has_tiles()),
        ("aliased bundles", superblock.required & FEATURE_ALIASED, index.aliased() > 0),
        ("carried tensors", superblock.optional & OPTIONAL_CARRIED, !manifest.carried.is_empty()),
        ("source section", superblock.optional & OPTIONAL_SOURCE, superblock.source.stored != 0),
    ];
    match bits.into_iter().find(|&(_, bit, there)| (bit != 0) != there) {
        Some((what, ..)) => Err(FormatError::invalid("feature bits", format!("the bit for {what} does not match the pack's contents"))),
        None => Ok(()),
    }
}

/// Bytes of `rows` rows of `cols` values.
pub fn matrix_bytes(qtype: QuantType, rows: u64, cols: u64) -> Option<u64> {
    let row = qtype.row_bytes(usize::try_from(cols).ok()?)?;
    rows.checked_mul(row as u64)
}

fn check_run(index: &Index, id: BundleId, places: &[TensorPlace], needed: &[TensorShape]) -> Result<(), FormatError> {
    equal(format!("{id}: records"), index.count(id.kind, id.layer) as u64, 1, "expected")?;
    let record = index.get(id)?;
    equal(format!("{id}: tensors"), places.len() as u64, needed.len() as u64, "in the spec")?;
    for (place, need) in places.iter().zip(needed) {
        if (place.role, place.rows, place.cols) != (need.role, need.rows, need.cols) {
            let have = format!("{} [{}, {}]", role_name(place.role), place.rows, place.cols);
            let want = format!("{} [{}, {}]", role_name(need.role), need.rows, need.cols);
            return Err(FormatError::invalid(id.to_string(), format!("has {have} where the spec needs {want}")));
        }
    }
    let mut end = 0u64;
    for place in places {
        let bad = |why: String| FormatError::invalid(format!("{id}, {}", role_name(place.role)), why);
        let bytes = matrix_bytes(place.qtype, place.rows as u64, place.cols as u64).filter(|&b| b > 0);
        let bytes = bytes.ok_or_else(|| bad(format!("{} x {} values of {} have no size", place.rows, place.cols, place.qtype.name())))?;
        let tiles = place.role.is_projection() && place.tiling.fits(place.qtype, place.rows as u64, place.cols as u64);
        if !tiles && !place.tiling.is_row_major() {
            return Err(bad(format!("{} x {} values of {} are not to be interleaved", place.rows, place.cols, place.qtype.name())));
        }
        if !place.offset.is_multiple_of(TENSOR_ALIGNMENT) {
            return Err(bad(format!("offset {} is not a multiple of {TENSOR_ALIGNMENT}", place.offset)));
        }
        if place.offset < end {
            return Err(bad(format!("offset {} lies inside the tensor before it, which ends at {end}", place.offset)));
        }
        end = place
            .offset
            .checked_add(bytes)
            .filter(|&end| end <= record.length)
            .ok_or_else(|| bad(format!("{bytes} bytes at {} do not fit the run of {}", place.offset, record.length)))?;
    }
    Ok(())
}

fn check_carried(index: &Index, carried: &[CarriedTensor]) -> Result<(), FormatError> {
    equal("carried tensors".into(), carried.len() as u64, index.count(Kind::Carried, GLOBAL) as u64, "carried records")?;
    for (ordinal, tensor) in (0u32..).zip(carried) {
        let record = index.get(BundleId::global(Kind::Carried, ordinal))?;
        let cols = tensor.shape.last().copied().unwrap_or(1);
        let rows = tensor.shape.iter().rev().skip(1).try_fold(1u64, |n, &d| n.checked_mul(d));
        let bytes = rows.and_then(|rows| matrix_bytes(tensor.qtype, rows, cols));
        if bytes.is_none_or(|b| b == 0 || b > record.length) {
            let why = format!("shape {:?} of {} does not fit its run of {} bytes", tensor.shape, tensor.qtype.name(), record.length);
            return Err(FormatError::invalid(format!("carried tensor {}", tensor.name), why));
        }
    }
    Ok(())
}

/// Groups of a layer: as many as its neurons make, each of two slices that hold it, all full groups cut alike.
fn check_groups(index: &Index, layer: u32, place: Option<&NeuronPlace>, ffn: &Ffn, hidden: u32) -> Result<(), FormatError> {
    let what = || format!("layer {layer} neuron groups");
    let count = index.count(Kind::NeuronGroup, layer);
    let (place, dense) = match (place, ffn) {
        (None, _) => return equal(what(), count as u64, 0, "of a layer without a place for them"),
        (Some(place), Ffn::Dense(dense)) => (place, dense),
        (Some(_), Ffn::Routed(_)) => return Err(FormatError::invalid(what(), "a layer of experts has none")),
    };
    let shape = GroupShape::new(place, dense, hidden).map_err(|e| in_layer(layer, e))?;
    equal(what(), count as u64, shape.groups() as u64, "by the number of neurons")?;
    let full = index.get(BundleId::neurons(layer, 0))?;
    for ordinal in 0..count {
        let record = index.get(BundleId::neurons(layer, ordinal))?;
        let neurons = shape.neurons(ordinal).len() as u32;
        if neurons == shape.group && ordinal > 0 && record.layout == full.layout {
            continue;
        }
        let bad = |why: String| Err(FormatError::invalid(record.id.to_string(), why));
        if neurons == shape.group && ordinal > 0 {
            return bad("is not cut like the first group of its layer".into());
        }
        let &[first, second] = index.layout(record).slices.as_slice() else {
            return bad(format!("{} slices, a group of neurons has two", index.layout(record).slices.len()));
        };
        let [trigger, rest] = shape.used(neurons);
        if trigger > first || rest > second || record.length > full.length || record.length > MAX_GROUP_BYTES {
            return bad(format!("{neurons} neurons of {trigger} and {rest} bytes do not fit slices of {first} and {second} bytes"));
        }
    }
    Ok(())
}

fn in_layer(layer: u32, e: FormatError) -> FormatError {
    match e {
        FormatError::Invalid { what, why } => FormatError::Invalid { what: format!("layer {layer} {what}"), why },
        other => other,
    }
}

fn check_experts(index: &Index, layer: u32, place: &ExpertPlace, expert: &GatedFfn, hidden: u32) -> Result<(), FormatError> {
    let mut checked: Option<&Record> = None;
    for ordinal in 0..index.count(Kind::Expert, layer) {
        let record = index.get(BundleId::expert(layer, ordinal))?;
        // The bundles of a layer almost always share one layout: check each distinct one.
        if checked.is_none_or(|c| c.layout != record.layout) {
            let slices = &index.layout(record).slices;
            check_slices(record.id, place, slices, expert, hidden)?;
            checked = Some(record);
        }
    }
    Ok(())
}

/// What slices of one kind must have in common, and the row that comes next.
struct Part {
    name: &'static str,
    total: u64,
    next: u64,
    /// Rows, length and offset of the up rows of the first slice.
    first: Option<(u32, u64, u64)>,
    /// A slice with fewer rows came: nothing may follow.
    ended: bool,
}

impl Part {
    fn new(name: &'static str, total: u32) -> Self {
        Part { name, total: total as u64, next: 0, first: None, ended: false }
    }

    fn push(&mut self, first_row: u32, rows: u32, length: u64, up_offset: u64) -> Result<(), String> {
        let (all_rows, all_length, all_offset) = *self.first.get_or_insert((rows, length, up_offset));
        if rows == 0 || first_row as u64 != self.next {
            return Err(format!("starts at {} row {first_row}, not at {}", self.name, self.next));
        }
        if self.ended || rows > all_rows || length > all_length || up_offset != all_offset || (rows == all_rows && length != all_length) {
            return Err(format!("its {} rows are not cut like those of the slices before", self.name));
        }
        self.ended = rows < all_rows;
        self.next += rows as u64;
        Ok(())
    }

    fn finish(&self) -> Result<(), String> {
        if self.next == self.total { Ok(()) } else { Err(format!("has {} of {} {} rows", self.next, self.total, self.name)) }
    }
}

fn check_slices(id: BundleId, place: &ExpertPlace, lengths: &[u64], expert: &GatedFfn, hidden: u32) -> Result<(), FormatError> {
    equal(format!("{id}: slices in the manifest"), place.slices.len() as u64, lengths.len() as u64, "slices in the index")?;
    let row = |qtype: QuantType, part: &str, cols: u32| {
        let bytes = qtype.row_bytes(cols as usize).filter(|&b| b > 0).map(|b| b as u64);
        bytes.ok_or_else(|| {
            FormatError::invalid(format!("{id}, {part}"), format!("rows of {cols} values are not whole {} blocks", qtype.name()))
        })
    };
    let gate_row = row(place.gate, "gate", hidden)?;
    let up_row = row(place.up, "up", hidden)?;
    let down_row = row(place.down, "down", expert.inner)?;
    let (mut gate_up, mut down) = (Part::new("gate/up", expert.inner), Part::new("down", hidden));
    for (i, (slice, &length)) in place.slices.iter().zip(lengths).enumerate() {
        let bad = |why: String| FormatError::invalid(format!("{id}, slice {i}"), why);
        let tiles = |tiling: Tiling, types: &[QuantType], rows: u32, cols: u32| match types
            .iter()
            .find(|&&t| !tiling.fits(t, rows as u64, cols as u64))
        {
            Some(t) => Err(bad(format!("{rows} x {cols} values of {} are not to be interleaved", t.name()))),
            None => Ok(()),
        };
        match *slice {
            ExpertSlice::GateUp { first_row, rows, up_offset } => {
                if down.first.is_some() {
                    return Err(bad("gate/up rows after down rows".into()));
                }
                gate_up.push(first_row, rows, length, up_offset).map_err(bad)?;
                tiles(place.tiling, &[place.gate, place.up], rows, hidden)?;
                // Rows are below 2^32 and a row of 2^32 values is below 2^35 bytes: only the product can overflow.
                let gate_end = gate_row.checked_mul(rows as u64);
                let up_end = up_row.checked_mul(rows as u64).and_then(|b| b.checked_add(up_offset));
                if !up_offset.is_multiple_of(TENSOR_ALIGNMENT)
                    || gate_end.is_none_or(|end| end > up_offset)
                    || up_end.is_none_or(|end| end > length)
                {
                    return Err(bad(format!("{rows} gate and up rows with the up rows at {up_offset} do not fit {length} bytes")));
                }
            }
            ExpertSlice::Down { first_row, rows } => {
                down.push(first_row, rows, length, 0).map_err(bad)?;
                tiles(place.down_tiling, &[place.down], rows, expert.inner)?;
                if down_row.checked_mul(rows as u64).is_none_or(|end| end > length) {
                    return Err(bad(format!("{rows} down rows do not fit {length} bytes")));
                }
            }
        }
    }
    gate_up.finish().and(down.finish()).map_err(|why| FormatError::invalid(id.to_string(), why))
}

/// Name of a role as the manifest spells it.
pub fn role_name(role: Role) -> String {
    serde_json::to_value(role).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_else(|| format!("{role:?}"))
}

fn equal(what: String, have: u64, want: u64, whose: &str) -> Result<(), FormatError> {
    if have == want { Ok(()) } else { Err(FormatError::invalid(what, format!("{have}, but {want} {whose}"))) }
}
