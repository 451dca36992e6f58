//! The plan: which source rows go to which bytes of the pack. Pure: made from headers and the binding alone, so that `--dry-run` can print
//! it, `--resume` can compare it, and any thread can compute any piece of the pack by itself.
//!
//! Runs lie in this order: embedding, trunk runs, head, neuron groups (layer by layer, group by group), experts (layer by layer, expert by expert), carried tensors.
//! Sections follow.

mod identity;
pub mod kinds;
mod neurons;
mod segments;
pub mod slices;
mod tilings;
pub mod types;

use crate::arch::{Binding, Bound, BoundExpert};
use crate::encode::{WeightClass, sketch_type};
use crate::error::{Error, Result};
use crate::source::{Checkpoint, Tensor};
use forebay_format::layout::index::{BundleId, Index, Kind, Layout};
use forebay_format::layout::manifest::{CarriedTensor, ExpertPlace, ExpertSlice, Manifest, TensorPlace};
use forebay_format::layout::{DEFAULT_ALIGNMENT, DEFAULT_CHUNK_BYTES, SUPERBLOCK_BYTES, align_up};
use forebay_format::model::{Ffn, Role};
use forebay_format::shapes::TensorShape;
use forebay_format::validate_pack::{TENSOR_ALIGNMENT, matrix_bytes, role_name};
use forebay_format::{QuantType, Tiling};
pub use neurons::{Columns, Neurons};
pub use segments::Segment;
use slices::ExpertShape;
use std::collections::HashMap;
pub use tilings::Tilings;
pub use types::Quantize;

/// One aligned run of the pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What it holds.
    pub id: BundleId,
    /// First byte in the file.
    pub offset: u64,
    /// Bytes, padding included.
    pub length: u64,
    /// Bytes without padding.
    pub used: u64,
    /// Position in [`Plan::layouts`].
    pub layout: u32,
    /// Bundles that it is: experts `id.ordinal .. id.ordinal + copies` share it. 1 but in synthetic packs.
    pub copies: u32,
}

/// Source ranges to destination ranges, and everything else that is known before a weight is read.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What happens to the weights.
    pub quantize: Quantize,
    /// Alignment of runs, slices and sections.
    pub alignment: u32,
    /// Length of a chunk with a fast sum.
    pub chunk_bytes: u32,
    /// Identity of the pack.
    pub pack_id: [u8; 16],
    /// The manifest.
    pub manifest: Manifest,
    /// Distinct layouts.
    pub layouts: Vec<Layout>,
    /// Runs in file order, without gaps.
    pub runs: Vec<Run>,
    /// End of the last run.
    pub payload_end: u64,
    /// Lines for the user about what the pack leaves out or carries.
    pub remarks: Vec<String>,
    binding: Sources,
}

/// The part of the binding that segments are computed from.
#[derive(Clone, Debug)]
struct Sources {
    embedding: Vec<Bound>,
    trunk: Vec<Vec<Bound>>,
    head: Vec<Bound>,
    neurons: Vec<Option<neurons::BoundNeurons>>,
    experts: Vec<Vec<BoundExpert>>,
    carried: Vec<usize>,
}

/// What the user decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choices {
    /// What happens to the weights.
    pub quantize: Quantize,
    /// What happens to dense networks with neurons that may be zero.
    pub neurons: Neurons,
    /// What happens to matrices that are faster interleaved.
    pub tilings: Tilings,
    /// Experts of a layer in one extent (those that are left share one of their own): 1 but for synthetic packs.
    pub copies: u32,
}

/// Who wrote a pack. The number changes when, and only when, the same source gives other bytes: frozen packs in `format-spec/vectors` are
/// then frozen anew beside the old ones.
pub const WRITER: &str = "forebay-repack, writer 1";
/// Who wrote a pack with neuron groups: of the same source, writer 1 made one without.
pub const WRITER_OF_GROUPS: &str = "forebay-repack, writer 2";
/// Who wrote a pack with interleaved rows: of the same source, the others made one without.
pub const WRITER_OF_TILES: &str = "forebay-repack, writer 3";

impl Plan {
    /// Plans the conversion with everything in the trunk runs that is not an expert, row by row. Fails if a type is not supported, or if the binding does not fit the tensors.
    pub fn new(checkpoint: &Checkpoint, binding: &Binding, quantize: Quantize) -> Result<Plan> {
        Plan::with(checkpoint, binding, Choices { quantize, neurons: Neurons::Off, tilings: Tilings::Off, copies: 1 })
    }

    /// Plans the conversion as chosen. Fails as [`Plan::new`].
    pub fn with(checkpoint: &Checkpoint, binding: &Binding, choices: Choices) -> Result<Plan> {
        check_binding(checkpoint, binding)?;
        let Choices { quantize, tilings, copies, .. } = choices;
        let (spec, hidden) = (&binding.spec, binding.spec.hidden);
        let mut layout = Runs::new(DEFAULT_ALIGNMENT);
        let planner = Planner { checkpoint, quantize, tilings, copies, layers: binding.trunk.len(), tied: spec.tied_head };
        let mut remarks = binding.remarks.clone();
        let embedding = planner.places(&mut layout, BundleId::global(Kind::Embedding, 0), &binding.embedding)?;
        let mut sources = Sources {
            embedding: binding.embedding.clone(),
            trunk: Vec::with_capacity(spec.layers.len()),
            head: binding.head.clone(),
            neurons: Vec::with_capacity(spec.layers.len()),
            experts: binding.experts.clone(),
            carried: binding.carried.clone(),
        };
        let (mut trunk, mut neurons) = (Vec::with_capacity(spec.layers.len()), Vec::with_capacity(spec.layers.len()));
        for ((layer, bound), spec) in (0u32..).zip(&binding.trunk).zip(&spec.layers) {
            let cut = match choices.neurons {
                Neurons::Auto => planner.cut(layer, bound, &spec.ffn, hidden, &mut remarks)?,
                Neurons::Off => None,
            };
            let (cut, place) = cut.unzip();
            let bound = cut.as_ref().map_or_else(|| bound.clone(), |cut| neurons::beside(bound, cut));
            trunk.push(planner.places(&mut layout, BundleId::trunk(layer), &bound)?);
            sources.trunk.push(bound);
            sources.neurons.push(cut);
            neurons.push(place);
        }
        let head = planner.places(&mut layout, BundleId::global(Kind::Head, 0), &binding.head)?;
        for (layer, cut) in (0u32..).zip(&sources.neurons) {
            cut.iter().try_for_each(|cut| planner.groups(&mut layout, layer, cut))?;
        }
        let mut experts = Vec::with_capacity(binding.experts.len());
        for ((layer, bound), spec) in (0u32..).zip(&binding.experts).zip(&spec.layers) {
            experts.push(planner.experts(&mut layout, layer, bound, &spec.ffn, hidden)?);
        }
        let carried = planner.carried(&mut layout, &binding.carried)?;
        let grouped = neurons.iter().any(Option::is_some);
        let mut manifest = Manifest {
            writer: if grouped { WRITER_OF_GROUPS } else { WRITER }.into(),
            spec: spec.clone(),
            embedding,
            trunk,
            head,
            experts,
            neurons: if grouped { neurons } else { Vec::new() },
            carried,
            tokenizer: binding.tokenizer.clone(),
            chat_template: binding.chat_template.clone(),
            generation: binding.generation.clone(),
            provenance: identity::provenance(checkpoint, binding, quantize),
        };
        let tiled = manifest.has_tiles();
        if tiled {
            manifest.writer = WRITER_OF_TILES.into();
        }
        let alignment = layout.alignment as u32;
        Ok(Plan {
            quantize,
            alignment,
            chunk_bytes: DEFAULT_CHUNK_BYTES,
            pack_id: identity::pack_id(checkpoint, quantize, (grouped, tiled), alignment, DEFAULT_CHUNK_BYTES),
            manifest,
            layouts: layout.layouts,
            runs: layout.runs,
            payload_end: layout.end,
            remarks,
            binding: sources,
        })
    }

    /// First byte of the first run.
    pub fn payload_start(&self) -> u64 {
        SUPERBLOCK_BYTES as u64
    }

    /// Layout of a run.
    pub fn layout(&self, run: &Run) -> &Layout {
        &self.layouts[run.layout as usize]
    }

    /// Bundles that the runs are.
    pub fn bundles(&self) -> u64 {
        self.runs.iter().map(|r| r.copies as u64).sum()
    }

    /// Bytes of weights, padding included.
    pub fn payload_bytes(&self) -> u64 {
        self.runs.iter().map(|r| r.length).sum()
    }

    /// The plan with the places of an existing pack, so that it computes what should lie there. Fails with the reason if they are not
    /// packs of the same model.
    pub fn adopt(mut self, manifest: &Manifest, index: &Index) -> std::result::Result<Plan, String> {
        if self.manifest.spec != manifest.spec {
            return Err("the source describes another model than the pack".into());
        }
        let carried = |m: &Manifest| m.carried.iter().map(|c| (c.name.clone(), c.shape.clone())).collect::<Vec<_>>();
        if carried(&self.manifest) != carried(manifest) {
            return Err("the source has other unused tensors than the pack carries".into());
        }
        let cut = |m: &Manifest| m.neurons.iter().map(|n| n.as_ref().map(|n| (n.group, n.down_offset))).collect::<Vec<_>>();
        if cut(&self.manifest) != cut(manifest) {
            return Err("the pack's neurons are grouped in another way than this version groups those of the source".into());
        }
        for run in &mut self.runs {
            let record = index.get(run.id).map_err(|e| e.to_string())?;
            (run.offset, run.length, run.layout) = (record.offset, record.length, record.layout);
        }
        if self.runs.len() != index.records().len() {
            return Err(format!("the pack has {} bundles, the source gives {}", index.records().len(), self.runs.len()));
        }
        self.runs.sort_unstable_by_key(|r| r.offset);
        self.layouts = index.layouts().to_vec();
        self.manifest = manifest.clone();
        Ok(self)
    }

    /// An upper bound of the file's length; `metadata` is the size of the source's metadata.
    pub fn file_bytes_bound(&self, metadata: u64) -> u64 {
        let chunks: u64 = self.runs.iter().map(|r| self.layout(r).chunk_count(self.chunk_bytes) * r.copies as u64).sum();
        let index = chunks * 8 + self.bundles() * 80 + self.layouts.len() as u64 * 512 + self.manifest.trunk.len() as u64 * 64;
        let manifest = serde_json::to_vec(&self.manifest).map_or(0, |j| j.len() as u64);
        self.payload_end + index + manifest + metadata + 8 * self.alignment as u64
    }
}

/// Runs laid out so far.
struct Runs {
    alignment: u64,
    end: u64,
    runs: Vec<Run>,
    layouts: Vec<Layout>,
    numbers: HashMap<Vec<u64>, u32>,
}

impl Runs {
    fn new(alignment: u32) -> Self {
        let alignment = alignment as u64;
        Runs { alignment, end: alignment.max(SUPERBLOCK_BYTES as u64), runs: Vec::new(), layouts: Vec::new(), numbers: HashMap::new() }
    }

    /// Appends a run cut into `slices`, which are multiples of the alignment.
    fn push(&mut self, id: BundleId, used: u64, slices: Vec<u64>, copies: u32) -> Result<()> {
        let too_large = || Error::Unsupported { what: format!("{id}: its size"), hint: "it does not fit a 64-bit offset".into() };
        let length = slices.iter().try_fold(0u64, |n, &s| n.checked_add(s)).ok_or_else(too_large)?;
        let offset = self.end;
        self.end = offset.checked_add(length).ok_or_else(too_large)?;
        let layout = match self.numbers.get(&slices) {
            Some(&n) => n,
            None => {
                let n = self.layouts.len() as u32;
                self.numbers.insert(slices.clone(), n);
                self.layouts.push(Layout { slices });
                n
            }
        };
        self.runs.push(Run { id, offset, length, used, layout, copies });
        Ok(())
    }
}

/// The binding has what the spec needs, in that order: a reader will check the same, but hours later.
fn check_binding(checkpoint: &Checkpoint, binding: &Binding) -> Result<()> {
    let malformed = |why: String| Error::Malformed { file: checkpoint.path.clone(), why };
    let spec = &binding.spec;
    spec.validate().map_err(|e| malformed(e.to_string()))?;
    if binding.trunk.len() != spec.layers.len() || binding.experts.len() != spec.layers.len() {
        return Err(malformed(format!("{} layers are bound, the model has {}", binding.trunk.len(), spec.layers.len())));
    }
    let same = |what: String, bound: &[Bound], needed: Vec<TensorShape>| {
        let shapes = bound.iter().map(|b| TensorShape { role: b.role, rows: b.rows, cols: b.cols });
        if shapes.clone().eq(needed.iter().copied()) {
            return Ok(());
        }
        let list = |tensors: Vec<TensorShape>| {
            tensors.iter().map(|t| format!("{} [{}, {}]", role_name(t.role), t.rows, t.cols)).collect::<Vec<_>>().join(", ")
        };
        Err(malformed(format!("{what}: the model needs {}; bound are {}", list(needed), list(shapes.collect()))))
    };
    same("embedding".into(), &binding.embedding, spec.embedding_tensors())?;
    same("head".into(), &binding.head, spec.head_tensors())?;
    for (i, ((layer, bound), experts)) in spec.layers.iter().zip(&binding.trunk).zip(&binding.experts).enumerate() {
        same(format!("layer {i}"), bound, layer.tensors(spec.hidden).map_err(|e| malformed(e.to_string()))?)?;
        let need = match &layer.ffn {
            Ffn::Routed(r) => r.experts as usize,
            Ffn::Dense(_) => 0,
        };
        if experts.len() != need {
            return Err(malformed(format!("layer {i}: {} experts are bound, the model has {need}", experts.len())));
        }
    }
    Ok(())
}

struct Planner<'a> {
    checkpoint: &'a Checkpoint,
    quantize: Quantize,
    tilings: Tilings,
    /// Experts in one extent.
    copies: u32,
    layers: usize,
    tied: bool,
}

impl Planner<'_> {
    fn tensor(&self, number: usize) -> Result<&Tensor> {
        let file = self.checkpoint.path.clone();
        self.checkpoint
            .tensors
            .get(number)
            .ok_or_else(|| Error::Malformed { file, why: format!("the binding names tensor number {number}") })
    }

    fn malformed(&self, tensor: &Tensor, why: String) -> Error {
        let file = self.checkpoint.files.get(tensor.file).map_or_else(|| self.checkpoint.path.clone(), |f| f.path.clone());
        Error::Malformed { file, why: format!("tensor {}: {why}", tensor.name) }
    }

    /// Checks that the source rows are there and are as many bytes as `rows x cols` take.
    fn check_rows(&self, rows: &crate::arch::Rows, need_rows: u64, cols: u64) -> Result<&Tensor> {
        let tensor = self.tensor(rows.tensor)?;
        let qtype = types::weight_type(tensor)?;
        if rows.first.checked_add(rows.count).is_none_or(|end| end > tensor.rows()) {
            return Err(self.malformed(tensor, format!("has {} rows, not {} at {}", tensor.rows(), rows.count, rows.first)));
        }
        let have = matrix_bytes(qtype, rows.count, tensor.cols());
        let need = matrix_bytes(qtype, need_rows, cols).filter(|&b| b > 0);
        if need.is_none() || have != need {
            let why = format!("{} rows of {} values of {} are not {need_rows} x {cols}", rows.count, tensor.cols(), qtype.name());
            return Err(self.malformed(tensor, why));
        }
        Ok(tensor)
    }

    fn places(&self, runs: &mut Runs, id: BundleId, bound: &[Bound]) -> Result<Vec<TensorPlace>> {
        let mut end = 0u64;
        let mut places = Vec::with_capacity(bound.len());
        for b in bound {
            let tensor = self.check_rows(&b.source, b.rows as u64, b.cols as u64)?;
            let class = WeightClass::of(b.role, id.layer as usize, self.layers, self.tied);
            let qtype = match b.role {
                Role::NeuronSketch => sketch_type(b.cols as usize),
                _ => self.quantize.stored(tensor, class, b.cols)?,
            };
            let bytes = matrix_bytes(qtype, b.rows as u64, b.cols as u64);
            let offset = align_up(end, TENSOR_ALIGNMENT);
            let (bytes, offset) = bytes.zip(offset).ok_or_else(|| self.malformed(tensor, "its size overflows".into()))?;
            end = offset.checked_add(bytes).ok_or_else(|| self.malformed(tensor, "its size overflows".into()))?;
            let (role, rows, cols, source) = (b.role, b.rows, b.cols, tensor.name.clone());
            let tiling = self.tilings.of_tensor(role, qtype, rows as u64, cols as u64);
            places.push(TensorPlace { role, qtype, rows, cols, offset, tiling, source });
        }
        let length = align_up(end, runs.alignment).unwrap_or(u64::MAX).max(runs.alignment);
        runs.push(id, end, vec![length], 1)?;
        Ok(places)
    }

    fn experts(&self, runs: &mut Runs, layer: u32, bound: &[BoundExpert], ffn: &Ffn, hidden: u32) -> Result<Option<ExpertPlace>> {
        let (Some(first), Ffn::Routed(routed)) = (bound.first(), ffn) else { return Ok(None) };
        let inner = routed.expert.inner;
        let mut kinds = None;
        for (number, e) in bound.iter().enumerate() {
            let mut stored = [QuantType::F32; 3];
            let down = WeightClass::down(layer as usize, self.layers);
            let gate_up = WeightClass::GateUp;
            let parts = [(&e.gate, inner, hidden, gate_up), (&e.up, inner, hidden, gate_up), (&e.down, hidden, inner, down)];
            for (slot, (rows, count, cols, class)) in stored.iter_mut().zip(parts) {
                let tensor = self.check_rows(rows, count as u64, cols as u64)?;
                if tensor.cols() != cols as u64 {
                    return Err(self.malformed(tensor, format!("rows of {} values, an expert needs {cols}", tensor.cols())));
                }
                *slot = self.quantize.stored(tensor, class, cols)?;
            }
            if *kinds.get_or_insert(stored) != stored {
                return Err(Error::Unsupported {
                    what: format!("layer {layer} expert {number} with other types than expert 0"),
                    hint: "all experts of a layer must have the same types; quantise them alike".into(),
                });
            }
        }
        let Some([gate, up, down]) = kinds else { return Ok(None) };
        let row = |q: QuantType, cols: u32| q.row_bytes(cols as usize).map_or(0, |b| b as u64);
        let shape = ExpertShape { inner, hidden, gate_row: row(gate, hidden), up_row: row(up, hidden), down_row: row(down, inner) };
        let tensor = self.tensor(first.gate.tensor)?;
        let (slices, lengths) = slices::cut(&shape, runs.alignment).ok_or_else(|| self.malformed(tensor, "its size overflows".into()))?;
        // Cannot overflow: `cut` has computed the padded sizes.
        let used = inner as u64 * (shape.gate_row + shape.up_row) + hidden as u64 * shape.down_row;
        let count = bound.len() as u32;
        for ordinal in (0..count).step_by(self.copies.max(1) as usize) {
            runs.push(BundleId::expert(layer, ordinal), used, lengths.clone(), self.copies.max(1).min(count - ordinal))?;
        }
        let second = bound.get(1).unwrap_or(first);
        let name = |a: usize, b: usize| Ok(identity::pattern(&self.tensor(a)?.name, &self.tensor(b)?.name));
        let source = [
            name(first.gate.tensor, second.gate.tensor)?,
            name(first.up.tensor, second.up.tensor)?,
            name(first.down.tensor, second.down.tensor)?,
        ];
        let (tiling, down_tiling) = self.expert_tilings([gate, up, down], [hidden, inner], &slices);
        Ok(Some(ExpertPlace { gate, up, down, tiling, down_tiling, slices, source }))
    }

    /// Orders of gate and up rows, and of down rows: interleaved if that pays and all slices are whole tiles.
    fn expert_tilings(&self, [gate, up, down]: [QuantType; 3], [hidden, inner]: [u32; 2], slices: &[ExpertSlice]) -> (Tiling, Tiling) {
        let of = |qtype: QuantType, rows: u32, cols: u32| self.tilings.of(qtype, rows as u64, cols as u64);
        let gate_up = slices.iter().filter_map(|s| match *s {
            ExpertSlice::GateUp { rows, .. } => Some(of(gate, rows, hidden).min(of(up, rows, hidden))),
            ExpertSlice::Down { .. } => None,
        });
        let down = slices.iter().filter_map(|s| match *s {
            ExpertSlice::GateUp { .. } => None,
            ExpertSlice::Down { rows, .. } => Some(of(down, rows, inner)),
        });
        // The least: row after row, if one of them has to be.
        (gate_up.min().unwrap_or_default(), down.min().unwrap_or_default())
    }

    fn carried(&self, runs: &mut Runs, carried: &[usize]) -> Result<Vec<CarriedTensor>> {
        let mut out = Vec::with_capacity(carried.len());
        for (ordinal, &number) in (0u32..).zip(carried) {
            let tensor = self.tensor(number)?;
            let qtype = types::weight_type(tensor)?;
            let bytes = matrix_bytes(qtype, tensor.rows(), tensor.cols()).filter(|&b| b > 0);
            let bytes = bytes.ok_or_else(|| self.malformed(tensor, "its size overflows or is zero".into()))?;
            let length = align_up(bytes, runs.alignment).ok_or_else(|| self.malformed(tensor, "its size overflows".into()))?;
            runs.push(BundleId::global(Kind::Carried, ordinal), bytes, vec![length], 1)?;
            out.push(CarriedTensor { name: tensor.name.clone(), qtype, shape: tensor.shape.clone() });
        }
        Ok(out)
    }
}
