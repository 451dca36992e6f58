//! What a token of a model takes, whatever the machine: products of matrices, recurrences, attention, experts.

use super::neurons::Grouped;
use forebay_format::layout::manifest::TensorPlace;
use forebay_format::model::{Attention, Ffn, Mixer, Role};
use forebay_format::{BundleId, Index, Kind, Manifest, QuantType, Tiling};
use std::collections::BTreeMap;

/// A matrix times activation rows: one fork-join. Matrices that read the same input together count as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Product {
    /// Element type.
    pub qtype: QuantType,
    /// Rows (outputs).
    pub rows: u64,
    /// Values in a row.
    pub cols: u64,
    /// Order of the rows' bytes.
    pub tiling: Tiling,
}

impl Product {
    /// Rows one after the other.
    pub fn new(qtype: QuantType, rows: u64, cols: u64) -> Product {
        Product { qtype, rows, cols, tiling: Tiling::RowMajor }
    }

    /// Bytes of the weights.
    pub fn bytes(&self) -> u64 {
        let row = usize::try_from(self.cols).ok().and_then(|cols| self.qtype.row_bytes(cols));
        self.rows.saturating_mul(row.map_or(0, |bytes| bytes as u64))
    }

    /// Multiply-adds with one activation row.
    pub fn macs(&self) -> u64 {
        self.rows.saturating_mul(self.cols)
    }
}

/// A layer's experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    /// How many there are.
    pub count: u32,
    /// How many a token uses.
    pub top_k: u32,
    /// Bytes of one, as it lies on disk.
    pub bytes: u64,
    /// Slices of one.
    pub slices: u64,
    /// Gate and up of one.
    pub into: Product,
    /// Down of one.
    pub back: Product,
    /// The router, as it is asked for guesses: 8 bits.
    pub guess: Product,
}

/// Recurrent layers of one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recurrence {
    /// Layers.
    pub layers: u32,
    /// Value heads of a layer.
    pub heads: u32,
    /// Width of a key.
    pub key_dim: u32,
    /// Width of a value.
    pub value_dim: u32,
}

/// Attention layers of one shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Attending {
    /// Layers.
    pub layers: u32,
    /// What they are.
    pub of: Attention,
}

/// What a token of a model takes, whatever the machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// Trunk bytes that every token goes through: all layers and the head. Sketches of neuron groups, which only predictions need, are not among them.
    pub trunk_bytes: u64,
    /// Expert bytes that a token uses.
    pub routed_bytes: u64,
    /// Experts that a token uses.
    pub routed: u64,
    /// Bytes of all experts.
    pub experts_bytes: u64,
    /// Longest expert.
    pub expert_bytes: u64,
    /// Layers with experts.
    pub experts: Vec<Experts>,
    /// Layers with neuron groups, by their shape.
    pub grouped: Vec<Grouped>,
    /// Layers of any kind.
    pub layers: u32,
    /// Products of the layers' trunks, and how many of each a token takes.
    pub trunk: Vec<(Product, u32)>,
    /// The head: once a token while decoding, once a prompt.
    pub head: Vec<Product>,
    /// Recurrent layers.
    pub recurrences: Vec<Recurrence>,
    /// Attention layers.
    pub attention: Vec<Attending>,
    /// Multiply-adds of a token in all products but those of neuron groups, the head's included.
    pub macs: u64,
    /// The type of most of the bytes that a token goes through.
    pub main_type: QuantType,
}

impl Work {
    /// From a pack, or the outline of one.
    pub fn new(manifest: &Manifest, index: &Index) -> Work {
        let length = |id: BundleId| index.get(id).map_or(0, |r| r.length);
        let spec = &manifest.spec;
        let mut head = products(&manifest.head, &[Role::Head, Role::ProjectIn, Role::ProjectOut]);
        let mut trunk_bytes = length(BundleId::global(Kind::Head, 0));
        if spec.tied_head {
            trunk_bytes += length(BundleId::global(Kind::Embedding, 0));
            head.extend(manifest.embedding.iter().filter(|p| p.role == Role::Embedding).map(product));
        }
        let mut trunk: BTreeMap<Product, u32> = BTreeMap::new();
        for (layer, places) in (0u32..).zip(&manifest.trunk) {
            let sketch = places.iter().filter(|p| p.role == Role::NeuronSketch).map(|p| product(p).bytes());
            trunk_bytes += length(BundleId::trunk(layer)).saturating_sub(sketch.sum());
            for group in GROUPS {
                products(places, group).into_iter().for_each(|p| *trunk.entry(p).or_default() += 1);
            }
        }
        let experts: Vec<Experts> = (0u32..)
            .zip(spec.layers.iter().zip(&manifest.experts))
            .filter_map(|(layer, (spec, place))| {
                let (Ffn::Routed(r), Some(place)) = (&spec.ffn, place) else { return None };
                let (hidden, inner) = (u64::from(manifest.spec.hidden), u64::from(r.expert.inner));
                Some(Experts {
                    count: r.experts,
                    top_k: r.top_k,
                    bytes: length(BundleId::expert(layer, 0)),
                    slices: place.slices.len() as u64,
                    into: Product { tiling: place.tiling, ..Product::new(place.gate, 2 * inner, hidden) },
                    back: Product { tiling: place.down_tiling, ..Product::new(place.down, hidden, inner) },
                    guess: Product::new(QuantType::Q8_0, u64::from(r.experts), hidden),
                })
            })
            .collect();
        let trunk: Vec<(Product, u32)> = trunk.into_iter().collect();
        let used = |e: &Experts| [(e.into, e.top_k), (e.back, e.top_k)];
        let of_experts: Vec<(Product, u32)> = experts.iter().flat_map(used).collect();
        let all = || trunk.iter().chain(&of_experts).copied().chain(head.iter().map(|&p| (p, 1)));
        let mut types: BTreeMap<QuantType, u64> = BTreeMap::new();
        all().for_each(|(p, times)| *types.entry(p.qtype).or_default() += p.bytes() * u64::from(times));
        Work {
            trunk_bytes,
            routed_bytes: experts.iter().map(|e| u64::from(e.top_k) * e.bytes).sum(),
            routed: experts.iter().map(|e| u64::from(e.top_k)).sum(),
            experts_bytes: experts.iter().map(|e| u64::from(e.count) * e.bytes).sum(),
            expert_bytes: experts.iter().map(|e| e.bytes).max().unwrap_or(0),
            layers: spec.layers.len() as u32,
            macs: all().map(|(p, times)| p.macs() * u64::from(times)).sum(),
            main_type: types.into_iter().max_by_key(|t| t.1).map_or(QuantType::F32, |t| t.0),
            recurrences: recurrences(manifest),
            attention: attention(manifest),
            grouped: grouped(manifest, index),
            experts,
            trunk,
            head,
        }
    }

    /// Bytes of all neuron groups.
    pub fn groups_bytes(&self) -> u64 {
        self.grouped.iter().map(|g| u64::from(g.layers) * u64::from(g.groups) * g.bytes[0]).sum()
    }

    /// The layer with the most bytes of experts: what stands for all of them in measurements.
    pub fn main_experts(&self) -> Option<&Experts> {
        self.experts.iter().max_by_key(|e| u64::from(e.count) * e.bytes)
    }
}

/// Matrices of a layer that read the same input in one fork-join.
const GROUPS: [&[Role]; 9] = [
    &[Role::Q, Role::K, Role::V],
    &[Role::O],
    &[Role::DeltaQkv, Role::DeltaZ, Role::DeltaB, Role::DeltaA],
    &[Role::DeltaOut],
    &[Role::FfnGate, Role::FfnUp],
    &[Role::FfnDown],
    &[Role::Router],
    &[Role::SharedGate, Role::SharedUp],
    &[Role::SharedDown],
];

fn product(place: &TensorPlace) -> Product {
    Product { tiling: place.tiling, ..Product::new(place.qtype, u64::from(place.rows), u64::from(place.cols)) }
}

/// The matrices with one of these roles, those of one type, width and order as one.
fn products(places: &[TensorPlace], roles: &[Role]) -> Vec<Product> {
    let mut rows: BTreeMap<(QuantType, u64, Tiling), u64> = BTreeMap::new();
    for p in places.iter().filter(|p| roles.contains(&p.role)).map(product) {
        *rows.entry((p.qtype, p.cols, p.tiling)).or_default() += p.rows;
    }
    rows.into_iter().map(|((qtype, cols, tiling), rows)| Product { qtype, rows, cols, tiling }).collect()
}

fn grouped(manifest: &Manifest, index: &Index) -> Vec<Grouped> {
    let mut list: Vec<Grouped> = Vec::new();
    for (layer, (spec, place)) in (0u32..).zip(manifest.spec.layers.iter().zip(&manifest.neurons)) {
        let (Ffn::Dense(ffn), Some(place)) = (&spec.ffn, place) else { continue };
        let Some(this) = Grouped::new(layer, place, ffn, manifest.spec.hidden, index) else { continue };
        match list.iter_mut().find(|g| Grouped { layers: 1, ..(*g).clone() } == this) {
            Some(same) => same.layers += 1,
            None => list.push(this),
        }
    }
    list
}

fn recurrences(manifest: &Manifest) -> Vec<Recurrence> {
    let mut list: Vec<Recurrence> = Vec::new();
    for layer in &manifest.spec.layers {
        let Mixer::GatedDelta(d) = &layer.mixer else { continue };
        let this = Recurrence { layers: 1, heads: d.value_heads, key_dim: d.key_dim, value_dim: d.value_dim };
        match list.iter_mut().find(|r| Recurrence { layers: 1, ..**r } == this) {
            Some(same) => same.layers += 1,
            None => list.push(this),
        }
    }
    list
}

fn attention(manifest: &Manifest) -> Vec<Attending> {
    let mut list: Vec<Attending> = Vec::new();
    for layer in &manifest.spec.layers {
        let Mixer::Attention(a) = &layer.mixer else { continue };
        match list.iter_mut().find(|r| r.of == *a) {
            Some(same) => same.layers += 1,
            None => list.push(Attending { layers: 1, of: a.clone() }),
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_a_small_pack_adds_up() {
        let pack = crate::testing::TinyPack::new().open();
        let work = Work::new(&pack.manifest, &pack.index);
        let experts: u64 = pack.index.records().iter().filter(|r| r.id.kind == Kind::Expert).map(|r| r.length).sum();
        assert_eq!(work.experts_bytes, experts);
        assert!(work.routed > 0 && work.routed_bytes < experts && work.macs > 0 && work.trunk_bytes > 0);
        let trunk: u64 = work.trunk.iter().map(|&(p, times)| p.bytes() * u64::from(times)).sum();
        assert!(trunk > 0 && trunk <= work.trunk_bytes, "{work:?}");
    }
}
