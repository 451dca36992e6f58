//! JSON from strangers: bounded size, depth and number of nodes; duplicate keys refused.

use super::file::{Opened, quoted};
use crate::error::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::cell::Cell;
use std::fmt;

/// Deepest nesting of arrays and objects. `serde_json` itself stops at 128.
const MAX_DEPTH: u32 = 64;

/// Parses `bytes` into a value of at most `max_nodes` nodes (a node takes about 80 bytes of memory, however few in the text).
pub(super) fn parse(opened: &Opened, bytes: &[u8], max_nodes: u32) -> Result<Value> {
    let budget = Cell::new(max_nodes);
    let mut de = serde_json::Deserializer::from_slice(bytes);
    let value = Node { depth: 0, budget: &budget }.deserialize(&mut de).and_then(|v| de.end().map(|()| v));
    value.map_err(|e| invalid(opened, &e))
}

/// Parses `bytes` into an object; everything else is refused.
pub(super) fn parse_object(opened: &Opened, bytes: &[u8], max_nodes: u32) -> Result<Value> {
    let value = parse(opened, bytes, max_nodes)?;
    if value.is_object() { Ok(value) } else { Err(opened.malformed("is not a JSON object")) }
}

/// The error for JSON that does not parse. `serde_json` adds line and column.
pub(super) fn invalid(opened: &Opened, error: &serde_json::Error) -> Error {
    opened.malformed(format!("is not valid JSON: {error}"))
}

#[derive(Clone, Copy)]
struct Node<'a> {
    depth: u32,
    budget: &'a Cell<u32>,
}

impl Node<'_> {
    fn inner<E: serde::de::Error>(self) -> std::result::Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<Value, D::Error> {
        match self.budget.get().checked_sub(1) {
            Some(left) => self.budget.set(left),
            None => return Err(D::Error::custom("too many values")),
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> std::result::Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_u64<E>(self, v: u64) -> std::result::Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> std::result::Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> std::result::Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> std::result::Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut values = Vec::new();
        while let Some(value) = seq.next_element_seed(inner)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value_seed(inner)?;
            if values.contains_key(&key) {
                return Err(A::Error::custom(format_args!("the key {} appears twice", quoted(&key))));
            }
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

/// Checks that `bytes` is one JSON object nested no deeper than 64 levels, with each top-level key once and `required` among them,
/// without building it: a tokenizer of 200 MB takes no memory beyond its text.
pub(super) fn check_object(opened: &Opened, bytes: &[u8], required: &str) -> Result<()> {
    if depth_exceeds(bytes, MAX_DEPTH) {
        return Err(opened.malformed(format!("is nested deeper than {MAX_DEPTH} levels")));
    }
    let mut de = serde_json::Deserializer::from_slice(bytes);
    (&mut de).deserialize_map(TopLevel { required }).and_then(|()| de.end()).map_err(|e| invalid(opened, &e))
}

/// Whether brackets outside strings nest deeper than `limit`. Right for valid JSON; on anything else the parser decides.
fn depth_exceeds(bytes: &[u8], limit: u32) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0u32, false, false);
    for &b in bytes {
        if in_string {
            match b {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match b {
            b'"' => in_string = true,
            b'[' | b'{' if depth == limit => return true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

struct TopLevel<'a> {
    required: &'a str,
}

impl<'de> Visitor<'de> for TopLevel<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        const MAX_KEYS: usize = 1000;
        let mut seen = Vec::<String>::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<IgnoredAny>()?;
            if seen.contains(&key) {
                return Err(A::Error::custom(format_args!("the key {} appears twice", quoted(&key))));
            }
            if seen.len() == MAX_KEYS {
                return Err(A::Error::custom("too many keys"));
            }
            seen.push(key);
        }
        if seen.iter().any(|k| k == self.required) {
            Ok(())
        } else {
            Err(A::Error::custom(format_args!("the key {} is missing", quoted(self.required))))
        }
    }
}
