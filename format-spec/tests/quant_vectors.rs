//! Every quant type decodes its golden vector bit for bit. The vectors come from the `gguf` Python package
//! (`scripts/oracle/quant_vectors.py`, which also documents the files); nothing of this project took part in making them.

use forebay_format::quant::{QUANTS, QuantInfo};
use std::path::Path;

/// Stored blocks and the values they stand for.
fn golden(info: &QuantInfo) -> (Vec<u8>, Vec<f32>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/quant").join(format!("{}.bin", info.name));
    let file = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e} (a quant type needs a golden vector)", path.display()));
    let (count, rest) = file.split_first_chunk::<4>().unwrap();
    let count = u32::from_le_bytes(*count) as usize;
    assert!(count >= 16, "{}: only {count} blocks", info.name);
    let (blocks, values) = rest.split_at(count * info.block_bytes);
    assert_eq!(values.len(), count * info.block_len * 4, "{}", info.name);
    (blocks.to_vec(), values.as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect())
}

#[test]
fn every_type_decodes_its_golden_vector_bit_for_bit() {
    for info in QUANTS {
        let (blocks, expected) = golden(info);
        let mut values = vec![0.0; expected.len()];
        info.qtype.decode(&blocks, &mut values).unwrap();
        for (i, (&value, &want)) in values.iter().zip(&expected).enumerate() {
            let same = value.to_bits() == want.to_bits() || (value.is_nan() && want.is_nan());
            assert!(same, "{}: block {}, value {}: {value:e}, gguf says {want:e}", info.name, i / info.block_len, i % info.block_len);
        }
        let mut row = vec![0.0; expected.len()];
        info.qtype.decode_row(&blocks, &mut row);
        assert!(row.iter().zip(&values).all(|(a, b)| a.to_bits() == b.to_bits()), "{}: decode_row differs from decode", info.name);
    }
}

/// `check_finite` names the first block whose scale is not finite. Where codes cannot hide it (a NaN or infinity times anything but zero),
/// that is the first block with a value that is not finite. Two types are exceptions: MXFP4's largest finite scales overflow f32, and the NaN
/// of NVFP4's scales reads as zero in ggml.
#[test]
fn blocks_that_are_not_finite_are_found() {
    for info in QUANTS {
        let (blocks, expected) = golden(info);
        let mut refused = 0;
        for (i, (block, values)) in blocks.chunks(info.block_bytes).zip(expected.chunks(info.block_len)).enumerate() {
            let bad = info.qtype.check_finite(block).is_some();
            refused += usize::from(bad);
            if info.name == "mxfp4" {
                assert_eq!(bad, block[0] == 255, "block {i}");
            } else if info.name == "nvfp4" {
                assert_eq!(bad, block[..4].iter().any(|s| s & 127 == 127), "block {i}");
            } else {
                assert_eq!(bad, values.iter().any(|v| !v.is_finite()), "{}: block {i}", info.name);
            }
        }
        assert!(refused > 0, "{}: the vector has no block to refuse", info.name);
        let first = blocks.chunks(info.block_bytes).position(|block| info.qtype.check_finite(block).is_some());
        assert_eq!(info.qtype.check_finite(&blocks), first, "{}", info.name);
    }
}
