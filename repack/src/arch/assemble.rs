//! From a draft to a binding: every tensor the spec needs is found by name and checked, every other tensor is accounted for.

use super::draft::{Draft, malformed, unsupported};
use super::names::{ExpertNames, Names};
use super::{Bound, BoundExpert, Rows, head};
use crate::error::{Error, Result};
use crate::source::{Checkpoint, Dtype, Tensor};
use forebay_format::QuantType;
use forebay_format::layout::manifest::Unused;
use forebay_format::model::{Ffn, ModelSpec, Role, Routed};
use forebay_format::shapes::TensorShape;
use std::path::{Path, PathBuf};

/// The tensor part of a [`super::Binding`].
#[derive(Debug, Default)]
pub(super) struct Assembly {
    pub embedding: Vec<Bound>,
    pub trunk: Vec<Vec<Bound>>,
    pub head: Vec<Bound>,
    pub experts: Vec<Vec<BoundExpert>>,
    pub carried: Vec<usize>,
    pub unused: Vec<Unused>,
    pub remarks: Vec<String>,
}

/// Binds the tensors of `checkpoint` as `draft` says. `described` is the file that the draft was made of, for messages.
pub(super) fn assemble(checkpoint: &Checkpoint, draft: Draft, described: &Path) -> Result<(ModelSpec, Assembly)> {
    let Draft { mut spec, names, carried, unused, remarks } = draft;
    spec.validate().map_err(|e| malformed(described, e.to_string()))?;
    let mut taker = Taker { checkpoint, described: described.to_path_buf(), taken: vec![false; checkpoint.tensors.len()] };
    let mut out = Assembly { remarks, ..Assembly::default() };
    let global = |role| names.global(role).ok_or_else(|| unsupported(format!("{role:?} of this model"), "this source has no name for it"));
    for shape in spec.embedding_tensors() {
        out.embedding.push(taker.bound(global(shape.role)?, shape)?);
    }
    if spec.tied_head && !head::is_tied(checkpoint, &names.embedding, &names.head, described)? {
        spec.tied_head = false;
    }
    for shape in spec.head_tensors() {
        out.head.push(taker.bound(global(shape.role)?, shape)?);
    }
    for (i, layer) in spec.layers.iter().enumerate() {
        let shapes = layer.tensors(spec.hidden).map_err(|e| malformed(described, e.to_string()))?;
        let mut trunk = Vec::with_capacity(shapes.len());
        for shape in shapes {
            let Some(name) = names.role(i, shape.role) else {
                return Err(unsupported(format!("{:?} of layer {i}", shape.role), "this source has no name for it"));
            };
            trunk.push(taker.bound(&name, shape)?);
        }
        out.trunk.push(trunk);
        out.experts.push(match &layer.ffn {
            Ffn::Dense(_) => Vec::new(),
            Ffn::Routed(routed) => taker.experts(&names, i, routed, spec.hidden)?,
        });
    }
    Rest { spec: &spec, names: &names, carried: &carried, unused: &unused }.account(&taker, &mut out)?;
    Ok((spec, out))
}

/// Takes tensors by name and remembers which are taken.
struct Taker<'a> {
    checkpoint: &'a Checkpoint,
    described: PathBuf,
    taken: Vec<bool>,
}

impl<'a> Taker<'a> {
    fn has(&self, name: &str) -> bool {
        self.checkpoint.by_name.contains_key(name)
    }

    /// The tensor `name`, whose shape without dimensions of 1 must be that of `shape`.
    fn take(&mut self, name: &str, shape: &[u32]) -> Result<(usize, &'a Tensor)> {
        let found = self.checkpoint.by_name.get(name).and_then(|&i| self.checkpoint.tensors.get(i).map(|t| (i, t)));
        let Some((index, tensor)) = found else {
            return Err(malformed(&self.described, format!("the model needs tensor {name}, which is missing")));
        };
        let have = tensor.shape.iter().copied().filter(|&n| n != 1);
        if !have.eq(shape.iter().filter(|&&n| n != 1).map(|&n| u64::from(n))) {
            let why = format!("tensor {name} has shape {:?}, but the configuration needs {shape:?}", tensor.shape);
            return Err(malformed(file_of(self.checkpoint, tensor), why));
        }
        weight_type(self.checkpoint, tensor)?;
        if let Some(taken) = self.taken.get_mut(index) {
            *taken = true;
        }
        Ok((index, tensor))
    }

    fn bound(&mut self, name: &str, shape: TensorShape) -> Result<Bound> {
        let (index, tensor) = self.take(name, &[shape.rows, shape.cols])?;
        let dtype = weight_type(self.checkpoint, tensor)?;
        if needs_float(shape.role) && !dtype.is_float() {
            return Err(unsupported(
                format!("{} for tensor {name} ({:?})", dtype.name(), shape.role),
                "small tensors must be f32, f16 or bf16; convert the checkpoint again from its original",
            ));
        }
        let source = Rows { tensor: index, first: 0, count: tensor.rows() };
        Ok(Bound { role: shape.role, source, rows: shape.rows, cols: shape.cols })
    }

    /// All experts of layer `layer`, in whichever form the source has them.
    fn experts(&mut self, names: &Names, layer: usize, routed: &Routed, hidden: u32) -> Result<Vec<BoundExpert>> {
        let first = |form: &ExpertNames| match form {
            ExpertNames::Each(parts) => names.in_layer(layer, &parts[0].replace("{}", "0")),
            ExpertNames::Stacked(parts) => names.in_layer(layer, parts[0]),
            ExpertNames::GateUp(parts) => names.in_layer(layer, parts[0]),
        };
        let form = names.experts.iter().find(|form| self.has(&first(form))).or(names.experts.first());
        let Some(form) = form else {
            return Err(unsupported(format!("experts of layer {layer}"), "this source has no names for them"));
        };
        let (count, inner) = (routed.experts, routed.expert.inner);
        let part = |tensor: usize, first: u64, count: u32| Rows { tensor, first, count: u64::from(count) };
        match form {
            ExpertNames::Each([gate, up, down]) => (0..count)
                .map(|e| {
                    let mut one = |part: &str, shape: [u32; 2]| {
                        let name = names.in_layer(layer, &part.replace("{}", &e.to_string()));
                        let (tensor, _) = self.take(&name, &shape).map_err(|error| self.explain(error, e, count))?;
                        Ok::<_, Error>(Rows { tensor, first: 0, count: u64::from(shape[0]) })
                    };
                    Ok(BoundExpert { gate: one(gate, [inner, hidden])?, up: one(up, [inner, hidden])?, down: one(down, [hidden, inner])? })
                })
                .collect(),
            ExpertNames::Stacked([gate, up, down]) => {
                let (gate, _) = self.take(&names.in_layer(layer, gate), &[count, inner, hidden])?;
                let (up, _) = self.take(&names.in_layer(layer, up), &[count, inner, hidden])?;
                let (down, _) = self.take(&names.in_layer(layer, down), &[count, hidden, inner])?;
                let expert = |e: u64| BoundExpert {
                    gate: part(gate, e * u64::from(inner), inner),
                    up: part(up, e * u64::from(inner), inner),
                    down: part(down, e * u64::from(hidden), hidden),
                };
                Ok((0..u64::from(count)).map(expert).collect())
            }
            ExpertNames::GateUp([gate_up, down]) => {
                let twice = inner.checked_mul(2).ok_or_else(|| malformed(&self.described, "the experts have too many neurons"))?;
                let (gate_up, _) = self.take(&names.in_layer(layer, gate_up), &[count, twice, hidden])?;
                let (down, _) = self.take(&names.in_layer(layer, down), &[count, hidden, inner])?;
                let expert = |e: u64| BoundExpert {
                    gate: part(gate_up, e * u64::from(twice), inner),
                    up: part(gate_up, e * u64::from(twice) + u64::from(inner), inner),
                    down: part(down, e * u64::from(hidden), hidden),
                };
                Ok((0..u64::from(count)).map(expert).collect())
            }
        }
    }

    /// Adds which expert a missing tensor belongs to.
    fn explain(&self, error: Error, expert: u32, count: u32) -> Error {
        match error {
            Error::Malformed { file, why } => Error::Malformed { file, why: format!("{why} (expert {expert} of {count})") },
            other => other,
        }
    }
}

/// Accounting for the tensors that the spec does not need.
struct Rest<'a> {
    spec: &'a ModelSpec,
    names: &'a Names,
    carried: &'a [String],
    unused: &'a [(&'static str, &'static str)],
}

impl Rest<'_> {
    fn account(&self, taker: &Taker, out: &mut Assembly) -> Result<()> {
        let checkpoint = taker.checkpoint;
        let mut unknown: Vec<&str> = Vec::new();
        for (i, tensor) in checkpoint.tensors.iter().enumerate().filter(|(i, _)| !taker.taken.get(*i).copied().unwrap_or(false)) {
            if self.carried.iter().any(|p| tensor.name.starts_with(p)) {
                weight_type(checkpoint, tensor)?;
                out.carried.push(i);
            } else if let Some(what) = self.not_needed(&tensor.name) {
                leave_out(&mut out.unused, what, tensor);
            } else {
                self.refuse_surplus(&tensor.name, file_of(checkpoint, tensor), &taker.described)?;
                unknown.push(&tensor.name);
            }
        }
        if !unknown.is_empty() {
            let shown = unknown.iter().take(4).copied().collect::<Vec<_>>().join(", ");
            let more = if unknown.len() > 4 { ", ..." } else { "" };
            let what = format!("a model of this family with {} more tensors than known ({shown}{more})", unknown.len());
            return Err(unsupported(what, "leaving them out would change what the model computes"));
        }
        // The rotary encoding's own numbers are in the spec: nothing is lost, so nothing needs saying.
        for group in out.unused.iter().filter(|g| !g.what.starts_with("rotary")) {
            out.remarks.push(format!("{} not used: {}, {}", group.what, tensors(group.tensors), size(group.bytes)));
        }
        if !out.carried.is_empty() {
            let bytes = out.carried.iter().filter_map(|&i| checkpoint.tensors.get(i)).map(Tensor::bytes).sum();
            out.remarks.push(format!("multi-token prediction carried, not used: {}, {}", tensors(out.carried.len() as u64), size(bytes)));
        }
        Ok(())
    }

    fn not_needed(&self, name: &str) -> Option<&'static str> {
        if name.ends_with("rotary_emb.inv_freq") {
            return Some("rotary frequency buffers");
        }
        if self.spec.tied_head && name == self.names.head {
            return Some("head (a copy of the embedding)");
        }
        if name == super::gguf::ROPE_FREQS {
            return Some("rotary frequency factors (kept in the model spec)");
        }
        self.unused.iter().find(|(_, prefix)| name.starts_with(prefix)).map(|(what, _)| *what)
    }

    /// A layer or an expert beyond the configured number is a contradiction, not an unknown mechanism.
    fn refuse_surplus(&self, name: &str, file: &Path, described: &Path) -> Result<()> {
        let Some(layer) = self.names.layer_of(name) else { return Ok(()) };
        let says = described.file_name().unwrap_or_default().to_string_lossy();
        let layers = self.spec.layers.len() as u64;
        if layer >= layers {
            return Err(malformed(file, format!("tensor {name} belongs to layer {layer}, but {says} says {layers} layers")));
        }
        let Some(Ffn::Routed(routed)) = usize::try_from(layer).ok().and_then(|i| self.spec.layers.get(i)).map(|l| &l.ffn) else {
            return Ok(());
        };
        let number = name.split_once(".experts.").and_then(|(_, rest)| rest.split('.').next()).and_then(|n| n.parse::<u64>().ok());
        match number {
            Some(expert) if expert >= u64::from(routed.experts) => {
                let why = format!("tensor {name} belongs to expert {expert}, but {says} says {} experts", routed.experts);
                Err(malformed(file, why))
            }
            _ => Ok(()),
        }
    }
}

fn leave_out(groups: &mut Vec<Unused>, what: &str, tensor: &Tensor) {
    let bytes = tensor.bytes();
    match groups.iter_mut().find(|g| g.what == what) {
        Some(group) => {
            group.tensors += 1;
            group.bytes = group.bytes.saturating_add(bytes);
        }
        None => groups.push(Unused { what: what.into(), tensors: 1, bytes }),
    }
}

/// Vectors and the convolution are used element by element, not as matrices.
fn needs_float(role: Role) -> bool {
    use Role::*;
    matches!(
        role,
        FinalNorm
            | FinalNormBias
            | MixerNorm
            | MixerNormBias
            | FfnNorm
            | FfnNormBias
            | QNorm
            | KNorm
            | DeltaNorm
            | QBias
            | KBias
            | VBias
            | OBias
            | FfnGateBias
            | FfnUpBias
            | FfnDownBias
            | Positions
            | DeltaConv
            | DeltaDecay
            | DeltaDtBias
    )
}

/// What to do about a type that a pack cannot hold.
const HINT: &str = "not yet; choose a checkpoint in bf16, f16, f32, Q4_0 to Q8_0, Q2_K to Q6_K, IQ1 to IQ4, TQ1_0, TQ2_0, MXFP4 or NVFP4";

/// The type of a tensor, if a pack may hold it.
pub(super) fn weight_type(checkpoint: &Checkpoint, tensor: &Tensor) -> Result<QuantType> {
    match tensor.dtype {
        Dtype::Weight(qtype) => Ok(qtype),
        Dtype::Other { name, .. } => {
            let file = file_of(checkpoint, tensor).file_name().unwrap_or_default().to_string_lossy();
            let what = format!("weight type {name} (tensor {}, {file})", tensor.name);
            Err(unsupported(what, HINT))
        }
    }
}

/// The file that holds a tensor.
pub(super) fn file_of<'a>(checkpoint: &'a Checkpoint, tensor: &Tensor) -> &'a Path {
    checkpoint.files.get(tensor.file).map_or(checkpoint.path.as_path(), |f| f.path.as_path())
}

fn tensors(n: u64) -> String {
    if n == 1 { "1 tensor".into() } else { format!("{n} tensors") }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} KB", bytes / 1000),
        10_000_000..10_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}
