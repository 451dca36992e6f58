//! Every flipped byte of a pack is found and named.

mod common;

use common::{NEVER, SMALL, options, toy};
use forebay_format::QuantType;
use forebay_format::reference::Reader;
use forebay_repack::plan::{Plan, Quantize};
use forebay_repack::verify::{Depth, Findings, verify};
use forebay_repack::write::{self, Silent};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

fn pack(quantize: Quantize) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, binding) = toy(dir.path(), SMALL);
    let plan = Plan::new(&checkpoint, &binding, quantize).unwrap();
    let out = dir.path().join("toy.fby");
    write::convert(&checkpoint, &plan, &out, &options(1)).unwrap();
    (dir, out)
}

fn check(path: &Path, depth: &Depth) -> Findings {
    verify(path, depth, 1, &NEVER, &Silent).unwrap()
}

/// Parts of the file by name, in order, without gaps.
fn parts(path: &Path) -> Vec<(u64, u64, String)> {
    let r = Reader::open(path).unwrap();
    let s = &r.superblock;
    let mut parts = vec![(0, 4096, "the superblock".to_owned()), (s.file_bytes - 4096, s.file_bytes, "the superblock's copy".to_owned())];
    for (section, name) in [(&s.index, "the index"), (&s.manifest, "the manifest"), (&s.source, "the source section")] {
        parts.push((section.offset, section.offset + section.stored, name.to_owned()));
    }
    parts.extend(r.records().iter().map(|x| (x.offset, x.offset + x.length, x.id.to_string())));
    parts.sort();
    let gaps: Vec<_> = parts.windows(2).map(|w| (w[0].1, w[1].0, "a gap between parts".to_owned())).filter(|g| g.0 < g.1).collect();
    parts.extend(gaps);
    parts.sort();
    assert_eq!((parts[0].0, parts.last().unwrap().1), (0, std::fs::metadata(path).unwrap().len()));
    assert!(parts.windows(2).all(|w| w[0].1 == w[1].0), "{parts:?}");
    parts
}

#[test]
fn every_flipped_byte_is_found_and_named() {
    let (_dir, path) = pack(Quantize::Keep);
    assert_eq!(check(&path, &Depth::Full).problems, []);
    let bytes = std::fs::read(&path).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    let mut swept = 0;
    for (start, end, name) in parts(&path) {
        let weights = name.contains("layer") || ["embedding", "head", "carried tensor 0"].contains(&name.as_str());
        let step = if weights { 7 } else { 1 };
        for at in (start..end).step_by(step) {
            let bit = 1u8 << (at % 8);
            file.write_all_at(&[bytes[at as usize] ^ bit], at).unwrap();
            let found = check(&path, if weights { &Depth::Full } else { &Depth::Quick }).problems;
            assert!(found.len() == 1 && found[0].place == name, "byte {at} of {name}: {found:?}");
            file.write_all_at(&[bytes[at as usize]], at).unwrap();
            swept += 1;
        }
    }
    assert!(swept > 20_000, "{swept}");
    assert_eq!(check(&path, &Depth::Full).problems, []);
}

#[test]
fn all_damage_is_listed() {
    let (_dir, path) = pack(Quantize::Keep);
    let file = File::options().write(true).open(&path).unwrap();
    let want: Vec<_> = parts(&path).into_iter().filter(|p| p.2.contains("layer") || p.2 == "the superblock").collect();
    for (start, ..) in &want {
        file.write_all_at(&[0xff; 100], start + 8).unwrap();
    }
    let mut names: Vec<_> = check(&path, &Depth::Full).problems.into_iter().map(|p| p.place).collect();
    let mut want: Vec<_> = want.into_iter().map(|p| p.2).collect();
    names.sort();
    want.sort();
    assert_eq!(names, want);
}

#[test]
fn a_truncated_pack_is_an_error_at_any_length() {
    let (_dir, path) = pack(Quantize::Keep);
    let whole = std::fs::read(&path).unwrap();
    for len in (0..whole.len()).step_by(997).chain([1, 8, 4095, 4096, 4097, 8191, 8192, whole.len() - 4096, whole.len() - 1]) {
        std::fs::write(&path, &whole[..len]).unwrap();
        let error = verify(&path, &Depth::Quick, 1, &NEVER, &Silent).unwrap_err();
        let expected = if len == 0 { 4 } else { 3 };
        assert_eq!(error.exit_code(), expected, "{len}: {error}");
    }
}

#[test]
fn swapped_bundles_are_found() {
    let (_dir, path) = pack(Quantize::Keep);
    let r = Reader::open(&path).unwrap();
    let experts: Vec<_> = r.records().iter().filter(|x| x.id.to_string().starts_with("layer 0 expert")).cloned().collect();
    let (a, b) = (&experts[0], &experts[1]);
    assert_eq!(a.length, b.length);
    let bytes = std::fs::read(&path).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(&bytes[a.offset as usize..][..a.length as usize], b.offset).unwrap();
    file.write_all_at(&bytes[b.offset as usize..][..b.length as usize], a.offset).unwrap();
    let names: Vec<_> = check(&path, &Depth::Full).problems.into_iter().map(|p| p.place).collect();
    assert_eq!(names, ["layer 0 expert 0", "layer 0 expert 1"]);
}

#[test]
fn a_sample_is_always_the_same_and_finds_what_it_reads() {
    let (_dir, path) = pack(Quantize::Keep);
    let some = check(&path, &Depth::Sample { share: 0.4 });
    assert!(some.bundles > 0 && some.bundles < some.bundles_total && some.problems.is_empty(), "{some:?}");
    let again = check(&path, &Depth::Sample { share: 0.4 });
    assert_eq!((some.bundles, some.bytes, some.seed), (again.bundles, again.bytes, again.seed));
    assert_eq!(check(&path, &Depth::Sample { share: 1e-9 }).bundles, 1);
    assert_eq!(check(&path, &Depth::Sample { share: 1.0 }).bundles, some.bundles_total);
}

#[test]
fn every_weight_is_compared_with_its_source() {
    for quantize in [Quantize::Keep, Quantize::To(QuantType::Q8_0), Quantize::To(QuantType::BF16)] {
        let (dir, path) = pack(quantize);
        let compare = || {
            let (checkpoint, binding) = toy(dir.path(), SMALL);
            let plan = Box::new(Plan::new(&checkpoint, &binding, quantize).unwrap());
            check(&path, &Depth::Source { checkpoint: &checkpoint, plan })
        };
        assert_eq!(compare().problems, []);
        // A good pack of other weights: every hash holds, the source says otherwise.
        let (checkpoint, mut binding) = toy(dir.path(), SMALL);
        binding.experts[0].swap(1, 2);
        let other = Plan::new(&checkpoint, &binding, quantize).unwrap();
        write::convert(&checkpoint, &other, &path, &write::Options { force: true, ..options(1) }).unwrap();
        assert_eq!(check(&path, &Depth::Full).problems, []);
        let found = compare().problems;
        assert_eq!(found.iter().map(|p| p.place.as_str()).collect::<Vec<_>>(), ["layer 0 expert 1", "layer 0 expert 2"]);
        assert!(found[0].why.contains("tensor l.0.gate_up, row 64"), "{found:?}");
    }
}
