//! Classes G1 to G23: one GGUF file, and splits.

use super::build::*;
use super::{Case, Kind, Kind::*};

const F32: u32 = 0;
const Q8_0: u32 = 8;

fn gguf(name: &'static str, kind: Kind, expect: &'static str, change: impl Fn(&mut Gguf) + 'static) -> Case {
    Case::new(name, kind, expect, move |d| {
        let mut file = Gguf::valid();
        change(&mut file);
        file.write(d)
    })
}

fn bad_pair(name: &'static str, expect: &'static str, pair: Vec<u8>) -> Case {
    gguf(name, Malformed, expect, move |g| g.pairs.push(pair.clone()))
}

fn bad_tensor(name: &'static str, kind: Kind, expect: &'static str, tensor: Vec<u8>) -> Case {
    gguf(name, kind, expect, move |g| g.tensors = vec![tensor.clone()])
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let mut cases = header_cases();
    cases.extend(pair_cases());
    cases.extend(tensor_cases());
    cases.extend(split_cases());
    cases
}

fn header_cases() -> Vec<Case> {
    vec![
        gguf("G1 wrong magic", Malformed, "does not begin with \"GGUF\"", |g| g.magic = *b"GGUG"),
        gguf("G1 the format before GGUF", Unsupported, "from before GGUF", |g| g.magic = *b"tjgg"),
        Case::new("G1 empty file", Source, "is empty", |d| {
            std::fs::write(d.join("m.gguf"), b"").unwrap();
            d.join("m.gguf")
        }),
        gguf("G2 version 0", Unsupported, "GGUF version 0", |g| g.version = 0),
        gguf("G2 version 1", Unsupported, "GGUF version 1", |g| g.version = 1),
        gguf("G2 version 4", Unsupported, "GGUF version 4", |g| g.version = 4),
        gguf("G2 big-endian", Unsupported, "big-endian GGUF", |g| g.version = 3u32.swap_bytes()),
        gguf("G3 -1 tensors", Malformed, "says it has 18446744073709551615 tensors", |g| g.counts = Some((u64::MAX, 1))),
        gguf("G3 2^63 pairs", Malformed, "says it has 9223372036854775808 key-value pairs", |g| g.counts = Some((2, 1 << 63))),
        gguf("G3 more tensors than the file can hold", Malformed, "take at least 3300014 bytes", |g| g.counts = Some((100_000, 1))),
        gguf("G3 one tensor more than there is", Malformed, "tensor 2", |g| {
            g.counts = Some((3, 1));
            g.data = 68;
        }),
    ]
}

fn pair_cases() -> Vec<Case> {
    let huge_key = [&u64::MAX.to_le_bytes()[..], b"k"].concat();
    let nested = array(9, 1, &array(4, 1, &[0; 4]));
    let scores = |count: u64| pair("tokenizer.ggml.scores", 9, &array(6, count, &vec![0; 4 * count as usize]));
    let tokens = || pair("tokenizer.ggml.tokens", 9, &array(8, 2, &[text("a"), text("b")].concat()));
    vec![
        bad_pair("G4 key of 2^64-1 bytes", "key 1 (byte 69) has a name of 18446744073709551615 bytes", huge_key),
        bad_pair("G4 empty key", "key 1 has an empty name", pair_u32("", 1)),
        bad_pair("G4 key not UTF-8", "has a name that is not UTF-8", pair(b"\xff\xfe", 4, &[0; 4])),
        bad_pair("G4 key of 64 KiB", "has a name of 65536 bytes", pair_u32(&"k".repeat(65_536), 1)),
        bad_pair("G4 escape sequence in a key", "\"\\u{1b}[2J\" has control characters", pair_u32("\u{1b}[2J", 1)),
        bad_pair("G5 unknown value type", "the value of \"k\" is of the unknown type 13", pair("k", 13, &[0; 8])),
        bad_pair("G6 array of arrays", "the value of \"k\" is an array of arrays", pair("k", 9, &nested)),
        bad_pair("G6 array length overflows", "needs 4611686018427387904 x 4 bytes", pair("k", 9, &array(4, 1 << 62, &[]))),
        bad_pair("G6 array of 10^9 strings", "needs 1000000000 x 8 bytes", pair("k", 9, &array(8, 1_000_000_000, &[]))),
        bad_pair("G6 array of an unknown type", "unknown type 99", pair("k", 9, &array(99, 1, &[0; 8]))),
        bad_pair(
            "G6 more elements than the limit",
            "all arrays together may have 1500000",
            pair("k", 9, &array(0, 1_500_001, &vec![0; 1_500_001])),
        ),
        bad_pair("G7 bool of 2", "the value of \"k\" (byte 78): Invalid metadata: Invalid boolean value: 2", pair("k", 7, &[2])),
        bad_pair("G8 string of 2^63 bytes", "needs 9223372036854775808 x 1 bytes", pair("k", 8, &(1u64 << 63).to_le_bytes())),
        bad_pair("G8 string not UTF-8", "Invalid UTF-8", pair("k", 8, &text(b"\xc3\x28"))),
        bad_pair("G9 the same key twice", "the key \"general.architecture\" appears twice", architecture()),
        bad_pair("G10 alignment 0", "general.alignment is 0", pair_u32("general.alignment", 0)),
        bad_pair("G10 alignment 13", "general.alignment is 13", pair_u32("general.alignment", 13)),
        bad_pair("G10 alignment 2^31", "general.alignment is 2147483648", pair_u32("general.alignment", 1 << 31)),
        bad_pair("G10 alignment as a string", "general.alignment is not an unsigned integer", pair("general.alignment", 8, &text("32"))),
        bad_pair(
            "G21 tokens are numbers",
            "tokenizer.ggml.tokens is not an array of strings",
            pair("tokenizer.ggml.tokens", 9, &array(4, 1, &[0; 4])),
        ),
        bad_pair(
            "G21 scores are bytes",
            "tokenizer.ggml.scores is not an array of floats",
            pair("tokenizer.ggml.scores", 9, &array(1, 2, &[0; 2])),
        ),
        bad_pair(
            "G21 merges are one string",
            "tokenizer.ggml.merges is not an array of strings",
            pair("tokenizer.ggml.merges", 8, &text("a b")),
        ),
        gguf("G21 a score too few", Malformed, "tokenizer.ggml.scores has 1 elements for 2 tokens", move |g| {
            g.pairs.extend([tokens(), scores(1)])
        }),
        bad_pair("G21 template is a number", "tokenizer.chat_template is not a string", pair_u32("tokenizer.chat_template", 1)),
        bad_pair("G21 template of 2 MB", "longer than 1 MiB", pair("tokenizer.chat_template", 8, &text("x".repeat(2_000_000)))),
        gguf("G22 no architecture", Malformed, "the key general.architecture is missing", |g| {
            g.pairs = vec![pair_u32("llama.block_count", 1)]
        }),
        gguf("G22 architecture is a number", Malformed, "general.architecture is not a string", |g| {
            g.pairs = vec![pair_u32("general.architecture", 1)]
        }),
        gguf("G23 control characters in the architecture", Malformed, "\"\\u{1b}[31mllama\", which is no name", |g| {
            g.pairs = vec![pair("general.architecture", 8, &text("\u{1b}[31mllama"))];
        }),
    ]
}

fn tensor_cases() -> Vec<Case> {
    let rank = |rank: u32| [&text("t"), &rank.to_le_bytes()[..], &[1; 64]].concat();
    vec![
        bad_tensor("G11 no dimensions", Malformed, "tensor \"t\" has 0 dimensions", rank(0)),
        bad_tensor("G11 five dimensions", Malformed, "tensor \"t\" has 5 dimensions", rank(5)),
        bad_tensor("G11 2^32-1 dimensions", Malformed, "tensor \"t\" has 4294967295 dimensions", rank(u32::MAX)),
        bad_tensor("G12 negative dimension", Malformed, "has a dimension of 18446744073709551615", tensor("t", &[u64::MAX], F32, 0)),
        bad_tensor("G12 dimension 2^63-1", Malformed, "overflows", tensor("t", &[i64::MAX as u64], F32, 0)),
        bad_tensor("G13 number of elements overflows", Malformed, "overflows", tensor("t", &[1 << 32, 1 << 32], F32, 0)),
        bad_tensor(
            "G13 size wraps to 0 when padded",
            Malformed,
            "but the file has 100 bytes of data",
            tensor("t", &[(1 << 62) - 1], F32, 0),
        ),
        bad_tensor("G14 row of half a block", Malformed, "no whole number of q8_0 blocks of 32", tensor("t", &[48], Q8_0, 0)),
        bad_tensor("G15 removed type 4", Unsupported, "the type was removed", tensor("t", &[32], 4, 0)),
        bad_tensor("G15 removed type 31", Unsupported, "tensor \"t\" of type id 31", tensor("t", &[32], 31, 0)),
        bad_tensor("G15 a fork's type", Unsupported, "tensor \"t\" of type id 137", tensor("t", &[256], 137, 0)),
        bad_tensor("G15 type 2^32-1", Unsupported, "of type id 4294967295", tensor("t", &[256], u32::MAX, 0)),
        bad_tensor("G16 offset not aligned", Malformed, "its offset 4 is not a multiple of the alignment 32", tensor("t", &[8], F32, 4)),
        bad_tensor("G16 offset beyond the file", Malformed, "tensor \"t\" is at data offsets 4096..4128", tensor("t", &[8], F32, 4096)),
        bad_tensor(
            "G16 offset wraps",
            Malformed,
            "its offset 18446744073709551584 and size 32 overflow",
            tensor("t", &[8], F32, u64::MAX - 31),
        ),
        bad_tensor("G16 offset and data position wrap", Malformed, "is at data offsets", tensor("t", &[1], F32, u64::MAX - 63)),
        gguf("G16 overlap", Malformed, "tensor \"b\" at byte", |g| {
            g.tensors = vec![tensor("a", &[16], F32, 0), tensor("b", &[8], F32, 32)]
        }),
        gguf("G18 region smaller than the type needs", Malformed, "overlaps tensor \"a\"", |g| {
            g.tensors = vec![tensor("a", &[32, 2], Q8_0, 0), tensor("b", &[8], F32, 64)];
        }),
        gguf("G17 the same tensor twice", Malformed, "tensor \"a\" appears twice", |g| {
            g.tensors = vec![tensor("a", &[8], F32, 0), tensor("a", &[8], F32, 32)]
        }),
        bad_tensor("G17 name of 65 bytes", Malformed, "has a name of 65 bytes; at most 64", tensor("n".repeat(65), &[8], F32, 0)),
        bad_tensor("G17 empty name", Malformed, "tensor 0 has an empty name", tensor("", &[8], F32, 0)),
        bad_tensor("G17 name not UTF-8", Malformed, "not UTF-8", tensor(b"\xff", &[8], F32, 0)),
        bad_tensor("G17 escape sequence in a name", Malformed, "has control characters", tensor("\u{1b}]0;x\u{7}", &[8], F32, 0)),
        gguf("G19 last tensor one byte short", Malformed, "tensor \"b\" is at data offsets 32..100, but the file has 99", |g| g.data -= 1),
    ]
}

/// Writes two parts; returns the path of the first.
fn two_parts(dir: &std::path::Path, first: &Gguf, second: &Gguf) -> std::path::PathBuf {
    second.write_as(dir, "m-00002-of-00002.gguf");
    first.write_as(dir, "m-00001-of-00002.gguf")
}

fn split_cases() -> Vec<Case> {
    vec![
        Case::new("G20 missing part", Source, "m-00002-of-00002.gguf: is missing: the model has 2 parts", |d| {
            part(0, 2, 2, "a").write_as(d, "m-00001-of-00002.gguf")
        }),
        Case::new("G20 name without a number", Source, "does not end with -00001-of-00002.gguf", |d| part(0, 2, 2, "a").write(d)),
        Case::new("G20 number does not match the name", Source, "does not end with -00002-of-00002.gguf", |d| {
            part(1, 2, 2, "a").write_as(d, "m-00001-of-00002.gguf")
        }),
        Case::new("G20 number beyond the count", Malformed, "split.no is missing or too large", |d| {
            part(7, 2, 2, "a").write_as(d, "m-00001-of-00002.gguf")
        }),
        Case::new("G20 second part says it is the first", Malformed, "says that it is part 0 of 2", |d| {
            two_parts(d, &part(0, 2, 2, "a"), &part(0, 2, 2, "b"))
        }),
        Case::new("G20 second part of another split", Malformed, "says that it is part 1 of 3", |d| {
            two_parts(d, &part(0, 2, 2, "a"), &part(1, 3, 2, "b"))
        }),
        Case::new("G20 second part of another model", Malformed, "\"general.architecture\" differs", |d| {
            let mut other = part(1, 2, 2, "b");
            other.pairs[0] = pair("general.architecture", 8, &text("qwen2"));
            two_parts(d, &part(0, 2, 2, "a"), &other)
        }),
        Case::new("G20 wrong number of tensors", Malformed, "split.tensors.count is 3, but the 2 parts have 2", |d| {
            two_parts(d, &part(0, 2, 3, "a"), &part(1, 2, 3, "b"))
        }),
        Case::new("G20 the same tensor in both parts", Malformed, "tensor \"a\" appears twice, first in m-00001-of-00002.gguf", |d| {
            two_parts(d, &part(0, 2, 2, "a"), &part(1, 2, 2, "a"))
        }),
        Case::new("G20 second part truncated", Malformed, "m-00002-of-00002.gguf: tensor \"b\" is at data offsets", |d| {
            let mut short = part(1, 2, 2, "b");
            short.data = 31;
            two_parts(d, &part(0, 2, 2, "a"), &short)
        }),
        Case::new("G20 count as a string", Malformed, "split.count is not an unsigned integer", |d| {
            Gguf::valid().with_pair(pair("split.count", 8, &text("2"))).write(d)
        }),
    ]
}
