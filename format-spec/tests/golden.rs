//! Frozen packs, read by the reference reader: what they say and what their weights decode to is frozen too.

use forebay_format::layout::manifest::NeuronDown;
use forebay_format::layout::superblock::hex;
use forebay_format::layout::{FEATURE_EXPERTS, FEATURE_NEURON_GROUPS, FEATURE_TILED_ROWS};
use forebay_format::model::{Ffn, Mixer, Role};
use forebay_format::reference::Reader;
use forebay_format::{BundleId, Kind, QuantType, Tiling};
use std::path::Path;

fn open(name: &str) -> Reader {
    Reader::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/v1").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// BLAKE3 over the decoded f32 values of every weight, in record order: any change of a decoder or of a place shows.
fn values_hash(reader: &Reader) -> String {
    let mut hash = blake3::Hasher::new();
    let mut add = |values: Vec<f32>| {
        for value in values {
            hash.update(&value.to_le_bytes());
        }
    };
    for record in reader.records().to_vec() {
        match record.id.kind {
            Kind::Expert => {
                for matrix in reader.expert(record.id.layer, record.id.ordinal).expect("expert") {
                    add(matrix.values());
                }
            }
            Kind::NeuronGroup if record.id.ordinal > 0 => {}
            Kind::NeuronGroup => {
                let (gate, up, down) = reader.neurons(record.id.layer).expect("neurons");
                gate.into_iter().chain([up, down]).for_each(|matrix| add(matrix.values()));
            }
            kind => {
                let places = match kind {
                    Kind::Embedding => &reader.manifest.embedding,
                    Kind::Head => &reader.manifest.head,
                    _ => &reader.manifest.trunk[record.id.layer as usize],
                };
                for place in places {
                    add(reader.tensor(record.id, place.role).expect("readable").expect("there").values());
                }
            }
        }
    }
    hash.finalize().to_hex()[..32].to_string()
}

#[test]
fn hybrid_mixture() {
    let reader = open("hybrid_moe_bf16.fby");
    let spec = &reader.manifest.spec;
    assert_eq!((spec.hidden, spec.vocab, spec.layers.len()), (32, 264, 2));
    assert!(matches!(spec.layers[0].mixer, Mixer::GatedDelta(_)) && matches!(spec.layers[1].mixer, Mixer::Attention(_)));
    assert!(matches!(&spec.layers[1].ffn, Ffn::Routed(r) if r.experts == 4 && r.top_k == 2));
    assert_eq!(reader.index.count(Kind::Expert, 1), 4);
    let decay = reader.tensor(BundleId::trunk(0), Role::DeltaDecay).expect("readable").expect("there");
    assert_eq!((decay.qtype, decay.values().len()), (QuantType::F32, 2));
    assert_eq!(hex(&reader.superblock.content_id), CONTENT[0].1);
    assert_eq!(values_hash(&reader), CONTENT[0].2);
}

#[test]
fn hybrid_mixture_quantised() {
    let reader = open("hybrid_moe_q8_0.fby");
    assert_eq!(reader.manifest.experts[0].as_ref().map(|e| e.down), Some(QuantType::Q8_0));
    let router = reader.tensor(BundleId::trunk(0), Role::Router).expect("readable").expect("there");
    assert_eq!(router.qtype, QuantType::BF16, "routers stay in float");
    assert_eq!(hex(&reader.superblock.content_id), CONTENT[1].1);
    assert_eq!(values_hash(&reader), CONTENT[1].2);
}

#[test]
fn dense() {
    let reader = open("dense_gguf_q8_0.fby");
    assert_eq!(reader.superblock.required, 0);
    assert!(reader.manifest.experts.iter().all(Option::is_none));
    assert_eq!(reader.manifest.provenance.format, "gguf");
    assert_eq!(hex(&reader.superblock.content_id), CONTENT[2].1);
    assert_eq!(values_hash(&reader), CONTENT[2].2);
}

#[test]
fn interleaved_rows() {
    let reader = open("mixed_gguf_tiled.fby");
    assert_eq!(reader.superblock.required, FEATURE_EXPERTS | FEATURE_TILED_ROWS);
    let place = reader.manifest.experts[0].as_ref().expect("experts");
    assert_eq!([place.gate, place.up, place.down], [QuantType::Q4_K, QuantType::Q5_K, QuantType::Q6_K]);
    assert_eq!([place.tiling, place.down_tiling], [Tiling::Dwords16, Tiling::RowMajor]);
    assert_eq!(hex(&reader.superblock.content_id), CONTENT[5].1);
    assert_eq!(values_hash(&reader), CONTENT[5].2);
}

#[test]
fn neurons() {
    for (name, content, order, group, count) in
        [("neurons_bf16.fby", CONTENT[3], NeuronDown::Transposed, 64, 3), ("neurons_q8_0.fby", CONTENT[4], NeuronDown::Blocks, 96, 2)]
    {
        let reader = open(name);
        assert_eq!(reader.superblock.required, FEATURE_NEURON_GROUPS);
        let place = reader.manifest.neurons[1].as_ref().expect("a layer with groups");
        assert_eq!((place.down_order, place.group, reader.index.count(Kind::NeuronGroup, 1)), (order, group, count), "{name}");
        let roles: Vec<Role> = reader.manifest.trunk[1].iter().map(|p| p.role).collect();
        assert_eq!(roles, [Role::MixerNorm, Role::Q, Role::K, Role::V, Role::O, Role::FfnNorm, Role::NeuronSketch]);
        assert_eq!((name, hex(&reader.superblock.content_id).as_str(), values_hash(&reader).as_str()), content);
    }
}

/// Pack, content id, hash of its values.
const CONTENT: [(&str, &str, &str); 6] = [
    ("hybrid_moe_bf16.fby", "a0b822dc776063a9dde3036e2fe519e7253fbad573cf4696c41a1ad4d10ad90b", "17f68ee25d59a604ebdaa3d250175ad2"),
    ("hybrid_moe_q8_0.fby", "004551613e1e36908544f01ac6f60768a8bb1e29e88eff1a5d10b763a3a83ba3", "8b16752a425f81bfec867a7eb04e24a0"),
    ("dense_gguf_q8_0.fby", "4c6d483724c761f57fea807d179863f80d06ca2e04820018af8307e639e97d68", "289c4ba05b8194f4a7de1e46bc6a5901"),
    ("neurons_bf16.fby", "966315492f91004048747812b6645474dc118f1b95bcc31e4b24200d105375af", "8ddd50ad0d5fcc66a86e200c35572a0c"),
    ("neurons_q8_0.fby", "1f930ac7eaea7e405cef8fd400682a283106c8a24dcdfef3d16a56605429049d", "d9047feea1455af82621e133205d9702"),
    ("mixed_gguf_tiled.fby", "591d61957005a5fb2233f41fac707f25d3a7b8be2b372f90768c800e8d3ab3c9", "0983641db88fc9e0a648ae9657861fe9"),
];
