//! Tiny packs with known bytes, made by hand from the format's encoders, and disks to read them from.

use std::path::PathBuf;
use std::sync::Arc;

use forebay_format::layout::index::check_blake3;
use forebay_format::layout::manifest::{self, ExpertPlace, ExpertSlice, Generation, Provenance, TensorPlace, Tiling};
use forebay_format::layout::sums::chunk_sum;
use forebay_format::layout::superblock::Section;
use forebay_format::layout::*;
use forebay_format::model::*;
use forebay_format::shapes::TensorShape;
use forebay_format::{BundleId, Index, Kind, Layout, Manifest, QuantType, Record, Superblock};

use crate::budget::{MemoryPlan, Needs};
use crate::io::fake::{FakeDisk, Faults};
use crate::io::{IoBackend, Queue};
use crate::kernels::Pool;
use crate::pack::Pack;
use crate::store::Store;

pub(crate) const HIDDEN: u32 = 64;
pub(crate) const INNER: u32 = 96;
/// Experts of each layer; layer 1 is dense.
pub(crate) const EXPERTS: [u32; 3] = [6, 0, 10];
const TOP_K: u32 = 2;
const CHUNK: u32 = 64 << 10;
/// Rows of a gate/up or down slice: neither divides its matrix.
const SLICE_ROWS: u32 = 40;

/// Sizes of a pack.
pub(crate) struct Sizes<'a> {
    pub hidden: u32,
    pub inner: u32,
    /// Experts of each layer.
    pub experts: &'a [u32],
    /// Rows of a gate/up or down slice.
    pub slice_rows: u32,
}

/// A pack on disk and what it holds.
pub(crate) struct TinyPack {
    _dir: tempfile::TempDir,
    pub path: PathBuf,
    pub bytes: Vec<u8>,
}

impl TinyPack {
    pub fn new() -> TinyPack {
        TinyPack::of(&Sizes { hidden: HIDDEN, inner: INNER, experts: &EXPERTS, slice_rows: SLICE_ROWS })
    }

    pub fn of(sizes: &Sizes) -> TinyPack {
        let bytes = build(sizes);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tiny.fby");
        std::fs::write(&path, &bytes).unwrap();
        std::fs::File::open(&path).unwrap().sync_all().unwrap();
        TinyPack { _dir: dir, path, bytes }
    }

    pub fn open(&self) -> Pack {
        Pack::open(&self.path).unwrap()
    }

    /// A plan with this many slots.
    pub fn plan(&self, slots: u32) -> MemoryPlan {
        let pack = self.open();
        let mut plan = MemoryPlan::new(&pack.manifest, &pack.index, &pack.superblock, &Needs::default(), 1 << 30).unwrap();
        (plan.slots, plan.staging) = (slots, 0);
        plan
    }

    pub fn store(&self, slots: u32, io: IoBackend) -> Store {
        Store::open(self.open(), &self.plan(slots), io, &Pool::new(1)).unwrap()
    }

    /// A store that reads from a misbehaving disk with the same bytes.
    pub fn faulty(&self, slots: u32, faults: Faults, seed: u64) -> crate::Result<Store> {
        Store::with_queue(
            self.open(),
            &self.plan(slots),
            Queue::new(Box::new(FakeDisk::new(self.bytes.clone(), faults, seed)), slots as usize),
            &Pool::new(2),
        )
    }

    /// The bytes of a bundle, as written.
    pub fn bundle(&self, pack: &Pack, id: BundleId) -> &[u8] {
        let record = pack.index.get(id).unwrap();
        let bytes = &self.bytes[record.offset as usize..(record.offset + record.length) as usize];
        check_blake3(record, bytes).unwrap();
        bytes
    }
}

/// SplitMix64 (Steele et al. 2014), for filling and choosing.
pub(crate) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0u8; n];
        bytes.chunks_mut(8).for_each(|c| c.copy_from_slice(&self.next().to_le_bytes()[..c.len()]));
        bytes
    }
}

fn spec(sizes: &Sizes) -> ModelSpec {
    let norm = Norm::rms(1e-6, NormWeight::Plain);
    let attention = Attention {
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        scale: 0.25,
        qkv_bias: false,
        out_bias: false,
        qk_norm: QkNorm::None,
        output_gate: false,
        rope: Some(Rope { theta: 1e4, dim: 32, pairing: RopePairing::Halves, scaling: RopeScaling::None }),
        sliding_window: None,
    };
    let ffn = GatedFfn::new(sizes.inner, Activation::Silu);
    let layer = |experts: u32| LayerSpec {
        mixer_norm: norm,
        mixer: Mixer::Attention(attention.clone()),
        ffn_norm: norm,
        ffn: match experts {
            0 => Ffn::Dense(ffn.clone()),
            _ => {
                let router = Router::Softmax { renormalize: true };
                Ffn::Routed(Routed { experts, top_k: TOP_K, expert: ffn.clone(), router, shared: None })
            }
        },
        norm_order: NormOrder::Pre,
    };
    let layers = sizes.experts.iter().map(|&n| layer(n)).collect();
    ModelSpec {
        hidden: sizes.hidden,
        vocab: 300,
        context: 128,
        tied_head: false,
        embedding_width: None,
        positions: None,
        final_norm: norm,
        layers,
    }
}

fn places(shapes: &[TensorShape]) -> (Vec<TensorPlace>, u64) {
    let mut end = 0;
    let places = shapes.iter().map(|s| {
        let offset = align_up(end, 64).unwrap();
        end = offset + (s.rows * s.cols * 4) as u64;
        TensorPlace {
            role: s.role,
            qtype: QuantType::F32,
            rows: s.rows,
            cols: s.cols,
            offset,
            tiling: Tiling::RowMajor,
            source: format!("{:?}", s.role),
        }
    });
    let places = places.collect();
    (places, align_up(end, 4096).unwrap())
}

/// Gate and down in Q8_0, up in Q4_0: three row lengths.
fn expert_place(&Sizes { hidden, inner, slice_rows, .. }: &Sizes) -> (ExpertPlace, Layout) {
    let (gate, up, down) = (QuantType::Q8_0, QuantType::Q4_0, QuantType::Q8_0);
    let row = |q: QuantType, cols: u32| q.row_bytes(cols as usize).unwrap() as u64;
    let up_offset = align_up(slice_rows as u64 * row(gate, hidden), 64).unwrap();
    let (mut slices, mut lengths) = (Vec::new(), Vec::new());
    for first_row in (0..inner).step_by(slice_rows as usize) {
        let rows = slice_rows.min(inner - first_row);
        slices.push(ExpertSlice::GateUp { first_row, rows, up_offset });
        lengths.push(align_up(up_offset + rows as u64 * row(up, hidden), 4096).unwrap());
    }
    for first_row in (0..hidden).step_by(slice_rows as usize) {
        let rows = slice_rows.min(hidden - first_row);
        slices.push(ExpertSlice::Down { first_row, rows });
        lengths.push(align_up(rows as u64 * row(down, inner), 4096).unwrap());
    }
    let source = ["gate", "up", "down"].map(String::from);
    (ExpertPlace { gate, up, down, tiling: Tiling::RowMajor, down_tiling: Tiling::RowMajor, slices, source }, Layout { slices: lengths })
}

fn build(sizes: &Sizes) -> Vec<u8> {
    let spec = spec(sizes);
    let (embedding, embedding_bytes) = places(&spec.embedding_tensors());
    let (head, head_bytes) = places(&spec.head_tensors());
    let (trunk, trunk_bytes): (Vec<_>, Vec<_>) = spec.layers.iter().map(|l| places(&l.tensors(sizes.hidden).unwrap())).unzip();
    let (expert, expert_layout) = expert_place(sizes);
    let layouts: Vec<Layout> =
        [embedding_bytes, head_bytes].into_iter().chain(trunk_bytes).map(Layout::whole).chain([expert_layout]).collect();
    let mut bundles = Vec::new();
    for (layer, experts) in (0u32..).zip(sizes.experts.iter().copied()) {
        bundles.push((BundleId::trunk(layer), 2 + layer));
        bundles.extend((0..experts).map(|e| (BundleId::expert(layer, e), layouts.len() as u32 - 1)));
    }
    bundles.push((BundleId::global(Kind::Embedding, 0), 0));
    bundles.push((BundleId::global(Kind::Head, 0), 1));

    let pack_id = *b"a tiny test pack";
    let mut random = Random(1);
    let mut file = vec![0u8; 4096];
    let (mut records, mut sums) = (Vec::new(), Vec::new());
    for (id, layout) in bundles {
        let l = &layouts[layout as usize];
        let bytes = random.bytes(l.length() as usize);
        sums.extend((0u32..).zip(l.chunks(CHUNK)).map(|(i, r)| chunk_sum(&pack_id, id, i, &bytes[r.start as usize..r.end as usize])));
        let blake3 = *blake3::hash(&bytes).as_bytes();
        records.push(Record { id, offset: file.len() as u64, length: l.length(), layout, first_sum: 0, blake3 });
        file.extend(bytes);
    }
    let index = Index::build(sizes.experts.len() as u32, records, layouts, sums, CHUNK).unwrap();
    let experts = sizes.experts.iter().map(|&n| (n > 0).then(|| expert.clone())).collect();
    let manifest = Manifest {
        writer: "test".into(),
        spec,
        embedding,
        trunk,
        head,
        experts,
        neurons: vec![],
        carried: vec![],
        tokenizer: None,
        chat_template: None,
        generation: Generation::default(),
        provenance: Provenance {
            format: "gguf".into(),
            architecture: "test".into(),
            quantize: "keep".into(),
            files: vec![],
            unused: vec![],
            notes: Default::default(),
        },
    };
    let mut section = |bytes: &[u8], raw: u64| {
        let offset = file.len() as u64;
        file.extend(bytes);
        file.resize(file.len().next_multiple_of(4096), 0);
        Section { offset, stored: bytes.len() as u64, raw, blake3: *blake3::hash(bytes).as_bytes() }
    };
    let stored = manifest::encode(&manifest).unwrap();
    let manifest_section = section(&stored.bytes, stored.raw);
    let encoded = index.encode();
    let index_section = section(&encoded, encoded.len() as u64);
    let block = Superblock {
        version: (VERSION_MAJOR, VERSION_MINOR),
        required: if sizes.experts.iter().any(|&n| n > 0) { FEATURE_EXPERTS } else { 0 },
        optional: 0,
        alignment: DEFAULT_ALIGNMENT,
        chunk_bytes: CHUNK,
        file_bytes: file.len() as u64 + 4096,
        pack_id,
        content_id: index.content_id(),
        manifest: manifest_section,
        index: index_section,
        source: Section::default(),
    };
    let encoded = block.encode();
    file[..4096].copy_from_slice(&encoded);
    file.extend(encoded);
    file
}

/// Runs a check with every backend that starts here; says which do not.
pub(crate) fn with_backends(mut check: impl FnMut(IoBackend)) {
    let pack = TinyPack::new();
    let file = Arc::new(std::fs::File::open(&pack.path).unwrap());
    for backend in crate::io::open::BACKENDS {
        match crate::io::open(&pack.path, &file, backend.id) {
            Ok(_) => check(backend.id),
            Err(e) => drop(std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("SKIP: backend {} does not start here: {e}\n", backend.name),
            )),
        }
    }
}
