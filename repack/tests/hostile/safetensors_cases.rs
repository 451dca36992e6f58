//! Classes S1 to S16: one safetensors file.

use super::build::*;
use super::{Case, Kind::*};

/// All cases.
pub fn cases() -> Vec<Case> {
    let st = |name, kind, expect, bytes: Vec<u8>| Case::new(name, kind, expect, move |d| single(d, &bytes));
    let raw = |name, expect, header: &str, data| st(name, Malformed, expect, safetensors_raw(header, data));
    let one = |name, expect, e: String, data| st(name, Malformed, expect, safetensors(&[e], data));
    let two = |name, expect, a: String, b: String, data| st(name, Malformed, expect, safetensors(&[a, b], data));
    let length = |n: u64| [&n.to_le_bytes()[..], b"{}      "].concat();
    let good = entry("a", "F32", "[2]", 0, 8);
    let many_dimensions = format!("[{}1]", "1,".repeat(8));
    let deep = format!(r#"{{"a":{}"#, "[".repeat(100_000));
    let long_name = "n".repeat(65_536);
    vec![
        st("S1 empty file", Malformed, "is 0 bytes long", vec![]),
        st("S1 seven bytes", Malformed, "is 7 bytes long", vec![2, 0, 0, 0, 0, 0, 0]),
        st("S2 header length 0", Malformed, "does not begin with '{'", length(0)),
        st("S2 header longer than the file", Malformed, "the header ends at byte 1008, but the file has 16", length(1000)),
        st("S2 header length 2^63", Malformed, "the header's length is 9223372036854775808", length(1 << 63)),
        st("S3 header length 2^64-1", Malformed, "the header's length is 18446744073709551615", length(u64::MAX)),
        st("S2 header over the limit", Malformed, "the header's length is 33554433; at most 33554432", length((32 << 20) + 1)),
        st("S4 name not UTF-8", Malformed, "invalid unicode code point", safetensors_raw(b"{\"\xff\xfe\":1}", 0)),
        st("S4 byte order mark", Malformed, "does not begin with '{'", safetensors_raw("\u{feff}{}", 0)),
        raw("S4 NUL after the header", "trailing characters", "{}\0\0\0", 0),
        raw("S5 array instead of object", "does not begin with '{'", "[]", 0),
        raw("S5 an archive after the JSON", "trailing characters", "{} PK\u{3}\u{4}", 0),
        raw("S6 broken JSON", "is not valid", r#"{"a":{"dtype":"F32","#, 0),
        st("S6 100 000 levels", Malformed, "is not valid", safetensors_raw(deep, 0)),
        raw("S6 offset 1e999", "tensor \"a\": number out of range", r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1e999]}}"#, 1),
        raw("S6 negative offset", "invalid value: integer `-1`", r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[-1,0]}}"#, 1),
        raw("S6 float dimension", "floating point `1.5`", r#"{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}"#, 1),
        raw("S6 string offset", "invalid type: string", r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,"1"]}}"#, 1),
        raw("S6 three offsets", "trailing characters", r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}}"#, 1),
        raw("S6 entry is a number", "invalid type: integer", r#"{"a":7}"#, 0),
        raw("S6 field missing", "missing field `shape`", r#"{"a":{"dtype":"U8","data_offsets":[0,1]}}"#, 1),
        raw("S6 unknown field", "unknown field", r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"strides":[1]}}"#, 1),
        raw("S6 field twice", "appears twice", r#"{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, 1),
        two("S7 the same tensor twice", "has tensor \"a\" twice", good.clone(), entry("a", "F32", "[2]", 8, 16), 16),
        raw("S7 __metadata__ twice", "__metadata__ appears twice", r#"{"__metadata__":{},"__metadata__":{}}"#, 0),
        one("S8 offsets reversed", "are reversed", entry("a", "F32", "[2]", 8, 0), 8),
        two("S8 overlap", "tensor \"b\" at data offset 4 overlaps \"a\"", good.clone(), entry("b", "F32", "[2]", 4, 12), 12),
        two("S8 hole", "4 bytes at data offset 8, before tensor \"b\"", good.clone(), entry("b", "F32", "[2]", 12, 20), 20),
        one("S8 not from 0", "4 bytes at data offset 0, before tensor \"a\"", entry("a", "F32", "[2]", 4, 12), 12),
        one("S8 data cut short", "ends at data offset 8, but the file has 7", good.clone(), 7),
        one("S8 data left over", "1 bytes follow the last tensor, at byte", good.clone(), 9),
        one("S9 shape overflows", "overflows", entry("a", "F32", "[4294967296,4294967296,2]", 0, 8), 8),
        one("S9 size overflows", "overflows", entry("a", "F64", "[4611686018427387904]", 0, 8), 8),
        one("S9 size and range differ", "shape [3] in f32 takes 12 bytes, its data offsets span 8", entry("a", "F32", "[3]", 0, 8), 8),
        one("S10 nine dimensions", "more than 8 dimensions", entry("a", "U8", &many_dimensions, 0, 1), 1),
        st("S11 unknown type", Unsupported, "tensor \"a\" of type \"F7\"", safetensors(&[entry("a", "F7", "[1]", 0, 1)], 1)),
        st("S11 type in lower case", Unsupported, "tensor \"a\" of type \"bf16\"", safetensors(&[entry("a", "bf16", "[1]", 0, 2)], 2)),
        one("S11 half a byte", "no whole number of bytes", entry("a", "F4", "[3]", 0, 2), 2),
        raw("S12 __metadata__ with a number", "__metadata__ \"step\": invalid type: integer", r#"{"__metadata__":{"step":3}}"#, 0),
        raw("S12 __metadata__ is a list", "__metadata__ as an object of strings", r#"{"__metadata__":[]}"#, 0),
        one("S14 empty name", "a tensor has an empty name", entry("", "F32", "[2]", 0, 8), 8),
        one("S14 name of 64 KiB", "longer than 512 bytes", entry(&long_name, "F32", "[2]", 0, 8), 8),
        one("S14 escape sequence in a name", "\"\\u{1b}[2Ja\" has control characters", entry("\\u001b[2Ja", "F32", "[2]", 0, 8), 8),
        one("S14 NUL in a name", "has control characters", entry("a\\u0000", "F32", "[2]", 0, 8), 8),
        st(
            "S16 Git LFS pointer",
            Source,
            "is a Git LFS pointer",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n".to_vec(),
        ),
        st("S16 web page", Source, "is a web page", b"<!DOCTYPE html><html><body>Access denied</body></html>".to_vec()),
        st("S16 server's error message", Malformed, "is a JSON text", br#"{"error":"Repository not found"}"#.to_vec()),
        st("S16 gzip", Unsupported, "a compressed file", b"\x1f\x8b\x08\0\0\0\0\0\0\x03more".to_vec()),
        st("S16 pickle under this name", Unsupported, "a pickle file", b"PK\x03\x04\0\0\0\0archive/data.pkl".to_vec()),
        st("S16 GGUF under this name", Unsupported, "a GGUF file under this name", Gguf::valid().bytes()),
    ]
}
