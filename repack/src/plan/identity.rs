//! Who a pack is and where it came from. Nothing here depends on times, paths or the machine.

use super::types::Quantize;
use crate::arch::Binding;
use crate::source::{Checkpoint, Dtype, Meta};
use forebay_format::layout::manifest::{Provenance, SourceFile};
use forebay_format::layout::superblock::hex;
use forebay_format::layout::{VERSION_MAJOR, VERSION_MINOR};

/// First 16 bytes of a BLAKE3 over everything that decides the payload and is known before it: format and program version, choices,
/// and the source's names, types, shapes and header hashes.
pub fn pack_id(checkpoint: &Checkpoint, quantize: Quantize, (grouped, tiled): (bool, bool), alignment: u32, chunk_bytes: u32) -> [u8; 16] {
    let mut h = blake3::Hasher::new();
    text(&mut h, "forebay pack id 1");
    text(&mut h, env!("CARGO_PKG_VERSION"));
    text(&mut h, quantize.name());
    for n in [VERSION_MAJOR as u64, VERSION_MINOR as u64, alignment as u64, chunk_bytes as u64, checkpoint.tensors.len() as u64] {
        h.update(&n.to_le_bytes());
    }
    for t in &checkpoint.tensors {
        text(&mut h, &t.name);
        text(
            &mut h,
            match t.dtype {
                Dtype::Weight(q) => q.name(),
                Dtype::Other { name, .. } => name,
            },
        );
        h.update(&(t.shape.len() as u64).to_le_bytes());
        for d in &t.shape {
            h.update(&d.to_le_bytes());
        }
    }
    for f in &checkpoint.files {
        text(&mut h, &f.name);
        h.update(&f.header_blake3);
    }
    for (name, bytes) in &checkpoint.small_files {
        text(&mut h, name);
        h.update(blake3::hash(bytes).as_bytes());
    }
    if grouped {
        text(&mut h, "neuron groups 1");
    }
    if tiled {
        text(&mut h, "dwords_16 of q4_k and q5_k 1");
    }
    let mut id = [0; 16];
    id.copy_from_slice(&h.finalize().as_bytes()[..16]);
    id
}

/// Length first, so that no two lists of strings hash alike.
fn text(h: &mut blake3::Hasher, s: &str) {
    h.update(&(s.len() as u64).to_le_bytes());
    h.update(s.as_bytes());
}

/// Provenance for the manifest.
pub fn provenance(checkpoint: &Checkpoint, binding: &Binding, quantize: Quantize) -> Provenance {
    let small = checkpoint.small_files.iter().map(|(name, bytes)| SourceFile {
        name: name.clone(),
        bytes: bytes.len() as u64,
        blake3: blake3::hash(bytes).to_hex().to_string(),
        hashed_bytes: bytes.len() as u64,
    });
    let weights = checkpoint.files.iter().map(|f| SourceFile {
        name: f.name.clone(),
        bytes: f.fingerprint.bytes,
        blake3: hex(&f.header_blake3),
        hashed_bytes: f.header_bytes,
    });
    Provenance {
        format: match checkpoint.meta {
            Meta::HuggingFace { .. } => "huggingface".into(),
            Meta::Gguf(_) => "gguf".into(),
        },
        architecture: binding.architecture.clone(),
        quantize: quantize.name().into(),
        files: small.chain(weights).collect(),
        unused: binding.unused.clone(),
        notes: Default::default(),
    }
}

/// One name for the tensors of all experts: the dotted part that is 0 in the first expert's name and 1 in the second's becomes `{}`.
pub fn pattern(first: &str, second: &str) -> String {
    let parts: Vec<&str> = first.split('.').collect();
    let others: Vec<&str> = second.split('.').collect();
    if parts.len() != others.len() {
        return first.to_owned();
    }
    let pick = |(&a, &b): (&&str, &&str)| if a == "0" && b == "1" { "{}".to_owned() } else { a.to_owned() };
    parts.iter().zip(&others).map(pick).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::pattern;

    #[test]
    fn expert_numbers_become_braces() {
        assert_eq!(
            pattern("model.layers.0.mlp.experts.0.up_proj.weight", "model.layers.0.mlp.experts.1.up_proj.weight"),
            "model.layers.0.mlp.experts.{}.up_proj.weight"
        );
        assert_eq!(pattern("blk.0.ffn_up_exps.weight", "blk.0.ffn_up_exps.weight"), "blk.0.ffn_up_exps.weight");
    }
}
