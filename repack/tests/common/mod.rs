//! A tiny checkpoint made by hand: one file of fixed noise, two layers (routed experts, then dense), so that the writer can be tested
//! without a family or a source format.
#![allow(dead_code)] // each test file uses its own part

use forebay_format::QuantType;
use forebay_format::layout::manifest::Generation;
use forebay_format::model::*;
use forebay_repack::arch::{Binding, Bound, BoundExpert, Rows};
use forebay_repack::encode::encode_row;
use forebay_repack::source::{Checkpoint, Dtype, Meta, Tensor, WeightFile};
use forebay_repack::write::fill::fingerprint;
use forebay_repack::write::media::{Media, System};
use forebay_repack::write::{GROUP_BYTES, Options, Silent, media};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Sizes of the toy.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub hidden: u32,
    pub inner: u32,
    pub experts: u32,
    pub vocab: u32,
    pub dtype: QuantType,
}

pub const SMALL: Shape = Shape { hidden: 32, inner: 32, experts: 4, vocab: 40, dtype: QuantType::F32 };

struct Builder {
    bytes: Vec<u8>,
    tensors: Vec<Tensor>,
    dtype: QuantType,
}

impl Builder {
    fn add(&mut self, name: &str, shape: &[u32]) -> usize {
        let rows: usize = shape[..shape.len() - 1].iter().map(|&d| d as usize).product();
        let count = rows * shape[shape.len() - 1] as usize;
        let start = self.bytes.len() as u64;
        let mut values = Vec::new();
        for i in 0..count {
            // Any fixed values that are finite and differ everywhere.
            let value = ((i * 7919 + self.tensors.len() * 104729) % 20011) as f32 / 20011.0 - 0.5;
            match self.dtype {
                QuantType::BF16 => self.bytes.extend_from_slice(&value.to_bits().to_le_bytes()[2..]),
                QuantType::F32 => self.bytes.extend_from_slice(&value.to_le_bytes()),
                _ => values.push(value),
            }
        }
        for row in values.chunks(shape[shape.len() - 1] as usize) {
            // The toy's matrices all become what is asked; its vectors too, which no family would do.
            let at = self.bytes.len();
            self.bytes.resize(at + self.dtype.row_bytes(row.len()).unwrap(), 0);
            encode_row(self.dtype, row, &mut self.bytes[at..]).unwrap();
        }
        let shape = shape.iter().map(|&d| d as u64).collect();
        let range = start..self.bytes.len() as u64;
        self.tensors.push(Tensor { name: name.into(), dtype: Dtype::Weight(self.dtype), shape, file: 0, range });
        self.tensors.len() - 1
    }

    fn bound(&mut self, name: &str, role: Role, rows: u32, cols: u32) -> Bound {
        let tensor = self.add(name, &[rows, cols]);
        Bound { role, source: Rows { tensor, first: 0, count: rows as u64 }, rows, cols }
    }
}

fn attention(b: &mut Builder, layer: u32, s: Shape) -> Vec<Bound> {
    let mut t = |name: &str, role, rows, cols| b.bound(&format!("l.{layer}.{name}"), role, rows, cols);
    vec![
        t("norm1", Role::MixerNorm, 1, s.hidden),
        t("q", Role::Q, s.hidden, s.hidden),
        t("k", Role::K, s.hidden / 2, s.hidden),
        t("v", Role::V, s.hidden / 2, s.hidden),
        t("o", Role::O, s.hidden, s.hidden),
        t("norm2", Role::FfnNorm, 1, s.hidden),
    ]
}

fn layer_spec(s: Shape, ffn: Ffn) -> LayerSpec {
    let norm = Norm::rms(1e-6, NormWeight::Plain);
    let rope = Rope { theta: 10000.0, dim: s.hidden / 2, pairing: RopePairing::Halves, scaling: RopeScaling::None };
    let mixer = Mixer::Attention(Attention {
        heads: 2,
        kv_heads: 1,
        head_dim: s.hidden / 2,
        scale: 0.25,
        qkv_bias: false,
        out_bias: false,
        qk_norm: QkNorm::None,
        output_gate: false,
        rope: Some(rope),
        sliding_window: None,
    });
    LayerSpec { mixer_norm: norm, mixer, ffn_norm: norm, ffn, norm_order: NormOrder::Pre }
}

/// Writes the toy's weights to `dir/weights.bin` and describes them.
pub fn toy(dir: &Path, s: Shape) -> (Checkpoint, Binding) {
    let mut b = Builder { bytes: b"header: 16 bytes".to_vec(), tensors: Vec::new(), dtype: s.dtype };
    let embedding = vec![b.bound("embedding", Role::Embedding, s.vocab, s.hidden)];
    let mut routed = attention(&mut b, 0, s);
    routed.push(b.bound("l.0.router", Role::Router, s.experts, s.hidden));
    // Gate and up fused in one tensor, down of every expert in another, as real checkpoints have them.
    let gate_up = b.add("l.0.gate_up", &[s.experts, 2 * s.inner, s.hidden]);
    let down = b.add("l.0.down", &[s.experts, s.hidden, s.inner]);
    let rows = |tensor, first: u32, count: u32| Rows { tensor, first: first as u64, count: count as u64 };
    let experts = (0..s.experts)
        .map(|e| BoundExpert {
            gate: rows(gate_up, 2 * e * s.inner, s.inner),
            up: rows(gate_up, (2 * e + 1) * s.inner, s.inner),
            down: rows(down, e * s.hidden, s.hidden),
        })
        .collect();
    let mut dense = attention(&mut b, 1, s);
    dense.push(b.bound("l.1.gate", Role::FfnGate, s.inner, s.hidden));
    dense.push(b.bound("l.1.up", Role::FfnUp, s.inner, s.hidden));
    dense.push(b.bound("l.1.down", Role::FfnDown, s.hidden, s.inner));
    let head = vec![b.bound("norm", Role::FinalNorm, 1, s.hidden), b.bound("head", Role::Head, s.vocab, s.hidden)];
    let carried = vec![b.add("mtp.weight", &[3, 5, s.hidden])];
    let path = dir.join("weights.bin");
    if std::fs::read(&path).ok().as_deref() != Some(&b.bytes) {
        std::fs::write(&path, &b.bytes).unwrap();
    }
    let ffn = GatedFfn::new(s.inner, Activation::Silu);
    let router = Router::Softmax { renormalize: true };
    let moe = Ffn::Routed(Routed { experts: s.experts, top_k: 2, expert: ffn.clone(), router, shared: None });
    let spec = ModelSpec {
        hidden: s.hidden,
        vocab: s.vocab,
        context: 128,
        tied_head: false,
        embedding_width: None,
        positions: None,
        final_norm: Norm::rms(1e-6, NormWeight::Plain),
        layers: vec![layer_spec(s, moe), layer_spec(s, Ffn::Dense(ffn))],
    };
    let file = WeightFile {
        fingerprint: fingerprint(&std::fs::metadata(&path).unwrap()),
        path,
        name: "weights.bin".into(),
        header_bytes: 16,
        header_blake3: *blake3::hash(&b.bytes[..16]).as_bytes(),
    };
    let by_name: HashMap<_, _> = b.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
    let meta = Meta::HuggingFace {
        config: serde_json::json!({}),
        tokenizer: None,
        tokenizer_config: None,
        generation_config: None,
        chat_template: None,
    };
    let small_files = vec![("config.json".to_owned(), b"{}".to_vec())];
    let checkpoint = Checkpoint { path: dir.to_owned(), files: vec![file], tensors: b.tensors, by_name, meta, small_files };
    let binding = Binding {
        architecture: "toy".into(),
        spec,
        embedding,
        trunk: vec![routed, dense],
        head,
        experts: vec![experts, Vec::new()],
        carried,
        unused: Vec::new(),
        tokenizer: None,
        chat_template: None,
        generation: Generation::default(),
        remarks: vec!["nothing left out".into()],
    };
    (checkpoint, binding)
}

/// The toy with a dense layer whose neurons may be zero; without a gate if `ungated`.
pub fn sparse(dir: &Path, s: Shape, ungated: bool) -> (Checkpoint, Binding) {
    let (checkpoint, mut binding) = toy(dir, s);
    if let Ffn::Dense(ffn) = &mut binding.spec.layers[1].ffn {
        ffn.activation = Activation::Relu;
        ffn.ungated = ungated;
    }
    if ungated {
        binding.trunk[1].retain(|b| b.role != Role::FfnGate);
    }
    (checkpoint, binding)
}

pub static NEVER: AtomicBool = AtomicBool::new(false);

/// Defaults for tests.
pub fn options(threads: usize) -> Options<'static> {
    Options { resume: false, force: false, threads, group_bytes: GROUP_BYTES, cancel: &NEVER, media: &media::System, watch: &Silent }
}

/// A disk on which so many writes work; those behind them fail.
pub struct Limited {
    left: AtomicU64,
    error: fn() -> io::Error,
}

impl Limited {
    pub fn new(writes: u64, error: fn() -> io::Error) -> Limited {
        Limited { left: AtomicU64::new(writes), error }
    }
}

impl Media for Limited {
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        match self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
            Ok(_) => System.write_at(file, bytes, offset),
            Err(_) => Err((self.error)()),
        }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        System.sync(file)
    }

    fn rename(&self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        System.rename(from, to, replace)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        System.sync_dir(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        System.remove(path)
    }
}
