//! The header of one GGUF file (version 2 or 3, little-endian): key-value pairs and tensor descriptors. The weights are never read here.
//!
//! Values, descriptors and the table of types are decoded by gguf-rs-lib's primitives. Its readers are not used: they refuse version 2 and
//! keys with hyphens (`gpt-oss.*`), and lose the order of the keys.

use super::file::{Opened, check_name, quoted};
use super::{Dtype, GgufValue, MAX_TENSORS, Tensor};
use crate::error::{Error, Result};
use forebay_format::QuantType;
use gguf_rs_lib::error::GGUFError;
use gguf_rs_lib::format::{GGUFTensorType, GGUFValueType, MetadataValue, TensorInfo};
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::unix::fs::FileExt;

/// Longest header that is read.
const MAX_HEADER: u64 = 256 << 20;
/// Most key-value pairs.
const MAX_PAIRS: u64 = 100_000;
/// Most array elements in all pairs together. Each takes up to 64 bytes of memory, so that this many stay under 64 MiB and three times their size in
/// the file; the largest public vocabularies have 1.3 million tokens, types and merges.
const MAX_ELEMENTS: u64 = 1_500_000;
/// Longest name of a tensor (the format's limit).
const MAX_NAME: u64 = 64;
/// Longest key (the format's limit).
const MAX_KEY: u64 = 65_535;
/// Most dimensions (the format's limit).
const MAX_RANK: u32 = 4;
/// Alignment of the data where the file does not say.
const DEFAULT_ALIGNMENT: u64 = 32;
/// Largest alignment that makes sense.
const MAX_ALIGNMENT: u64 = 1 << 20;
/// Smallest pair: key length, one byte of key, type, one byte of value.
const MIN_PAIR: u64 = 8 + 1 + 4 + 1;
/// Smallest descriptor: name length, one byte of name, rank, one dimension, type, offset.
const MIN_DESCRIPTOR: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// What the header of one file says.
#[derive(Debug)]
pub(super) struct Header {
    /// Pairs in file order.
    pub pairs: Vec<(String, GgufValue)>,
    /// Tensors in file order; ranges are positions in the file, `file` is 0.
    pub tensors: Vec<Tensor>,
    /// Position after the last descriptor (the data begins at the next multiple of the alignment).
    pub bytes: u64,
    /// BLAKE3 of those bytes.
    pub blake3: [u8; 32],
}

/// The value of `key`.
pub(super) fn get<'a>(pairs: &'a [(String, GgufValue)], key: &str) -> Option<&'a GgufValue> {
    pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v)
}

/// The value of `key` as a number that is not negative; an error if it is anything else.
pub(super) fn get_uint(opened: &Opened, pairs: &[(String, GgufValue)], key: &str) -> Result<Option<u64>> {
    let wrong = || opened.malformed(format!("{key} is not an unsigned integer"));
    match get(pairs, key) {
        None => Ok(None),
        Some(GgufValue::Uint(v)) => Ok(Some(*v)),
        Some(GgufValue::Int(v)) => u64::try_from(*v).map(Some).map_err(|_| wrong()),
        Some(_) => Err(wrong()),
    }
}

/// Reads and checks the header. At most `room` tensors are accepted.
pub(super) fn read_header(opened: &Opened, room: usize) -> Result<Header> {
    let mut cursor = Cursor::new(opened);
    let (tensor_count, pair_count) = read_counts(opened, &mut cursor, room)?;
    let pairs = read_pairs(opened, &mut cursor, pair_count)?;
    let alignment = alignment(opened, &pairs)?;
    let mut tensors = Vec::new();
    for ordinal in 0..tensor_count {
        tensors.push(read_tensor(opened, &mut cursor, ordinal, alignment)?);
    }
    let bytes = cursor.position;
    place(opened, &mut tensors, bytes, alignment)?;
    check_vocabulary(opened, &pairs)?;
    Ok(Header { pairs, tensors, bytes, blake3: hash(opened, bytes)? })
}

/// Magic, version and the two counts.
fn read_counts(opened: &Opened, cursor: &mut Cursor, room: usize) -> Result<(u64, u64)> {
    if &cursor.array::<4>("the magic")? != b"GGUF" {
        return Err(opened.malformed("does not begin with \"GGUF\""));
    }
    let version = cursor.u32("the version")?;
    let unsupported =
        |what: String, hint: &str| Err(Error::Unsupported { what: format!("{}: {what}", opened.shown.display()), hint: hint.into() });
    match version {
        2 | 3 => {}
        1 => {
            return unsupported(
                "GGUF version 1".into(),
                "it was replaced in August 2023; download the model again or convert it with llama.cpp",
            );
        }
        v if v & 0xffff == 0 && (1..=3).contains(&v.swap_bytes()) => {
            return unsupported(
                "big-endian GGUF".into(),
                "convert it with llama.cpp's gguf_convert_endian.py, or download the little-endian file",
            );
        }
        v => return unsupported(format!("GGUF version {v}"), "versions 2 and 3 are; the file is damaged or newer than this program"),
    }
    let (tensors, pairs) = (cursor.u64("the number of tensors")?, cursor.u64("the number of key-value pairs")?);
    if tensors > room as u64 {
        return Err(opened.malformed(format!("says it has {tensors} tensors; a checkpoint may have {MAX_TENSORS}")));
    }
    if pairs > MAX_PAIRS {
        return Err(opened.malformed(format!("says it has {pairs} key-value pairs; at most {MAX_PAIRS} are read")));
    }
    // No overflow: both counts are small.
    let least = tensors * MIN_DESCRIPTOR + pairs * MIN_PAIR;
    if least > cursor.remaining() {
        let why = format!(
            "says it has {tensors} tensors and {pairs} key-value pairs, which take at least {least} bytes, but only {} follow: the download is incomplete",
            cursor.remaining()
        );
        return Err(opened.malformed(why));
    }
    Ok((tensors, pairs))
}

fn read_pairs(opened: &Opened, cursor: &mut Cursor, count: u64) -> Result<Vec<(String, GgufValue)>> {
    let mut pairs = Vec::new();
    let mut seen = HashSet::new();
    let mut elements = MAX_ELEMENTS;
    for ordinal in 0..count {
        let what = format!("key {ordinal}");
        let key = cursor.text(&what, MAX_KEY)?;
        check_name(opened, &what, &key, MAX_KEY as usize)?;
        let value = read_value(opened, cursor, &key, &mut elements)?;
        if !seen.insert(key.clone()) {
            return Err(opened.malformed(format!("the key {} appears twice", quoted(&key))));
        }
        pairs.push((key, value));
    }
    Ok(pairs)
}

fn read_value(opened: &Opened, cursor: &mut Cursor, key: &str, elements: &mut u64) -> Result<GgufValue> {
    let what = format!("the value of {}", quoted(key));
    let at = cursor.position;
    let value = match cursor.value_type(&what)? {
        GGUFValueType::String => cursor.string(&what)?,
        GGUFValueType::Array => return read_array(opened, cursor, &what, elements),
        scalar => MetadataValue::read_from(cursor, scalar),
    };
    value.map(convert).map_err(|e| cursor.library_error(&format!("{what} (byte {at})"), e))
}

/// Element by element: the library's own array would need room beside the converted one.
fn read_array(opened: &Opened, cursor: &mut Cursor, what: &str, elements: &mut u64) -> Result<GgufValue> {
    let inner = cursor.value_type(what)?;
    if inner == GGUFValueType::Array {
        return Err(opened.malformed(format!("{what} is an array of arrays")));
    }
    let length = cursor.u64(what)?;
    // A string takes at least its length.
    cursor.room_for(what, length, inner.size_in_bytes().unwrap_or(8) as u64)?;
    *elements = elements
        .checked_sub(length)
        .ok_or_else(|| opened.malformed(format!("{what} has {length} elements; all arrays together may have {MAX_ELEMENTS}")))?;
    let mut values = Vec::new();
    let wanted = usize::try_from(length).unwrap_or(usize::MAX);
    values
        .try_reserve_exact(wanted)
        .map_err(|_| opened.malformed(format!("{what} has {length} elements, for which there is no memory")))?;
    for ordinal in 0..length {
        let at = cursor.position;
        let value = match inner {
            GGUFValueType::String => cursor.string(what)?,
            scalar => MetadataValue::read_from(cursor, scalar),
        };
        values.push(value.map(convert).map_err(|e| cursor.library_error(&format!("{what}, element {ordinal} (byte {at})"), e))?);
    }
    Ok(GgufValue::Array(values))
}

fn convert(value: MetadataValue) -> GgufValue {
    match value {
        MetadataValue::U8(v) => GgufValue::Uint(v.into()),
        MetadataValue::U16(v) => GgufValue::Uint(v.into()),
        MetadataValue::U32(v) => GgufValue::Uint(v.into()),
        MetadataValue::U64(v) => GgufValue::Uint(v),
        MetadataValue::I8(v) => GgufValue::Int(v.into()),
        MetadataValue::I16(v) => GgufValue::Int(v.into()),
        MetadataValue::I32(v) => GgufValue::Int(v.into()),
        MetadataValue::I64(v) => GgufValue::Int(v),
        MetadataValue::F32(v) => GgufValue::Float(v.into()),
        MetadataValue::F64(v) => GgufValue::Float(v),
        MetadataValue::Bool(v) => GgufValue::Bool(v),
        MetadataValue::String(v) => GgufValue::Text(v),
        MetadataValue::Array(v) => GgufValue::Array(v.values.into_iter().map(convert).collect()), // only read_array reads arrays
    }
}

fn alignment(opened: &Opened, pairs: &[(String, GgufValue)]) -> Result<u64> {
    match get_uint(opened, pairs, "general.alignment")? {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(a) if a.is_power_of_two() && a <= MAX_ALIGNMENT => Ok(a),
        Some(a) => Err(opened.malformed(format!("general.alignment is {a}, not a power of two up to {MAX_ALIGNMENT}"))),
    }
}

/// One descriptor. Its range is relative to the data section.
fn read_tensor(opened: &Opened, cursor: &mut Cursor, ordinal: u64, alignment: u64) -> Result<Tensor> {
    let what = format!("tensor {ordinal}");
    let at = cursor.position;
    let name = cursor.text(&what, MAX_NAME)?;
    check_name(opened, &what, &name, MAX_NAME as usize)?;
    let what = format!("tensor {}", quoted(&name));
    let rank = cursor.u32(&what)?;
    if rank == 0 || rank > MAX_RANK {
        return Err(opened.malformed(format!("{what} has {rank} dimensions; 1 to {MAX_RANK} are possible")));
    }
    let mut shape = Vec::with_capacity(MAX_RANK as usize);
    for _ in 0..rank {
        match cursor.u64(&what)? {
            d if i64::try_from(d).is_ok() => shape.push(d),
            d => return Err(opened.malformed(format!("{what} has a dimension of {d}"))),
        }
    }
    let (id, offset) = (cursor.u32(&what)?, cursor.u64(&what)?);
    let dtype = dtype(opened, &what, id)?;
    let descriptor = TensorInfo::new(name, shape, id, offset);
    let (block, _) = dtype.block();
    if !descriptor.dimensions.first().is_some_and(|d| d.is_multiple_of(block)) {
        let why =
            format!("{what}: rows of {:?} values are no whole number of {} blocks of {block}", descriptor.dimensions.first(), dtype.name());
        return Err(opened.malformed(why));
    }
    let Some(size) = dtype.bytes_of(&descriptor.dimensions) else {
        return Err(opened.malformed(format!("{what}: the size of dimensions {:?} in {} overflows", descriptor.dimensions, dtype.name())));
    };
    descriptor.validate().map_err(|e| cursor.library_error(&format!("{what} (byte {at})"), e))?;
    if !offset.is_multiple_of(alignment) {
        return Err(opened.malformed(format!("{what}: its offset {offset} is not a multiple of the alignment {alignment}")));
    }
    let Some(end) = offset.checked_add(size) else {
        return Err(opened.malformed(format!("{what}: its offset {offset} and size {size} overflow")));
    };
    let TensorInfo { name, mut dimensions, .. } = descriptor;
    dimensions.reverse();
    Ok(Tensor { name, dtype, shape: dimensions, file: 0, range: offset..end })
}

/// The type with this id; types that a pack cannot hold keep their size, so that their place is checked all the same.
fn dtype(opened: &Opened, what: &str, id: u32) -> Result<Dtype> {
    if let Some(qtype) = QuantType::from_code(id) {
        return Ok(Dtype::Weight(qtype));
    }
    let hint = match id {
        4 | 5 | 31..=33 | 36..=38 => "the type was removed from GGUF; convert the model again with a current llama.cpp",
        _ => "the type is newer than this program or belongs to a fork of llama.cpp; use a model with standard types",
    };
    let unknown = || Error::Unsupported { what: format!("{}: {what} of type id {id}", opened.shown.display()), hint: hint.into() };
    let known = GGUFTensorType::from_u32(id).map_err(|_| unknown())?;
    let block_bytes = known.block_size_bytes().and_then(|b| u32::try_from(b).ok()).ok_or_else(unknown)?;
    let block_len = u32::try_from(known.block_size()).ok().filter(|&n| n > 0).ok_or_else(unknown)?;
    Ok(Dtype::Other { name: known.name(), block_len, block_bytes })
}

/// Makes ranges relative to the file and checks that they lie in it (unless only its header is there) and apart.
fn place(opened: &Opened, tensors: &mut [Tensor], header: u64, alignment: u64) -> Result<()> {
    // No overflow: the header is at most 256 MiB.
    let data = header.next_multiple_of(alignment);
    for tensor in tensors.iter_mut() {
        let range = tensor.range.start.checked_add(data).zip(tensor.range.end.checked_add(data));
        let Some((start, end)) = range.filter(|&(_, end)| opened.header_only || end <= opened.len()) else {
            let why = format!(
                "tensor {} is at data offsets {}..{}, but the file has {} bytes of data: the download is incomplete",
                quoted(&tensor.name),
                tensor.range.start,
                tensor.range.end,
                opened.len().saturating_sub(data)
            );
            return Err(opened.malformed(why));
        };
        tensor.range = start..end;
    }
    tensors.sort_by_key(|t| (t.range.start, t.range.end));
    let mut previous: Option<&Tensor> = None;
    for tensor in tensors.iter().filter(|t| t.bytes() > 0) {
        if let Some(p) = previous.filter(|p| p.range.end > tensor.range.start) {
            let why = format!(
                "tensor {} at byte {} overlaps tensor {}, which ends at {}",
                quoted(&tensor.name),
                tensor.range.start,
                quoted(&p.name),
                p.range.end
            );
            return Err(opened.malformed(why));
        }
        previous = Some(tensor);
    }
    Ok(())
}

/// The arrays of the vocabulary have the element types and lengths that readers rely on.
fn check_vocabulary(opened: &Opened, pairs: &[(String, GgufValue)]) -> Result<()> {
    const TEMPLATE_LIMIT: usize = 1 << 20;
    let is_text = |v: &GgufValue| matches!(v, GgufValue::Text(_));
    let is_integer = |v: &GgufValue| matches!(v, GgufValue::Uint(_) | GgufValue::Int(_));
    let is_float = |v: &GgufValue| matches!(v, GgufValue::Float(_));
    let array = |key: &str, what: &str, right: &dyn Fn(&GgufValue) -> bool| match get(pairs, key) {
        None => Ok(None),
        Some(GgufValue::Array(values)) if values.iter().all(right) => Ok(Some(values.len())),
        Some(_) => Err(opened.malformed(format!("{key} is not an array of {what}"))),
    };
    let tokens = array("tokenizer.ggml.tokens", "strings", &is_text)?;
    array("tokenizer.ggml.merges", "strings", &is_text)?;
    let per_token = [
        ("tokenizer.ggml.scores", array("tokenizer.ggml.scores", "floats", &is_float)?),
        ("tokenizer.ggml.token_type", array("tokenizer.ggml.token_type", "integers", &is_integer)?),
    ];
    for (key, length) in per_token {
        if length.is_some() && length != tokens {
            let why = format!("{key} has {} elements for {} tokens", length.unwrap_or_default(), tokens.unwrap_or_default());
            return Err(opened.malformed(why));
        }
    }
    match get(pairs, "tokenizer.chat_template") {
        Some(GgufValue::Text(text)) if text.len() > TEMPLATE_LIMIT => Err(opened.malformed("tokenizer.chat_template is longer than 1 MiB")),
        None | Some(GgufValue::Text(_)) => Ok(()),
        Some(_) => Err(opened.malformed("tokenizer.chat_template is not a string")),
    }
}

/// BLAKE3 of the first `length` bytes.
fn hash(opened: &Opened, length: u64) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    let read = std::io::copy(&mut FileAt { file: &opened.file, position: 0 }.take(length), &mut hasher)
        .map_err(|e| opened.io("reading the header", e))?;
    if read != length {
        return Err(Error::SourceChanged { file: opened.shown.clone() });
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Sequential reads that do not move the file's own position.
struct FileAt<'a> {
    file: &'a File,
    position: u64,
}

impl Read for FileAt<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read_at(buf, self.position)?;
        self.position = self.position.saturating_add(n as u64);
        Ok(n)
    }
}

/// A buffered, counting reader of the header.
struct Cursor<'a> {
    opened: &'a Opened,
    reader: BufReader<FileAt<'a>>,
    position: u64,
    end: u64,
}

impl<'a> Cursor<'a> {
    fn new(opened: &'a Opened) -> Self {
        let capacity = usize::try_from(opened.len()).unwrap_or(usize::MAX).clamp(1, 256 << 10);
        let reader = BufReader::with_capacity(capacity, FileAt { file: &opened.file, position: 0 });
        Self { opened, reader, position: 0, end: opened.len().min(MAX_HEADER) }
    }

    /// Bytes that may still belong to the header.
    fn remaining(&self) -> u64 {
        self.end.saturating_sub(self.position)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.room_for(what, N as u64, 1)?;
        self.read_exact(&mut bytes).map_err(|e| self.opened.io("reading the header", e))?;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn value_type(&mut self, what: &str) -> Result<GGUFValueType> {
        let id = self.u32(what)?;
        GGUFValueType::from_u32(id).map_err(|_| self.opened.malformed(format!("{what} is of the unknown type {id}")))
    }

    /// A string value; its length is checked before the library sees it.
    fn string(&mut self, what: &str) -> Result<std::result::Result<MetadataValue, GGUFError>> {
        let length = self.array::<8>(what)?;
        self.room_for(what, u64::from_le_bytes(length), 1)?;
        Ok(MetadataValue::read_from(&mut length.chain(self), GGUFValueType::String))
    }

    /// A name of at most `limit` bytes.
    fn text(&mut self, what: &str, limit: u64) -> Result<String> {
        let at = self.position;
        let length = self.u64(what)?;
        if length > limit {
            return Err(self.opened.malformed(format!("{what} (byte {at}) has a name of {length} bytes; at most {limit} are possible")));
        }
        self.room_for(what, length, 1)?;
        let mut bytes = vec![0; length as usize]; // at most 64 KiB
        self.read_exact(&mut bytes).map_err(|e| self.opened.io("reading the header", e))?;
        String::from_utf8(bytes).map_err(|_| self.opened.malformed(format!("{what} (byte {at}) has a name that is not UTF-8")))
    }

    /// Refuses a count of elements that cannot be in the rest of the header, before anything is allocated for them.
    fn room_for(&self, what: &str, count: u64, size: u64) -> Result<()> {
        if count.checked_mul(size).is_some_and(|n| n <= self.remaining()) {
            return Ok(());
        }
        let (at, left) = (self.position, self.remaining());
        let why = if self.end < self.opened.len() {
            format!("{what} needs {count} x {size} bytes at byte {at}, past the limit of {MAX_HEADER} bytes for a header")
        } else {
            format!("{what} needs {count} x {size} bytes at byte {at}, but {left} are left in the file: the download is incomplete")
        };
        Err(self.opened.malformed(why))
    }

    /// An error of gguf-rs-lib with the place it happened at.
    fn library_error(&self, what: &str, error: GGUFError) -> Error {
        match error {
            GGUFError::Io(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                self.opened.malformed(format!("{what} goes past the end of the file at byte {}: the download is incomplete", self.position))
            }
            GGUFError::Io(e) => self.opened.io("reading the header", e),
            other => self.opened.malformed(format!("{what}: {other}")),
        }
    }
}

impl Read for Cursor<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.remaining()).unwrap_or(usize::MAX).min(buf.len());
        let n = self.reader.read(buf.get_mut(..most).unwrap_or_default())?;
        self.position = self.position.saturating_add(n as u64);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Our own table of block sizes and the library's are the same.
    #[test]
    fn block_sizes_agree_with_the_library() {
        for info in forebay_format::quant::QUANTS {
            let theirs = GGUFTensorType::from_u32(info.qtype as u32).unwrap();
            assert_eq!(theirs.block_size().max(1), info.block_len, "{}", info.name);
            assert_eq!(theirs.block_size_bytes(), Some(info.block_bytes), "{}", info.name);
        }
    }
}
