//! Classes D1 to D8, M10 and T12: directories, indexes, configurations, tokenizers.

use super::build::*;
use super::{Case, Kind::*};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// All cases.
pub fn cases() -> Vec<Case> {
    let mut cases = index_cases();
    cases.extend(file_cases());
    cases.extend(directory_cases());
    cases.extend(json_cases());
    cases.extend(cache_cases());
    cases
}

fn index_cases() -> Vec<Case> {
    const ONE: &str = "model-00001-of-00002.safetensors";
    const TWO: &str = "model-00002-of-00002.safetensors";
    let plain = "is not a plain file name";
    let shard = |name, shard: &'static str| Case::new(name, Malformed, plain, move |d| sharded(d, index(&[("x", ONE), ("y", shard)])));
    let text = |name, expect, text: String| Case::new(name, Malformed, expect, move |d| sharded(d, &text));
    let deep = format!(r#"{{"weight_map":{}"#, "[".repeat(100_000));
    let too_long = format!(r#"{{"weight_map":{{"x":"{ONE}"}},"x":"{}"}}"#, " ".repeat(64 << 20));
    vec![
        shard("D1 shard in the directory above", "../x.safetensors"),
        shard("D1 absolute path", "/etc/passwd"),
        shard("D1 path through a directory", "a/../../b.safetensors"),
        shard("D1 backslash", "..\\x.safetensors"),
        shard("D1 the directory itself", ".."),
        shard("D1 empty name", ""),
        shard("D1 NUL in the name", "x\0.safetensors"),
        Case::new("D6 index of pickle shards", Unsupported, "the pickle shard", |d| {
            sharded(d, index(&[("x", "pytorch_model-00001-of-00002.bin")]))
        }),
        Case::new("D2 missing shard", Source, "is missing, though model.safetensors.index.json lists it", |d| {
            let dir = sharded(d, right_index());
            fs::remove_file(d.join(TWO)).unwrap();
            dir
        }),
        Case::new("D2 empty shard", Malformed, "is 0 bytes long", |d| {
            let dir = sharded(d, right_index());
            fs::write(d.join(TWO), b"").unwrap();
            dir
        }),
        Case::new("D2 shard too many", Malformed, "does not list the shard \"model-00003-of-00002.safetensors\"", |d| {
            fs::write(d.join("model-00003-of-00002.safetensors"), valid_safetensors(&["z"])).unwrap();
            sharded(d, right_index())
        }),
        text(
            "D3 tensor in no shard",
            "tensor \"z\" is in model-00001-of-00002.safetensors, which does not",
            index(&[("x", ONE), ("y", TWO), ("z", ONE)]),
        ),
        text(
            "D3 tensors in each other's shard",
            "tensor \"x\" is in model-00002-of-00002.safetensors, but it is in",
            index(&[("x", TWO), ("y", ONE)]),
        ),
        Case::new("D3 tensor not in the index", Malformed, "does not list tensor \"y2\"", |d| {
            let dir = sharded(d, right_index());
            fs::write(d.join(TWO), valid_safetensors(&["y", "y2"])).unwrap();
            dir
        }),
        Case::new(
            "D3 tensor in two shards",
            Malformed,
            "model-00002-of-00002.safetensors: tensor \"x\" is also in model-00001-of-00002.safetensors",
            |d| {
                let dir = sharded(d, right_index());
                fs::write(d.join(TWO), valid_safetensors(&["x", "y"])).unwrap();
                dir
            },
        ),
        text("D8 index is a list", "is not valid JSON", "[]".into()),
        text("D8 index without weight_map", "has no weight_map", "{}".into()),
        text("D8 empty weight_map", "its weight_map is empty", index(&[])),
        text("D8 weight_map is a list", "weight_map as an object", r#"{"weight_map":["x"]}"#.into()),
        text("D8 shard is a number", "the shard of \"x\": invalid type", r#"{"weight_map":{"x":1}}"#.into()),
        text("D8 the same tensor twice", "tensor \"x\" appears twice", index(&[("x", ONE), ("x", TWO)])),
        text("D8 weight_map twice", "weight_map appears twice", format!(r#"{{"weight_map":{{"x":"{ONE}"}},"weight_map":{{}}}}"#)),
        text("D8 100 000 levels", "is not valid JSON", deep),
        text("D8 index over the limit", "at most 67108864 are read", too_long),
        text("D8 index cut short", "EOF while parsing", right_index()[..40].into()),
        Case::new("D8 index is a Git LFS pointer", Source, "is a Git LFS pointer", |d| {
            sharded(d, "version https://git-lfs.github.com/spec/v1\n")
        }),
    ]
}

/// A directory where `model.safetensors` is made by `make`.
fn weights_made(dir: &Path, make: impl Fn(&Path)) -> PathBuf {
    let inner = dir.join("model");
    fs::create_dir(&inner).unwrap();
    make(&inner.join("model.safetensors"));
    directory(&inner, &[])
}

fn file_cases() -> Vec<Case> {
    vec![
        Case::new("D1 link out of the directory", Source, "leads out of the directory", |d| {
            fs::write(d.join("outside"), valid_safetensors(&["a"])).unwrap();
            weights_made(d, |p| symlink("../outside", p).unwrap())
        }),
        Case::new("D1 absolute link", Source, "leads out of the directory", |d| weights_made(d, |p| symlink("/etc/passwd", p).unwrap())),
        Case::new("D1 link to a sibling with the same prefix", Source, "leads out of the directory", |d| {
            fs::create_dir(d.join("model2")).unwrap();
            fs::write(d.join("model2/w"), valid_safetensors(&["a"])).unwrap();
            weights_made(d, |p| symlink("../model2/w", p).unwrap())
        }),
        Case::new("D1 link in a circle", Source, "cannot be followed", |d| weights_made(d, |p| symlink("model.safetensors", p).unwrap())),
        Case::new("D1 broken link", Source, "a file that does not exist", |d| weights_made(d, |p| symlink("gone", p).unwrap())),
        Case::new("D1 config leads out of the directory", Source, "config.json: is a symbolic link that leads out", |d| {
            fs::write(d.join("outside"), "{}").unwrap();
            let dir = weights_made(d, |p| fs::write(p, valid_safetensors(&["a"])).unwrap());
            fs::remove_file(dir.join("config.json")).unwrap();
            symlink("../outside", dir.join("config.json")).unwrap();
            dir
        }),
        Case::new("D1 named pipe as weights", Source, "is a named pipe", |d| weights_made(d, pipe)),
        Case::new("D1 named pipe as tokenizer", Source, "tokenizer.json: is a named pipe", |d| {
            pipe(&d.join("tokenizer.json"));
            single(d, &valid_safetensors(&["a"]))
        }),
        Case::new("D1 directory as weights", Source, "is a directory", |d| weights_made(d, |p| fs::create_dir(p).unwrap())),
        Case::new("D1 socket as weights", Source, "is a socket", |d| {
            weights_made(d, |p| drop(std::os::unix::net::UnixListener::bind(p).unwrap()))
        }),
        Case::new("D1 device as a source", Source, "/dev/zero: is a device", |_| PathBuf::from("/dev/zero")),
        Case::new("D1 named pipe as GGUF", Source, "is a named pipe", |d| {
            pipe(&d.join("m.gguf"));
            d.join("m.gguf")
        }),
    ]
}

fn pipe(path: &Path) {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}

fn directory_cases() -> Vec<Case> {
    vec![
        Case::new("D2 nothing there", Source, "does not exist", |d| d.join("nothing")),
        Case::new("D2 empty directory", Source, "holds no .safetensors and no .gguf file", |d| d.to_path_buf()),
        Case::new("D2 unfinished download", Source, "an unfinished download", |d| directory(d, &[("model.safetensors.incomplete", b"x")])),
        Case::new("D2 shards without an index", Source, "but no model.safetensors.index.json", |d| {
            let dir = sharded(d, right_index());
            fs::remove_file(d.join("model.safetensors.index.json")).unwrap();
            dir
        }),
        Case::new("D2 several indexes", Source, "holds several indexes", |d| {
            directory(d, &[("a.safetensors.index.json", b"{}"), ("b.safetensors.index.json", b"{}")])
        }),
        Case::new("D2 directory of GGUF files", Source, "holds GGUF files: name one of \"m.gguf\"", |d| {
            Gguf::valid().write(d);
            d.to_path_buf()
        }),
        Case::new("D6 pickles only", Unsupported, "a checkpoint of pickle files (\"pytorch_model.bin\")", |d| {
            directory(d, &[("pytorch_model.bin", b"PK\x03\x04")])
        }),
        Case::new("D6 pickle by its path", Unsupported, "a pickle file", |d| {
            directory(d, &[("pytorch_model.bin", b"PK\x03\x04")]).join("pytorch_model.bin")
        }),
        Case::new("D2 some other file", Source, "is neither a model directory nor", |d| directory(d, &[]).join("config.json")),
        Case::new("D7 a pack as a source", Unsupported, "a Forebay pack as a source", |d| {
            directory(d, &[("m.fby", &forebay_format::layout::MAGIC)]).join("m.fby")
        }),
    ]
}

fn json_cases() -> Vec<Case> {
    let config = |name, expect, bytes: Vec<u8>| Case::new(name, Malformed, expect, move |d| beside(d, "config.json", &bytes));
    let tokenizer = |name, expect, bytes: Vec<u8>| Case::new(name, Malformed, expect, move |d| beside(d, "tokenizer.json", &bytes));
    let t_config = |name, expect, bytes: &'static str| {
        Case::new(name, Malformed, expect, move |d| beside(d, "tokenizer_config.json", bytes.as_bytes()))
    };
    let nested = |n: usize| format!(r#"{{"model":{}0{}}}"#, "[".repeat(n), "]".repeat(n)).into_bytes();
    vec![
        Case::new("M10 no config", Source, "config.json: is missing", |d| {
            let dir = single(d, &valid_safetensors(&["a"]));
            fs::remove_file(d.join("config.json")).unwrap();
            dir
        }),
        config("M10 empty config", "EOF while parsing", vec![]),
        config("M10 config is a list", "is not a JSON object", b"[1]".to_vec()),
        config("M10 key twice", "the key \"a\" appears twice", br#"{"a":1,"b":{},"a":2}"#.to_vec()),
        config("M10 key twice inside", "appears twice", br#"{"text_config":{"a":1,"a":2}}"#.to_vec()),
        config("M10 number out of range", "number out of range", br#"{"rope_theta":1e309}"#.to_vec()),
        config("M10 NaN", "is not valid JSON", br#"{"rope_theta":NaN}"#.to_vec()),
        config("M10 not UTF-8", "is not valid JSON", b"{\"a\":\"\xff\"}".to_vec()),
        config("M10 65 levels", "nested deeper than 64", nested(65)),
        config("M10 100 000 levels", "nested deeper than 64", nested(100_000)),
        config("M10 5 MB", "at most 4194304 are read", vec![b' '; 5_000_000]),
        config("M10 a million values", "too many values", format!("{{\"a\":[{}0]}}", "0,".repeat(1_000_000)).into_bytes()),
        config("M10 junk after it", "trailing characters", b"{} {}".to_vec()),
        Case::new("M10 config is a Git LFS pointer", Source, "config.json: is a Git LFS pointer", |d| {
            beside(d, "config.json", b"version https://git-lfs.github.com/spec/v1\n")
        }),
        Case::new("M10 config is a web page", Source, "config.json: is a web page", |d| beside(d, "config.json", b"<html>404</html>")),
        Case::new("M10 generation_config cut short", Malformed, "generation_config.json: is not valid JSON", |d| {
            beside(d, "generation_config.json", b"{\"temp")
        }),
        tokenizer("T12 tokenizer is a list", "is not valid JSON", b"[]".to_vec()),
        tokenizer("T12 tokenizer without a model", "the key \"model\" is missing", b"{}".to_vec()),
        tokenizer("T12 model twice", "appears twice", br#"{"model":{},"model":{}}"#.to_vec()),
        tokenizer("T12 tokenizer cut short", "EOF while parsing", br#"{"model":{"vocab":{"a":0"#.to_vec()),
        tokenizer("T12 tokenizer not UTF-8", "is not", b"{\"model\":{\"a\":\"\xff\"}}".to_vec()),
        tokenizer("T12 100 000 levels", "is nested deeper than 64 levels", nested(100_000)),
        Case::new("T12 tokenizer of 1 GB", Malformed, "is 1000000000 bytes long; at most 268435456", |d| {
            let dir = single(d, &valid_safetensors(&["a"]));
            fs::File::create(d.join("tokenizer.json")).unwrap().set_len(1_000_000_000).unwrap();
            dir
        }),
        t_config("T9 template is a number", "chat_template is neither", r#"{"chat_template":1}"#),
        t_config("T9 template list without names", "not {name, template}", r#"{"chat_template":[{"template":"x"}]}"#),
        Case::new("T9 template of 2 MB", Malformed, "chat_template.jinja: is 2000000 bytes long", |d| {
            beside(d, "chat_template.jinja", &vec![b'x'; 2_000_000])
        }),
        Case::new("T9 template of 2 MB in tokenizer_config", Malformed, "chat_template is longer than 1 MiB", |d| {
            beside(d, "tokenizer_config.json", format!(r#"{{"chat_template":"{}"}}"#, "x".repeat(2_000_000)).as_bytes())
        }),
        Case::new("T9 template not UTF-8", Malformed, "chat_template.jinja: is not UTF-8 at byte 1", |d| {
            beside(d, "chat_template.jinja", b"x\xff")
        }),
    ]
}

/// `models--o--n` of the Hugging Face cache with one snapshot, its files links into `blobs`.
pub fn hub_cache(dir: &Path, revision: &str) -> PathBuf {
    let model = dir.join("models--o--n");
    let snapshot = model.join("snapshots").join(revision);
    for sub in [&model.join("blobs"), &model.join("refs"), &snapshot] {
        fs::create_dir_all(sub).unwrap();
    }
    fs::write(model.join("refs/main"), revision).unwrap();
    for (blob, name, bytes) in [("b1", "config.json", b"{}".to_vec()), ("b2", "model.safetensors", valid_safetensors(&["a"]))] {
        fs::write(model.join("blobs").join(blob), bytes).unwrap();
        symlink(Path::new("../../blobs").join(blob), snapshot.join(name)).unwrap();
    }
    model
}

fn cache_cases() -> Vec<Case> {
    vec![
        Case::new("D1 cache link into another model's blobs", Source, "leads out of the directory", |d| {
            let model = hub_cache(d, "abc");
            let other = d.join("models--o--secret/blobs");
            fs::create_dir_all(&other).unwrap();
            fs::write(other.join("b"), valid_safetensors(&["a"])).unwrap();
            let link = model.join("snapshots/abc/model.safetensors");
            fs::remove_file(&link).unwrap();
            symlink("../../../models--o--secret/blobs/b", link).unwrap();
            model
        }),
        Case::new("D2 cache link to a blob that is not there", Source, "the download into the cache is incomplete", |d| {
            let model = hub_cache(d, "abc");
            fs::remove_file(model.join("blobs/b2")).unwrap();
            model
        }),
        Case::new("D1 refs/main leads out of the cache", Malformed, "\"../../x\" is not a revision", |d| {
            let model = hub_cache(d, "abc");
            fs::write(model.join("refs/main"), "../../x\n").unwrap();
            model
        }),
        Case::new("D2 refs/main names no snapshot", Source, "is not in the cache", |d| {
            let model = hub_cache(d, "abc");
            fs::write(model.join("refs/main"), "def").unwrap();
            model
        }),
        Case::new("D2 no refs/main and two snapshots", Source, "name one of its snapshots: \"abc\", \"def\"", |d| {
            let model = hub_cache(d, "abc");
            fs::create_dir(model.join("snapshots/def")).unwrap();
            fs::remove_file(model.join("refs/main")).unwrap();
            model
        }),
    ]
}
