//! A mixture of experts whose matrices take turns among quant types, and the same model with its weights decoded to f32.

use super::{Random, Stored, VOCAB, Value, gguf_bytes, vocabulary};
use forebay_format::QuantType;
use std::path::Path;
use std::{fs, io};

const HIDDEN: usize = 256;
const INNER: usize = 256;
const EXPERTS: usize = 4;
const HEAD: usize = 64;

/// What to write.
pub struct Mixed<'a> {
    /// Types that the matrices take in turn: embedding, head, then the layers'.
    pub types: &'a [QuantType],
    /// Layers of seven matrices each.
    pub layers: usize,
    /// Stored as f32 instead, the same values.
    pub decoded: bool,
    /// The last block of the last matrix of this type has a scale that is not a number.
    pub damaged: Option<QuantType>,
}

/// Writes a GGUF file of a Qwen3 with experts, hidden width 256.
pub fn write_mixed_gguf(path: &Path, mixed: &Mixed<'_>) -> io::Result<()> {
    let number = |n: usize| Value::U32(n as u32);
    let model = [
        ("general.architecture", Value::Text("qwen3moe".into())),
        ("general.name", Value::Text("toy".into())),
        ("qwen3moe.block_count", number(mixed.layers)),
        ("qwen3moe.context_length", number(512)),
        ("qwen3moe.embedding_length", number(HIDDEN)),
        ("qwen3moe.expert_feed_forward_length", number(INNER)),
        ("qwen3moe.expert_count", number(EXPERTS)),
        ("qwen3moe.expert_used_count", number(2)),
        ("qwen3moe.attention.head_count", number(4)),
        ("qwen3moe.attention.head_count_kv", number(2)),
        ("qwen3moe.attention.key_length", number(HEAD)),
        ("qwen3moe.attention.value_length", number(HEAD)),
        ("qwen3moe.attention.layer_norm_rms_epsilon", Value::F32(1e-6)),
        ("qwen3moe.rope.freq_base", Value::F32(10000.0)),
    ];
    let pairs: Vec<(String, Value)> = model.into_iter().map(|(key, value)| (key.to_string(), value)).chain(vocabulary()).collect();
    fs::write(path, gguf_bytes(&pairs, &tensors(mixed)))
}

fn tensors(mixed: &Mixed<'_>) -> Vec<Stored> {
    let mut random = Random(7);
    let mut out = Vec::new();
    let mut turns = mixed.types.iter().copied().cycle();
    let mut blocks = Vec::new();
    for (name, dims, rms) in names(mixed.layers) {
        let count = dims.iter().product::<usize>();
        let plain = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let Some(qtype) = (rms > 0.0).then(|| turns.next()).flatten() else {
            // A norm, near one; or a router.
            let (mean, spread) = if dims.len() == 1 { (1.0, 0.1) } else { (0.0, 0.2) };
            let values: Vec<f32> = (0..count).map(|_| mean + spread * random.uniform()).collect();
            out.push(Stored { name, dims, code: 0, bytes: plain(&values) });
            continue;
        };
        let bytes: Vec<u8> = (0..count / qtype.block_len()).flat_map(|_| block(qtype, rms, &mut random)).collect();
        blocks.push((out.len(), qtype));
        if mixed.decoded {
            let mut values = vec![0.0; count];
            qtype.decode_row(&bytes, &mut values);
            out.push(Stored { name, dims, code: 0, bytes: plain(&values) });
        } else {
            out.push(Stored { name, dims, code: qtype as u32, bytes });
        }
    }
    if let Some(&(i, qtype)) = blocks.iter().rev().find(|(_, t)| Some(*t) == mixed.damaged) {
        let bytes = &mut out[i].bytes;
        let last = bytes.len() - qtype.block_bytes();
        spoil(qtype, &mut bytes[last..]);
    }
    out
}

/// Name, dimensions, and root mean square of the weights (none for those that stay f32).
fn names(layers: usize) -> Vec<(String, Vec<usize>, f32)> {
    let mut names = vec![
        ("token_embd.weight".to_string(), vec![HIDDEN, VOCAB], 1.0),
        ("output_norm.weight".to_string(), vec![HIDDEN], 0.0),
        ("output.weight".to_string(), vec![HIDDEN, VOCAB], 0.1),
    ];
    for layer in 0..layers {
        let of_layer = [
            ("attn_norm", vec![HIDDEN], 0.0),
            ("attn_q", vec![HIDDEN, 4 * HEAD], 0.06),
            ("attn_k", vec![HIDDEN, 2 * HEAD], 0.06),
            ("attn_v", vec![HIDDEN, 2 * HEAD], 0.06),
            ("attn_output", vec![4 * HEAD, HIDDEN], 0.06),
            ("attn_q_norm", vec![HEAD], 0.0),
            ("attn_k_norm", vec![HEAD], 0.0),
            ("ffn_norm", vec![HIDDEN], 0.0),
            ("ffn_gate_inp", vec![HIDDEN, EXPERTS], 0.0),
            ("ffn_gate_exps", vec![HIDDEN, INNER, EXPERTS], 0.06),
            ("ffn_up_exps", vec![HIDDEN, INNER, EXPERTS], 0.06),
            ("ffn_down_exps", vec![INNER, HIDDEN, EXPERTS], 0.06),
        ];
        names.extend(of_layer.map(|(name, dims, rms)| (format!("blk.{layer}.{name}.weight"), dims, rms)));
    }
    names
}

/// A block of random codes whose values have about this root mean square.
fn block(qtype: QuantType, rms: f32, random: &mut Random) -> Vec<u8> {
    let mut block: Vec<u8> = (0..qtype.block_bytes()).map(|_| random.next() as u8).collect();
    set_scale(qtype, &mut block, 1.0);
    let mut values = vec![0.0; qtype.block_len()];
    qtype.decode_row(&block, &mut values);
    let have = (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
    set_scale(qtype, &mut block, rms / have);
    block
}

/// Where a block keeps its half-precision scales; `None`: elsewhere, see [`set_scale`].
fn halves(qtype: QuantType) -> Option<&'static [usize]> {
    use QuantType::*;
    match qtype {
        Q4_0 | Q5_0 | Q8_0 | IQ4_NL | IQ4_XS | IQ1_S | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S => Some(&[0]),
        Q4_1 | Q5_1 | Q4_K | Q5_K => Some(&[0, 2]),
        Q2_K => Some(&[80, 82]),
        Q3_K => Some(&[108]),
        Q6_K => Some(&[208]),
        TQ1_0 => Some(&[52]),
        TQ2_0 => Some(&[64]),
        F32 | F16 | BF16 | MXFP4 | NVFP4 | IQ1_M => None,
    }
}

fn set_scale(qtype: QuantType, block: &mut [u8], scale: f32) {
    set_half(qtype, block, half::f16::from_f32(scale).to_bits());
    let exponent = scale.log2().round() as i32;
    match qtype {
        QuantType::MXFP4 => block[0] = (127 + exponent) as u8,
        // The lowest three bits, the mantissa, stay as they are.
        QuantType::NVFP4 => block[..4].iter_mut().for_each(|s| *s = ((7 + exponent) as u8) << 3 | (*s & 7)),
        _ => {}
    }
}

/// Puts these bits wherever the block has a half.
fn set_half(qtype: QuantType, block: &mut [u8], bits: u16) {
    for &at in halves(qtype).unwrap_or_default() {
        block[at..at + 2].copy_from_slice(&bits.to_le_bytes());
    }
    if qtype == QuantType::IQ1_M {
        (0..4).for_each(|w| block[49 + 2 * w] = (block[49 + 2 * w] & 15) | ((bits >> (4 * w)) as u8 & 15) << 4);
    }
}

/// Makes a scale of the block not a number.
fn spoil(qtype: QuantType, block: &mut [u8]) {
    set_half(qtype, block, 0x7e00);
    match qtype {
        QuantType::MXFP4 => block[0] = 255,
        QuantType::NVFP4 => block[2] = 127,
        _ => {}
    }
}
