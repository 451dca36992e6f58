#!/usr/bin/env python3
"""Write a GGUF with the exact shape of a dense model and random weights of one type, for speed tests only.

    pip install gguf numpy
    python scripts/oracle/dense_gguf.py OUT.gguf                        # an 8B shape in Q4_K: 32 layers, 4.5 GB
    python scripts/oracle/dense_gguf.py OUT.gguf --layers 4             # the same layers, fewer of them
    python scripts/oracle/dense_gguf.py OUT.gguf --shape 1b --type Q6_K # a 1.5B shape: 16 layers of width 2048

The output is gibberish; bytes read and work done per token are those of a real model of this shape.
"""
import argparse

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter

parser = argparse.ArgumentParser()
parser.add_argument("out")
parser.add_argument("--shape", choices=["8b", "1b"], default="8b")
parser.add_argument("--type", default="Q4_K", help="Q8_0, Q6_K, Q4_0, Q4_K, IQ4_XS, MXFP4 or BF16")
parser.add_argument("--layers", type=int)
args = parser.parse_args()
layers, hidden, ffn, heads, kv_heads, vocab = {"8b": (32, 4096, 14336, 32, 8, 128256), "1b": (16, 2048, 8192, 32, 8, 128256)}[args.shape]
layers = args.layers or layers
kv_width = hidden // heads * kv_heads
random = np.random.default_rng(1)

# A pool of random blocks whose scales give weights of this standard deviation; all sub-scales are the same.
STD = 0.02
kind = GGMLQuantizationType[args.type]
block_len, block_bytes = GGML_QUANT_SIZES[kind]
BLOCKS = (1 << 26) // block_bytes
pool = random.integers(0, 256, (BLOCKS, block_bytes), dtype=np.uint8)


def half(at, value):
    pool[:, at : at + 2] = np.array([value], np.float16).view(np.uint8)


match args.type:
    case "Q8_0":  # d * q, q in -128..127
        half(0, STD / 73.9)
    case "Q4_0":  # d * (q - 8)
        half(0, STD / 4.61)
    case "Q4_K":  # d * 32 * q - dmin * 32 with q in 0..15: mean 0 for dmin = 7.5 d
        half(0, STD / (32 * 4.61))
        half(2, 7.5 * STD / (32 * 4.61))
        pool[:, 4:12] = 0b10100000  # the low six bits of four sub-scales (minima), and the high two bits of the other four
        pool[:, 12:16] = 0
    case "Q6_K":  # d * 32 * (q - 32)
        pool[:, 192:208] = 32
        half(208, STD / (32 * 18.5))
    case "IQ4_XS":  # d * (48 - 32) * level
        half(0, STD / (16 * 69.0))
        pool[:, 2:4] = 0xFF
        pool[:, 4:8] = 0
    case "MXFP4":  # 2^(e - 128) * level
        pool[:, 0] = 120
    case "BF16":
        values = random.normal(0, STD, BLOCKS).astype(np.float32)
        pool[:, :] = (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(-1, 2)
    case _:
        parser.error(f"no recipe for {args.type}")
pool = pool.reshape(-1)

matrices, w = [], GGUFWriter(args.out, "llama")
w.add_name("synthetic dense")
w.add_block_count(layers)
w.add_context_length(8192)
w.add_embedding_length(hidden)
w.add_feed_forward_length(ffn)
w.add_head_count(heads)
w.add_head_count_kv(kv_heads)
w.add_layer_norm_rms_eps(1e-5)
w.add_rope_freq_base(500000.0)
w.add_rope_dimension_count(hidden // heads)
# A byte-level vocabulary with one merge; the rest of the ids are never produced by text.
printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
others = [b for b in range(256) if b not in printable]
characters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
tokens = [characters[b] for b in range(256)] + ["th"]
kinds = [1] * len(tokens) + [5] * (vocab - len(tokens))
w.add_tokenizer_model("gpt2")
w.add_tokenizer_pre("gpt-2")
w.add_token_list(tokens + [f"[unused {i}]" for i in range(len(tokens), vocab)])
w.add_token_types(kinds)
w.add_token_merges(["t h"])
w.add_eos_token_id(vocab - 1)


def matrix(name, rows, cols):
    size = rows * cols // block_len * block_bytes
    w.add_tensor_info(name, [rows, cols // block_len * block_bytes], np.dtype(np.uint8), size, raw_dtype=kind)
    matrices.append((size, True))


def norm(name):
    w.add_tensor_info(name, [hidden], np.dtype(np.float32), hidden * 4)
    matrices.append((hidden, False))


matrix("token_embd.weight", vocab, hidden)
norm("output_norm.weight")
matrix("output.weight", vocab, hidden)
for layer in range(layers):
    block = f"blk.{layer}."
    norm(block + "attn_norm.weight")
    matrix(block + "attn_q.weight", hidden, hidden)
    matrix(block + "attn_k.weight", kv_width, hidden)
    matrix(block + "attn_v.weight", kv_width, hidden)
    matrix(block + "attn_output.weight", hidden, hidden)
    norm(block + "ffn_norm.weight")
    matrix(block + "ffn_gate.weight", ffn, hidden)
    matrix(block + "ffn_up.weight", ffn, hidden)
    matrix(block + "ffn_down.weight", hidden, ffn)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_ti_data_to_file()
for size, quantised in matrices:
    start = int(random.integers(0, BLOCKS)) * block_bytes
    data = np.resize(np.roll(pool, -start), size) if quantised else np.ones(size, np.float32)
    w.write_tensor_data(data)
w.close()
