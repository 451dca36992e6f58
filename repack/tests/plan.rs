//! The plan: where everything goes, and what it refuses.

mod common;

use common::{SMALL, Shape, toy};
use forebay_format::model::Role;
use forebay_format::{Kind, QuantType};
use forebay_repack::Error;
use forebay_repack::plan::{Plan, Quantize};
use forebay_repack::source::Dtype;

#[test]
fn runs_lie_back_to_back_and_segments_fill_them() {
    let large = Shape { hidden: 256, inner: 512, experts: 3, vocab: 100, dtype: QuantType::BF16 };
    for (shape, quantize) in [(SMALL, Quantize::Keep), (large, Quantize::Keep), (large, Quantize::To(QuantType::Q4_K))] {
        let dir = tempfile::tempdir().unwrap();
        let (checkpoint, binding) = toy(dir.path(), shape);
        let plan = Plan::new(&checkpoint, &binding, quantize).unwrap();
        let mut end = 4096;
        for run in &plan.runs {
            assert_eq!((run.offset, run.offset % 4096, run.length % 4096), (end, 0, 0), "{}", run.id);
            end += run.length;
            let segments = plan.segments(&checkpoint, run).unwrap();
            assert!(segments.windows(2).all(|w| w[0].dest_end() <= w[1].dest), "{}", run.id);
            assert!(segments.iter().all(|s| s.dest % 64 == 0) && segments.last().unwrap().dest_end() <= run.length);
            let bytes: u64 = segments.iter().map(|s| s.rows * s.dest_row).sum();
            assert!(bytes <= run.used && run.used <= run.length && run.used - bytes < 64 * segments.len() as u64, "{}", run.id);
        }
        assert_eq!(end, plan.payload_end);
        // Every byte of every bound and carried tensor goes somewhere, once.
        let moved: u64 = plan.runs.iter().flat_map(|r| plan.segments(&checkpoint, r).unwrap()).map(|s| s.rows * s.source_row).sum();
        let all: u64 = checkpoint.tensors.iter().map(|t| t.range.end - t.range.start).sum();
        assert_eq!(moved, all);
        let kinds: Vec<Kind> = plan.runs.iter().map(|r| r.id.kind).collect();
        let mut order = vec![Kind::Embedding, Kind::Trunk, Kind::Trunk, Kind::Head];
        order.extend((0..shape.experts).map(|_| Kind::Expert).chain([Kind::Carried]));
        assert_eq!(kinds, order);
    }
}

#[test]
fn only_large_matrices_change_their_type() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, binding) = toy(dir.path(), SMALL);
    let m = Plan::new(&checkpoint, &binding, Quantize::To(QuantType::Q8_0)).unwrap().manifest;
    for place in m.trunk.iter().flatten() {
        let small = [Role::MixerNorm, Role::FfnNorm, Role::Router].contains(&place.role);
        assert_eq!(place.qtype, if small { QuantType::F32 } else { QuantType::Q8_0 }, "{:?}", place.role);
    }
    let experts = m.experts[0].as_ref().unwrap();
    assert_eq!([experts.gate, experts.up, experts.down], [QuantType::Q8_0; 3]);
    assert_eq!(m.carried[0].qtype, QuantType::F32);
}

#[test]
fn the_identity_depends_on_source_and_choice_alone() {
    let id = |shape, quantize| {
        let dir = tempfile::tempdir().unwrap();
        let (checkpoint, binding) = toy(dir.path(), shape);
        Plan::new(&checkpoint, &binding, quantize).unwrap().pack_id
    };
    let first = id(SMALL, Quantize::Keep);
    assert_eq!(first, id(SMALL, Quantize::Keep));
    assert_ne!(first, id(SMALL, Quantize::To(QuantType::F16)));
    assert_ne!(first, id(Shape { vocab: 41, ..SMALL }, Quantize::Keep));
}

#[test]
fn bindings_and_types_that_do_not_fit_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, binding) = toy(dir.path(), SMALL);
    let refused = |checkpoint, binding, quantize| match Plan::new(checkpoint, binding, quantize) {
        Ok(_) => panic!("accepted"),
        Err(e) => (e.exit_code(), e.to_string()),
    };
    let mut swapped = binding.clone();
    swapped.trunk[1].swap(1, 2);
    let (_, text) = refused(&checkpoint, &swapped, Quantize::Keep);
    assert!(text.contains("layer 1") && text.contains("k [16, 32], q [32, 32]"), "{text}");

    let mut fewer = binding.clone();
    fewer.experts[0].pop();
    let (_, text) = refused(&checkpoint, &fewer, Quantize::Keep);
    assert!(text.contains("layer 0: 3 experts are bound, the model has 4"), "{text}");

    let mut beyond = binding.clone();
    beyond.experts[0][3].down.first += 1;
    let (_, text) = refused(&checkpoint, &beyond, Quantize::Keep);
    assert!(text.contains("l.0.down"), "{text}");

    let mut odd = checkpoint.clone();
    let q = odd.by_name["l.1.q"];
    odd.tensors[q].dtype = Dtype::Other { name: "F8_E4M3", block_len: 1, block_bytes: 1 };
    let (code, text) = refused(&odd, &binding, Quantize::Keep);
    assert!(code == 4 && text.contains("F8_E4M3") && text.contains("l.1.q"), "{text}");

    let mut quantised = checkpoint.clone();
    quantised.tensors[q].dtype = Dtype::Weight(QuantType::Q8_0);
    let error = Plan::new(&quantised, &binding, Quantize::To(QuantType::Q4_0)).unwrap_err();
    assert!(matches!(&error, Error::Unsupported { what, .. } if what.contains("l.1.q") && what.contains("q8_0")), "{error}");
}
