//! SPEC.md and the code say the same: every table row is checked against bytes that the encoder really writes.

use forebay_format::layout::index::{self, BundleId, Index, Kind, Layout, Record};
use forebay_format::layout::superblock::{HASH_OFFSET, SECTION_BYTES, SECTIONS_OFFSET, Section, Superblock, feature_names};
use forebay_format::layout::{MAGIC, SUPERBLOCK_BYTES};
use forebay_format::quant::QUANTS;

const SPEC: &str = include_str!("../SPEC.md");

/// Cells of the rows of the table marked `<!-- table: name -->`.
fn table(name: &str) -> Vec<Vec<String>> {
    let marker = format!("<!-- table: {name} -->");
    let (_, rest) = SPEC.split_once(&marker).unwrap_or_else(|| panic!("SPEC.md has no table {name}"));
    let rows: Vec<Vec<String>> = rest
        .lines()
        .skip(1)
        .take_while(|l| l.starts_with('|'))
        .skip(2)
        .map(|l| l.trim_matches('|').split('|').map(|c| c.trim().to_string()).collect())
        .collect();
    assert!(!rows.is_empty(), "table {name} is empty");
    rows
}

/// (field, offset, size) of a byte table, checked to tile `total` bytes.
fn fields(name: &str, total: usize) -> Vec<(String, usize, usize)> {
    let mut end = 0;
    let rows: Vec<_> = table(name)
        .iter()
        .map(|r| {
            let (offset, size) = (r[0].parse::<usize>().unwrap(), r[1].parse::<usize>().unwrap());
            assert_eq!(offset, end, "table {name}, field {}: gap or overlap", r[2]);
            end += size;
            (r[2].clone(), offset, size)
        })
        .collect();
    assert_eq!(end, total, "table {name} does not cover its structure");
    rows
}

/// Bytes that differ between two encodings, as one range.
fn differing(a: &[u8], b: &[u8]) -> std::ops::Range<usize> {
    assert_eq!(a.len(), b.len());
    let differ: Vec<usize> = (0..a.len()).filter(|&i| a[i] != b[i]).collect();
    assert!(!differ.is_empty(), "the change is not visible");
    differ[0]..differ[differ.len() - 1] + 1
}

fn superblock() -> Superblock {
    Superblock {
        version: (1, 0),
        required: 0,
        optional: 0,
        alignment: 0,
        chunk_bytes: 0,
        file_bytes: 0,
        pack_id: [0; 16],
        content_id: [0; 32],
        manifest: Section::default(),
        index: Section::default(),
        source: Section::default(),
    }
}

#[test]
fn superblock_table_matches_the_encoder() {
    let full = Section { offset: u64::MAX, stored: u64::MAX, raw: u64::MAX, blake3: [255; 32] };
    let base = superblock();
    for (field, offset, size) in fields("superblock", SUPERBLOCK_BYTES) {
        let mut s = base.clone();
        match field.as_str() {
            "magic" => assert_eq!(base.encode()[offset..offset + size], MAGIC),
            "superblock_bytes" => assert_eq!(base.encode()[offset..offset + size], 4096u32.to_le_bytes()),
            "reserved" => assert!(base.encode()[offset..offset + size].iter().all(|&b| b == 0)),
            "blake3" => {
                assert_eq!(offset, HASH_OFFSET);
                assert_eq!(&base.encode()[offset..], blake3::hash(&base.encode()[..offset]).as_bytes());
            }
            _ => {
                match field.as_str() {
                    "version_major" => s.version.0 = 0xFFFE,
                    "version_minor" => s.version.1 = u16::MAX,
                    "required" => s.required = u64::MAX,
                    "optional" => s.optional = u64::MAX,
                    "alignment" => s.alignment = u32::MAX,
                    "chunk_bytes" => s.chunk_bytes = u32::MAX,
                    "file_bytes" => s.file_bytes = u64::MAX,
                    "pack_id" => s.pack_id = [255; 16],
                    "content_id" => s.content_id = [255; 32],
                    "manifest" => s.manifest = full,
                    "index" => s.index = full,
                    "source" => s.source = full,
                    other => panic!("SPEC.md names a superblock field {other} that this test does not know"),
                }
                let changed = differing(&base.encode()[..HASH_OFFSET], &s.encode()[..HASH_OFFSET]);
                // A section entry's first eight bytes (kind, reserved) do not change.
                let first = if size == SECTION_BYTES { offset + 8 } else { offset };
                assert_eq!(changed, first..offset + size, "superblock field {field}");
            }
        }
    }
}

#[test]
fn section_table_matches_the_encoder() {
    for (field, offset, size) in fields("section", SECTION_BYTES) {
        let mut s = superblock();
        match field.as_str() {
            "kind" => {
                let b = superblock().encode();
                let kinds: Vec<u8> = (0..3).map(|i| b[SECTIONS_OFFSET + i * SECTION_BYTES + offset]).collect();
                assert_eq!(kinds, [1, 2, 3]);
                continue;
            }
            "reserved" => continue,
            "offset" => s.manifest.offset = u64::MAX,
            "stored" => s.manifest.stored = u64::MAX,
            "raw" => s.manifest.raw = u64::MAX,
            "blake3" => s.manifest.blake3 = [255; 32],
            other => panic!("unknown section field {other}"),
        }
        let at = SECTIONS_OFFSET + offset;
        assert_eq!(differing(&superblock().encode()[..HASH_OFFSET], &s.encode()[..HASH_OFFSET]), at..at + size, "section field {field}");
    }
}

/// An index with one embedding bundle of one 4096-byte slice.
fn small_index(record: Record, layout: Layout, sums: usize) -> Index {
    Index::build(0, vec![record], vec![Layout::whole(4096), layout], vec![0; sums], 65536).unwrap()
}

fn record() -> Record {
    Record { id: BundleId::global(Kind::Embedding, 0), offset: 0, length: 0, layout: 0, first_sum: 0, blake3: [0; 32] }
}

const RECORDS_AT: usize = index::HEADER_BYTES + index::KINDS * index::CELL_BYTES;

#[test]
fn record_table_matches_the_encoder() {
    let base = small_index(record(), Layout::whole(4096), 1).encode();
    for (field, offset, size) in fields("record", index::RECORD_BYTES) {
        let mut r = record();
        match field.as_str() {
            "offset" => r.offset = u64::MAX,
            "length" => r.length = u64::MAX,
            "blake3" => r.blake3 = [255; 32],
            "layout" => r.layout = 1,
            "reserved" => continue,
            // These follow from the others: checked by value on an index with two records.
            "first_sum" | "kind" | "layer" | "ordinal" => {
                let expert = |e| Record { id: BundleId::expert(0, e), ..record() };
                let i = Index::build(1, vec![expert(0), expert(1)], vec![Layout::whole(4096)], vec![0; 2], 65536).unwrap().encode();
                let at = index::HEADER_BYTES + 2 * index::KINDS * index::CELL_BYTES + index::RECORD_BYTES + offset;
                let mut value = [0u8; 8];
                value[..size].copy_from_slice(&i[at..at + size]);
                let expected = match field.as_str() {
                    "kind" => Kind::Expert as u64,
                    "layer" => 0,
                    _ => 1,
                };
                assert_eq!(u64::from_le_bytes(value), expected, "record field {field}");
                continue;
            }
            other => panic!("unknown record field {other}"),
        }
        let changed = differing(&base, &small_index(r, Layout::whole(4096), 1).encode());
        let at = RECORDS_AT + offset;
        assert!(changed.start >= at && changed.end <= at + size, "record field {field}: bytes {changed:?}, documented {at}..{}", at + size);
    }
}

#[test]
fn index_header_layout_and_slice_tables_match_the_encoder() {
    let layout = Layout { slices: vec![4096, 8192] };
    let b = small_index(Record { layout: 1, ..record() }, layout, 2).encode();
    let value = |at: usize, size: usize| {
        let mut v = [0u8; 8];
        v[..size].copy_from_slice(&b[at..at + size]);
        u64::from_le_bytes(v)
    };
    for (field, offset, size) in fields("index_header", index::HEADER_BYTES) {
        let expected = match field.as_str() {
            "magic" => u64::from_le_bytes(index::INDEX_MAGIC),
            "layers" => 0,
            "records" => 1,
            "layouts" => 2,
            "slices" => 3,
            "sums" => 2,
            "reserved" => continue,
            other => panic!("unknown index header field {other}"),
        };
        assert_eq!(value(offset, size), expected, "index header field {field}");
    }
    let layouts_at = RECORDS_AT + index::RECORD_BYTES + index::LAYOUT_BYTES;
    for (field, offset, size) in fields("layout", index::LAYOUT_BYTES) {
        let expected = match field.as_str() {
            "length" => 12288,
            "first_slice" => 1,
            "slice_count" => 2,
            other => panic!("unknown layout field {other}"),
        };
        assert_eq!(value(layouts_at + offset, size), expected, "layout field {field}");
    }
    let slices_at = layouts_at + index::LAYOUT_BYTES + 2 * index::SLICE_BYTES;
    for (field, offset, size) in fields("slice", index::SLICE_BYTES) {
        let expected = match field.as_str() {
            "offset" => 4096,
            "length" => 8192,
            other => panic!("unknown slice field {other}"),
        };
        assert_eq!(value(slices_at + offset, size), expected, "slice field {field}");
    }
    assert_eq!(b.len(), slices_at + index::SLICE_BYTES + 2 * index::SUM_BYTES);
}

#[test]
fn kinds_features_and_quant_types_match() {
    let kinds = table("kinds");
    assert_eq!(kinds.len(), Kind::ALL.len());
    for (row, kind) in kinds.iter().zip(Kind::ALL) {
        assert_eq!(row[0], (kind as u16).to_string());
        assert_eq!(row[2], if kind.is_global() { "global" } else { "layer" });
    }
    for row in table("features").iter().filter(|r| r[0] == "required") {
        assert_eq!(feature_names(1 << row[1].parse::<u32>().unwrap()), row[2]);
    }
    let quants: Vec<Vec<String>> = QUANTS
        .iter()
        .map(|q| vec![(q.qtype as u32).to_string(), q.name.to_string(), q.block_len.to_string(), q.block_bytes.to_string()])
        .collect();
    assert_eq!(table("quants"), quants);
}

#[test]
fn the_sum_formula_is_the_documented_one() {
    use twox_hash::XxHash3_64;
    let (pack, id) = ([7u8; 16], BundleId::expert(3, 9));
    let place: Vec<u8> = pack.iter().copied().chain([2u32, 3, 9, 5].into_iter().flat_map(u32::to_le_bytes)).collect();
    let expected = XxHash3_64::oneshot_with_seed(XxHash3_64::oneshot(&place), b"chunk");
    assert_eq!(forebay_format::layout::sums::chunk_sum(&pack, id, 5, b"chunk"), expected);
}
