//! Huge headers take bounded memory and time: at most 64 MiB and three times the file, with its parsed contents counted.

use forebay_repack::source;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;

/// Peak and current resident memory of this process in bytes.
fn resident() -> (u64, u64) {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    (field("VmHWM:"), field("VmRSS:"))
}

/// Time this thread has spent on a processor, ns: what other processes do does not count.
fn processor_ns() -> u64 {
    fs::read_to_string("/proc/thread-self/schedstat").unwrap().split(' ').next().unwrap().parse().unwrap()
}

/// A safetensors file: length, then `{`, what `middle` writes, `}`.
fn safetensors(dir: &Path, data: u64, middle: impl Fn(&mut dyn Write)) -> PathBuf {
    let path = dir.join("model.safetensors");
    let mut file = BufWriter::new(File::create(&path).unwrap());
    file.write_all(&[0; 8]).unwrap();
    file.write_all(b"{").unwrap();
    middle(&mut file);
    file.write_all(b"}").unwrap();
    let file = file.into_inner().unwrap();
    let header = file.metadata().unwrap().len() - 8;
    std::os::unix::fs::FileExt::write_all_at(&file, &header.to_le_bytes(), 0).unwrap();
    file.set_len(header + 8 + data).unwrap();
    fs::write(dir.join("config.json"), "{}").unwrap();
    path
}

/// A GGUF file with one array of `count` elements of type `kind`.
fn gguf_array(dir: &Path, kind: u32, count: u64, element: &[u8]) -> PathBuf {
    let path = dir.join("m.gguf");
    let mut file = BufWriter::new(File::create(&path).unwrap());
    let mut put = |bytes: &[u8]| file.write_all(bytes).unwrap();
    put(b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0");
    put(b"\x14\0\0\0\0\0\0\0general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama");
    put(b"\x01\0\0\0\0\0\0\0k\x09\0\0\0");
    put(&kind.to_le_bytes());
    put(&count.to_le_bytes());
    (0..count).for_each(|_| put(element));
    drop(file);
    path
}

/// `config.json` or another small file beside valid weights.
fn beside(dir: &Path, name: &str, write: impl Fn(&mut dyn Write)) -> PathBuf {
    safetensors(dir, 0, |_| {});
    let mut file = BufWriter::new(File::create(dir.join(name)).unwrap());
    write(&mut file);
    file.flush().unwrap();
    dir.to_path_buf()
}

type Make = Box<dyn Fn(&Path) -> PathBuf>;

fn cases() -> Vec<(&'static str, Make)> {
    let repeat = |n: usize, text: &'static str| move |w: &mut dyn Write| (0..n).for_each(|_| w.write_all(text.as_bytes()).unwrap());
    vec![
        (
            "500 000 tensors",
            Box::new(|d| {
                safetensors(d, 0, |w| {
                    let entries = (0..500_000).map(|i| (i, if i == 0 { "" } else { "," }));
                    entries
                        .for_each(|(i, comma)| write!(w, r#"{comma}"{i:x}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#).unwrap());
                })
            }),
        ),
        (
            "a shape of 16 million dimensions",
            Box::new(move |d| {
                safetensors(d, 0, |w| {
                    w.write_all(br#""a":{"dtype":"U8","data_offsets":[0,0],"shape":["#).unwrap();
                    repeat(16_000_000, "1,")(w);
                    w.write_all(b"1]}").unwrap();
                })
            }),
        ),
        (
            "a name of 30 MB",
            Box::new(move |d| {
                safetensors(d, 0, |w| {
                    w.write_all(b"\"").unwrap();
                    repeat(30_000_000, "n")(w);
                    w.write_all(br#"":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#).unwrap();
                })
            }),
        ),
        (
            "metadata of 30 MB",
            Box::new(move |d| {
                safetensors(d, 0, |w| {
                    w.write_all(br#""__metadata__":{"a":"b""#).unwrap();
                    repeat(3_000_000, r#","c":"dddd""#)(w);
                    w.write_all(b"}").unwrap();
                })
            }),
        ),
        ("1.5 million bytes in an array", Box::new(|d| gguf_array(d, 0, 1_500_000, &[1]))),
        ("1.5 million numbers in an array", Box::new(|d| gguf_array(d, 4, 1_500_000, &[1; 4]))),
        ("1.5 million strings in an array", Box::new(|d| gguf_array(d, 8, 1_500_000, b"\x01\0\0\0\0\0\0\0x"))),
        (
            "a configuration of 4 MB",
            Box::new(move |d| {
                beside(d, "config.json", |w| {
                    w.write_all(b"{\"a\":[[]").unwrap();
                    repeat(1_390_000, ",[]")(w);
                    w.write_all(b"]}").unwrap();
                })
            }),
        ),
        (
            "an index of 60 MB",
            Box::new(move |d| {
                beside(d, "model.safetensors.index.json", |w| {
                    w.write_all(b"{\"weight_map\":{\"\":\"\"").unwrap();
                    (0..3_000_000).for_each(|i| write!(w, r#","{i:x}":"{}""#, i % 4000).unwrap());
                    w.write_all(b"}}").unwrap();
                })
            }),
        ),
        (
            "a tokenizer of 100 MB",
            Box::new(move |d| {
                beside(d, "tokenizer.json", |w| {
                    w.write_all(b"{\"model\":[0").unwrap();
                    repeat(50_000_000, ",0")(w);
                    w.write_all(b"]}").unwrap();
                })
            }),
        ),
    ]
}

/// Opens the case in this fresh process; says what is too much.
fn measure(name: &str, make: &Make) {
    let dir = tempfile::tempdir().unwrap();
    let path = make(dir.path());
    let bytes: u64 = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    // Makes the peak start again from what is resident now.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let (_, before) = resident();
    let start = processor_ns();
    let result = source::open(&path);
    let took = (processor_ns() - start) / 1_000_000;
    let (peak, _) = resident();
    let (used, limit) = (peak.saturating_sub(before), 64 * MIB + 3 * bytes);
    let answer = result.map_or_else(|e| e.to_string().chars().take(120).collect(), |c| format!("{} tensors", c.tensors.len()));
    eprintln!("{name}: {} MiB read, {} of at most {} MiB used, {took} ms: {answer}", bytes / MIB, used / MIB, limit / MIB);
    assert!(used <= limit, "too much memory");
    // Parsing sets the time: a second, and one more for each 50 MB.
    assert!(took <= 1000 + bytes / 50_000, "too much time");
}

/// Each case runs in a process of its own, so that memory freed by one does not hide what the next takes.
#[test]
fn huge_headers_take_bounded_memory_and_time() {
    const CASE: &str = "FOREBAY_HOSTILE_MEMORY_CASE";
    let cases = cases();
    if let Ok(ordinal) = std::env::var(CASE) {
        let (name, make) = &cases[ordinal.parse::<usize>().unwrap()];
        return measure(name, make);
    }
    let mut failures = Vec::new();
    for (ordinal, (name, _)) in cases.iter().enumerate() {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--nocapture", "--test-threads=1"]).env(CASE, ordinal.to_string()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        eprintln!("{}", text.lines().find(|l| l.starts_with(name)).unwrap_or_default());
        if !output.status.success() {
            failures.push(format!("{name}: {text}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
