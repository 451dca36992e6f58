//! `model.safetensors.index.json`: which tensor is in which shard.

use super::MAX_TENSORS;
use super::file::{Opened, quoted};
use super::json::invalid;
use crate::error::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;

/// Most shards of a checkpoint. The largest public ones have about 200.
const MAX_SHARDS: usize = 4096;

/// The `weight_map` of an index.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Shards, sorted by name.
    pub shards: Vec<String>,
    /// Tensor name to position in `shards`.
    pub weight_map: HashMap<String, usize>,
}

/// Parses and checks an index; every shard is a plain file name.
pub(super) fn parse(opened: &Opened, bytes: &[u8]) -> Result<Index> {
    let mut de = serde_json::Deserializer::from_slice(bytes);
    let entries = (&mut de).deserialize_map(Top).and_then(|entries| de.end().map(|()| entries)).map_err(|e| invalid(opened, &e))?;
    let Some(Entries { shards, tensors }) = entries else { return Err(opened.malformed("has no weight_map")) };
    if tensors.is_empty() {
        return Err(opened.malformed("its weight_map is empty"));
    }
    for shard in &shards {
        check_shard_name(opened, shard)?;
    }
    // Sorted, so that the order does not depend on that of the index.
    let mut order: Vec<usize> = (0..shards.len()).collect();
    order.sort_by(|&a, &b| shards.get(a).cmp(&shards.get(b)));
    let mut place = vec![0; shards.len()];
    for (position, &old) in order.iter().enumerate() {
        if let Some(p) = place.get_mut(old) {
            *p = position;
        }
    }
    let mut index = Index { shards, weight_map: HashMap::with_capacity(tensors.len()) };
    index.shards.sort_unstable();
    for (name, shard) in tensors {
        let shard = place.get(shard).copied().unwrap_or_default();
        match index.weight_map.entry(name) {
            Entry::Vacant(entry) => entry.insert(shard),
            Entry::Occupied(entry) => return Err(opened.malformed(format!("tensor {} appears twice in weight_map", quoted(entry.key())))),
        };
    }
    Ok(index)
}

/// A shard is a plain name of a file beside the index, so that no index can point anywhere else.
fn check_shard_name(opened: &Opened, name: &str) -> Result<()> {
    if std::path::Path::new(name).extension().is_some_and(|e| e == "bin" || e == "pt" || e == "pth") {
        return Err(Error::Unsupported {
            what: format!("{}: the pickle shard {}", opened.shown.display(), quoted(name)),
            hint: "unpickling can run any code, so this program never does; download the safetensors version of the model".into(),
        });
    }
    let plain = !matches!(name, "" | "." | "..") && name.len() <= 255 && !name.contains(['/', '\\']) && !name.chars().any(char::is_control);
    if plain { Ok(()) } else { Err(opened.malformed(format!("the shard name {} is not a plain file name", quoted(name)))) }
}

/// Shards in order of appearance; tensors with positions among them.
#[derive(Default)]
struct Entries {
    shards: Vec<String>,
    tensors: Vec<(String, usize)>,
}

struct Top;

impl<'de> Visitor<'de> for Top {
    type Value = Option<Entries>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with weight_map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut entries = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "weight_map" {
                // `metadata.total_size` is wrong in many good checkpoints: the shards' own headers say how long they are.
                map.next_value::<IgnoredAny>()?;
            } else if entries.replace(map.next_value_seed(WeightMap)?).is_some() {
                return Err(A::Error::custom("weight_map appears twice"));
            }
        }
        Ok(entries)
    }
}

struct WeightMap;

impl<'de> DeserializeSeed<'de> for WeightMap {
    type Value = Entries;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Entries, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WeightMap {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("weight_map as an object of file names")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entries, A::Error> {
        let mut entries = Entries::default();
        let mut positions = HashMap::<String, usize>::new();
        while let Some(tensor) = map.next_key::<String>()? {
            let shard: String = map.next_value().map_err(|e| A::Error::custom(format_args!("the shard of {}: {e}", quoted(&tensor))))?;
            let position = match positions.get(&shard) {
                Some(&p) => p,
                None if entries.shards.len() == MAX_SHARDS => return Err(A::Error::custom(format_args!("more than {MAX_SHARDS} shards"))),
                None => {
                    entries.shards.push(shard.clone());
                    positions.insert(shard, entries.shards.len() - 1);
                    entries.shards.len() - 1
                }
            };
            if entries.tensors.len() == MAX_TENSORS {
                return Err(A::Error::custom(format_args!("more than {MAX_TENSORS} tensors")));
            }
            entries.tensors.push((tensor, position));
        }
        Ok(entries)
    }
}
