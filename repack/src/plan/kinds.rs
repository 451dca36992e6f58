//! Sizes by kind of bundle, for plans and for packs.

use forebay_format::Kind;
use std::collections::BTreeMap;

/// Number of bundles and their bytes, by kind.
pub fn sizes_by_kind(bundles: impl Iterator<Item = (Kind, u64)>) -> BTreeMap<Kind, (u64, u64)> {
    let mut kinds = BTreeMap::new();
    for (kind, length) in bundles {
        let (count, bytes) = kinds.entry(kind).or_insert((0, 0));
        *count += 1;
        *bytes += length;
    }
    kinds
}

/// Name of a kind for people and JSON.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Embedding => "embedding",
        Kind::Trunk => "trunk",
        Kind::Expert => "experts",
        Kind::NeuronGroup => "neurons",
        Kind::Head => "head",
        Kind::Carried => "carried",
    }
}
