//! Truncation at every length and random damage: never a panic, never an accepted file whose tensors are not what it holds.

use super::build::*;
use forebay_repack::source::{self, Checkpoint};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const ROUNDS: u32 = 100_000;

/// SplitMix64: the same damage every time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Damages `bytes` in one to three places. Half of the places are among the digits and small integers that decide sizes.
fn damage(bytes: &mut Vec<u8>, header: usize, random: &mut Random) {
    const BOUNDARIES: [u64; 10] = [0, 1, 4, 31, 32, 255, 1 << 31, i64::MAX as u64, 1 << 63, u64::MAX];
    for _ in 0..=random.below(3) {
        let at = random.below(header.min(bytes.len()));
        match random.below(7) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes[at] = b"0123456789[]{},:\"-. eE"[random.below(22)],
            3 => {
                let value = BOUNDARIES[random.below(BOUNDARIES.len())].to_le_bytes();
                let n = [1, 4, 8][random.below(3)].min(bytes.len() - at);
                bytes[at..at + n].copy_from_slice(&value[..n]);
            }
            4 => {
                let n = random.below(bytes.len() - at).min(40);
                bytes.drain(at..at + n);
            }
            5 => {
                let n = random.below(bytes.len() - at).min(40);
                let copy = bytes[at..at + n].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, copy);
            }
            _ => bytes.truncate(random.below(bytes.len()).max(1)),
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
}

/// Opens `ROUNDS` damaged copies of `good`; `check` sees every one that is accepted. Returns how many were.
fn damaged(path: &Path, good: &[u8], header: usize, check: impl Fn(&[u8], &Checkpoint)) -> u32 {
    let mut random = Random(header as u64);
    let file = fs::File::create(path).unwrap();
    let (mut accepted, mut slowest) = (0, Duration::ZERO);
    for _ in 0..ROUNDS {
        let mut bytes = good.to_vec();
        damage(&mut bytes, header, &mut random);
        file.write_all_at(&bytes, 0).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        let start = Instant::now();
        let result = source::open(path);
        slowest = slowest.max(start.elapsed());
        if let Ok(checkpoint) = result {
            accepted += 1;
            check(&bytes, &checkpoint);
        }
    }
    assert!(slowest < Duration::from_secs(1), "the slowest took {slowest:?}");
    accepted
}

fn check_ranges(bytes: &[u8], checkpoint: &Checkpoint) {
    for (i, tensor) in checkpoint.tensors.iter().enumerate() {
        assert!(tensor.range.end <= bytes.len() as u64 && tensor.range.start >= checkpoint.files[0].header_bytes);
        assert_eq!(tensor.dtype.bytes_of(&tensor.shape), Some(tensor.bytes()));
        for other in &checkpoint.tensors[i + 1..] {
            assert_ne!(tensor.name, other.name);
            let apart = tensor.range.end <= other.range.start || other.range.end <= tensor.range.start;
            assert!(apart || tensor.bytes() == 0 || other.bytes() == 0, "{} and {}", tensor.name, other.name);
        }
    }
}

fn small_safetensors() -> Vec<u8> {
    let entries = [
        entry("model.embed.weight", "BF16", "[4,2]", 0, 16),
        entry("model.norm.weight", "F32", "[2]", 16, 24),
        entry("scale", "F8_E4M3", "[]", 24, 25),
        r#""__metadata__":{"format":"pt"}"#.to_string(),
    ];
    safetensors(&entries, 25)
}

fn small_gguf() -> Vec<u8> {
    let mut gguf = Gguf::valid()
        .with_pair(pair_u32("gpt-oss.block_count", 2))
        .with_pair(pair("tokenizer.ggml.tokens", 9, &array(8, 2, &[text("a"), text("bc")].concat())))
        .with_pair(pair("tokenizer.ggml.scores", 9, &array(6, 2, &[0; 8])))
        .with_pair(pair("general.rate", 12, &1.5f64.to_le_bytes()))
        .with_pair(pair("general.flag", 7, &[1]));
    gguf.tensors.push(tensor("c", &[256], 12, 128));
    gguf.data = 128 + 144;
    gguf.bytes()
}

/// A directory in memory, if the system has one: a hundred thousand files are written.
fn fast_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

#[test]
fn damaged_safetensors() {
    let dir = fast_dir();
    let good = small_safetensors();
    let path = single(dir.path(), &good).join("model.safetensors");
    let header = good.len() - 25;
    let accepted = damaged(&path, &good, header, |bytes, checkpoint| {
        check_ranges(bytes, checkpoint);
        // What is accepted here, the reference implementation accepts too, and reads the same.
        let theirs = safetensors::SafeTensors::deserialize(bytes).unwrap();
        assert_eq!(theirs.len(), checkpoint.tensors.len());
        for tensor in &checkpoint.tensors {
            let view = theirs.tensor(&tensor.name).unwrap();
            assert!(view.shape().iter().map(|&d| d as u64).eq(tensor.shape.iter().copied()));
            assert_eq!(view.data(), &bytes[tensor.range.start as usize..tensor.range.end as usize]);
        }
    });
    assert!((100..ROUNDS / 2).contains(&accepted), "{accepted} of {ROUNDS} accepted: the damage is not what it should be");
}

#[test]
fn damaged_gguf() {
    let dir = fast_dir();
    let good = small_gguf();
    let accepted = damaged(&dir.path().join("m.gguf"), &good, good.len() - 272, check_ranges);
    assert!((100..ROUNDS / 2).contains(&accepted), "{accepted} of {ROUNDS} accepted: the damage is not what it should be");
}

#[test]
fn truncated_at_every_length() {
    for (name, good) in [("model.safetensors", small_safetensors()), ("m.gguf", small_gguf())] {
        let dir = tempfile::tempdir().unwrap();
        let path = directory(dir.path(), &[(name, &good)]).join(name);
        source::open(&path).unwrap();
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).unwrap();
            assert!(source::open(&path).is_err(), "{name} cut to {length} of {} bytes is accepted", good.len());
        }
    }
}
