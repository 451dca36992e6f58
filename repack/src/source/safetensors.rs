//! The header of one safetensors file: 8 bytes of length, then JSON. The weights are never read here.
//!
//! The names and sizes of the types come from the `safetensors` crate. Its own header type is not used: it takes 15 times the header's size in memory,
//! keeps the last of two equal names, and sets no limit on rank or name.

use super::file::{Opened, check_name, quoted};
use super::{Dtype, MAX_TENSORS, Tensor, sniff};
use crate::error::{Error, Result};
use forebay_format::QuantType;
use safetensors::tensor::Dtype as StDtype;
use serde::Deserialize;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::os::unix::fs::FileExt;

/// Longest header that is read. The largest public shards have about 1 MB.
const MAX_HEADER: u64 = 32 << 20;
/// Longest name of a tensor.
const MAX_NAME: usize = 512;
/// Most dimensions of a tensor.
const MAX_RANK: usize = 8;

/// What the header of one file says.
#[derive(Debug)]
pub(super) struct Header {
    /// Tensors in file order; ranges are positions in the file, `file` is 0.
    pub tensors: Vec<Tensor>,
    /// Length of the header, the 8 bytes of its length included.
    pub bytes: u64,
    /// BLAKE3 of the header.
    pub blake3: [u8; 32],
}

/// Reads and checks the header. At most `room` tensors are accepted.
pub(super) fn read_header(opened: &Opened, room: usize) -> Result<Header> {
    let (bytes, json) = read_bytes(opened)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(json.len() as u64).to_le_bytes()).update(&json);
    let blake3 = *hasher.finalize().as_bytes();
    let mut parser = Parser { opened, room, failure: None, tensors: Vec::new() };
    let mut de = serde_json::Deserializer::from_slice(&json);
    let parsed = (&mut de).deserialize_map(&mut parser).and_then(|()| de.end());
    if let Some(failure) = parser.failure {
        return Err(failure);
    }
    parsed.map_err(|e| opened.malformed(format!("the header is not valid: {e} (the header begins at byte 8)")))?;
    let mut tensors = parser.tensors;
    drop(json);
    tensors.sort_by_key(|t| (t.range.start, t.range.end));
    check_layout(opened, &tensors, bytes)?;
    for tensor in &mut tensors {
        // No overflow: check_layout found the end of each inside the file.
        tensor.range = tensor.range.start + bytes..tensor.range.end + bytes;
    }
    Ok(Header { tensors, bytes, blake3 })
}

/// The header's JSON, and the length of the whole header.
fn read_bytes(opened: &Opened) -> Result<(u64, Vec<u8>)> {
    let file_bytes = opened.len();
    let mut head = [0u8; 32];
    let head_len = usize::try_from(file_bytes).unwrap_or(usize::MAX).min(head.len());
    let head = head.get_mut(..head_len).unwrap_or_default();
    opened.file.read_exact_at(head, 0).map_err(|e| opened.io("reading the header", e))?;
    if let Some(known) = sniff::recognise(head) {
        return Err(known.error(&opened.shown));
    }
    let Some((length, rest)) = head.split_first_chunk::<8>() else {
        let why = format!("is {file_bytes} bytes long; a safetensors file has at least 10: the download is incomplete");
        return Err(opened.malformed(why));
    };
    if head.starts_with(b"{\"") {
        return Err(opened.malformed("is a JSON text, not a safetensors file: perhaps the server's error message"));
    }
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(opened.malformed(format!(
            "the header's length is {length}; at most {MAX_HEADER} is read: this is not a safetensors file, or its beginning is damaged"
        )));
    }
    // No overflow: length is at most 32 MiB.
    let bytes = length + 8;
    if bytes > file_bytes {
        return Err(opened.malformed(format!("the header ends at byte {bytes}, but the file has {file_bytes}: the download is incomplete")));
    }
    if rest.first() != Some(&b'{') || length < 2 {
        return Err(opened.malformed(format!("the header (byte 8, {length} bytes) does not begin with '{{'")));
    }
    let mut json = Vec::new();
    let wanted = usize::try_from(length).map_err(|_| opened.malformed("the header does not fit in memory"))?;
    json.try_reserve_exact(wanted)
        .map_err(|_| opened.malformed(format!("the header needs {wanted} bytes of memory, which are not there")))?;
    json.resize(wanted, 0);
    opened.file.read_exact_at(&mut json, 8).map_err(|e| opened.io("reading the header", e))?;
    Ok((bytes, json))
}

/// The data section is covered without overlap or hole, from its first byte to the end of the file.
fn check_layout(opened: &Opened, tensors: &[Tensor], header: u64) -> Result<()> {
    let data_bytes = opened.len().saturating_sub(header);
    let (mut end, mut previous) = (0u64, "the header");
    for tensor in tensors {
        let name = quoted(&tensor.name);
        let (from, to) = (tensor.range.start, tensor.range.end);
        if from < end {
            let why = format!("tensor {name} at data offset {from} overlaps {}, which ends at {end}", quoted(previous));
            return Err(opened.malformed(why));
        }
        if from > end {
            let why = format!("{} bytes at data offset {end}, before tensor {name}, belong to no tensor", from - end);
            return Err(opened.malformed(why));
        }
        if to > data_bytes {
            return Err(opened.malformed(format!(
                "tensor {name} ends at data offset {to}, but the file has {data_bytes} bytes of data: the download is incomplete"
            )));
        }
        (end, previous) = (to, &tensor.name);
    }
    if end != data_bytes {
        return Err(opened.malformed(format!("{} bytes follow the last tensor, at byte {}", data_bytes - end, header + end)));
    }
    Ok(())
}

/// Type, block length and block bytes of a safetensors type name.
fn dtype(name: &str) -> Option<Dtype> {
    let deserializer: StrDeserializer<'_, ValueError> = name.into_deserializer();
    let known = StDtype::deserialize(deserializer).ok()?;
    let other = |name, block_len, block_bytes| Some(Dtype::Other { name, block_len, block_bytes });
    match known {
        StDtype::F32 => Some(Dtype::Weight(QuantType::F32)),
        StDtype::F16 => Some(Dtype::Weight(QuantType::F16)),
        StDtype::BF16 => Some(Dtype::Weight(QuantType::BF16)),
        StDtype::BOOL => other("BOOL", 1, 1),
        StDtype::F4 => other("F4", 2, 1),
        StDtype::F6_E2M3 => other("F6_E2M3", 4, 3),
        StDtype::F6_E3M2 => other("F6_E3M2", 4, 3),
        StDtype::U8 => other("U8", 1, 1),
        StDtype::I8 => other("I8", 1, 1),
        StDtype::F8_E5M2 => other("F8_E5M2", 1, 1),
        StDtype::F8_E4M3 => other("F8_E4M3", 1, 1),
        StDtype::F8_E8M0 => other("F8_E8M0", 1, 1),
        StDtype::F8_E4M3FNUZ => other("F8_E4M3FNUZ", 1, 1),
        StDtype::F8_E5M2FNUZ => other("F8_E5M2FNUZ", 1, 1),
        StDtype::I16 => other("I16", 1, 2),
        StDtype::U16 => other("U16", 1, 2),
        StDtype::I32 => other("I32", 1, 4),
        StDtype::U32 => other("U32", 1, 4),
        StDtype::C64 => other("C64", 1, 8),
        StDtype::F64 => other("F64", 1, 8),
        StDtype::I64 => other("I64", 1, 8),
        StDtype::U64 => other("U64", 1, 8),
        _ => None,
    }
}

/// Builds tensors as the JSON streams by: memory is the tensors' own.
struct Parser<'a> {
    opened: &'a Opened,
    room: usize,
    /// An error with its type; the parser's own carries only a string.
    failure: Option<Error>,
    tensors: Vec<Tensor>,
}

impl Parser<'_> {
    fn push(&mut self, name: String, entry: &Entry) -> Result<()> {
        let opened = self.opened;
        check_name(opened, "a tensor", &name, MAX_NAME)?;
        let shown = quoted(&name);
        if self.tensors.len() >= self.room {
            return Err(opened.malformed(format!("the checkpoint has more than {MAX_TENSORS} tensors")));
        }
        let Some(dtype) = dtype(&entry.dtype) else {
            return Err(Error::Unsupported {
                what: format!("{}: tensor {shown} of type {}", opened.shown.display(), quoted(&entry.dtype)),
                hint: "it is no type of safetensors 0.8; the file is damaged or newer than this program".into(),
            });
        };
        let (from, to) = entry.offsets;
        let Some(size) = dtype.bytes_of(&entry.shape) else {
            let why =
                format!("tensor {shown}: the size of shape {:?} in {} overflows or is no whole number of bytes", entry.shape, dtype.name());
            return Err(opened.malformed(why));
        };
        match to.checked_sub(from) {
            None => return Err(opened.malformed(format!("tensor {shown}: data offsets [{from}, {to}] are reversed"))),
            Some(length) if length != size => {
                let why = format!(
                    "tensor {shown}: shape {:?} in {} takes {size} bytes, its data offsets span {length}",
                    entry.shape,
                    dtype.name()
                );
                return Err(opened.malformed(why));
            }
            Some(_) => {}
        }
        self.tensors.push(Tensor { name, dtype, shape: entry.shape.clone(), file: 0, range: from..to });
        Ok(())
    }
}

impl<'de> Visitor<'de> for &mut Parser<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        let mut metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if std::mem::replace(&mut metadata, true) {
                    return Err(A::Error::custom("__metadata__ appears twice"));
                }
                map.next_value_seed(Metadata)?;
                continue;
            }
            let entry = map.next_value_seed(EntryOf(&name))?;
            if let Err(failure) = self.push(name, &entry) {
                self.failure = Some(failure);
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

/// `__metadata__`: strings to strings, not kept.
struct Metadata;

impl<'de> DeserializeSeed<'de> for Metadata {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Metadata {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("__metadata__ as an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<String>().map_err(|e| A::Error::custom(format_args!("__metadata__ {}: {e}", quoted(&key))))?;
        }
        Ok(())
    }
}

/// `{"dtype": ..., "shape": [...], "data_offsets": [from, to]}`.
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    offsets: (u64, u64),
}

/// Reads the entry of the tensor with this name.
struct EntryOf<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for EntryOf<'_> {
    type Value = Entry;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Entry, D::Error> {
        let name = self.0;
        deserializer.deserialize_map(self).map_err(|e| D::Error::custom(format_args!("tensor {}: {e}", quoted(name))))
    }
}

impl<'de> Visitor<'de> for EntryOf<'_> {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Entry, A::Error> {
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            let twice = match key.as_str() {
                "dtype" => dtype.replace(map.next_value::<String>()?).is_some(),
                "shape" => shape.replace(map.next_value_seed(Shape)?).is_some(),
                "data_offsets" => offsets.replace(map.next_value::<(u64, u64)>()?).is_some(),
                _ => return Err(A::Error::custom(format_args!("unknown field {}", quoted(&key)))),
            };
            if twice {
                return Err(A::Error::custom(format_args!("the field {} appears twice", quoted(&key))));
            }
        }
        Ok(Entry {
            dtype: dtype.ok_or_else(|| A::Error::missing_field("dtype"))?,
            shape: shape.ok_or_else(|| A::Error::missing_field("shape"))?,
            offsets: offsets.ok_or_else(|| A::Error::missing_field("data_offsets"))?,
        })
    }
}

/// A shape of at most [`MAX_RANK`] dimensions: the list is not built when it is longer.
struct Shape;

impl<'de> DeserializeSeed<'de> for Shape {
    type Value = Vec<u64>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Vec<u64>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Shape {
    type Value = Vec<u64>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of dimensions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Vec<u64>, A::Error> {
        let mut shape = Vec::new();
        while let Some(dimension) = seq.next_element::<u64>()? {
            if shape.len() == MAX_RANK {
                return Err(A::Error::custom(format_args!("more than {MAX_RANK} dimensions")));
            }
            shape.push(dimension);
        }
        Ok(shape)
    }
}
