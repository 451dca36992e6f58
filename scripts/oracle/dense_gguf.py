#!/usr/bin/env python3
"""Write a GGUF with the exact shape of a dense 8B model and random Q4_K weights, for speed tests only.

    pip install gguf numpy
    python scripts/oracle/dense_gguf.py OUT.gguf                # 32 layers, 4.5 GB
    python scripts/oracle/dense_gguf.py OUT.gguf --layers 4     # the same layers, fewer of them

The output is gibberish; bytes read and work done per token are those of a real model of this shape.
"""
import argparse

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

parser = argparse.ArgumentParser()
parser.add_argument("out")
parser.add_argument("--layers", type=int, default=32)
parser.add_argument("--hidden", type=int, default=4096)
parser.add_argument("--ffn", type=int, default=14336)
parser.add_argument("--heads", type=int, default=32)
parser.add_argument("--kv-heads", type=int, default=8)
parser.add_argument("--vocab", type=int, default=128256)
args = parser.parse_args()
kv_width = args.hidden // args.heads * args.kv_heads
random = np.random.default_rng(1)

# A pool of Q4_K blocks: 256 weights in 144 bytes. All sub-scales and sub-minima are 32, so a weight is 32 * (d * q - dmin) with q in 0..15:
# mean 0 for dmin = 7.5 d, standard deviation 32 * 4.61 * d.
BLOCKS = 1 << 19
STD = 0.02
pool = np.zeros((BLOCKS, 144), np.uint8)
d = STD / (32 * 4.61)
pool[:, 0:2] = np.array([d], np.float16).view(np.uint8)
pool[:, 2:4] = np.array([7.5 * d], np.float16).view(np.uint8)
pool[:, 4:12] = 0b10100000  # the low six bits of four sub-scales (minima), and the high two bits of the other four; their low bits are zero
pool[:, 16:] = random.integers(0, 256, (BLOCKS, 128), dtype=np.uint8)
pool = pool.reshape(-1)

matrices, w = [], GGUFWriter(args.out, "llama")
w.add_name("synthetic dense")
w.add_block_count(args.layers)
w.add_context_length(8192)
w.add_embedding_length(args.hidden)
w.add_feed_forward_length(args.ffn)
w.add_head_count(args.heads)
w.add_head_count_kv(args.kv_heads)
w.add_layer_norm_rms_eps(1e-5)
w.add_rope_freq_base(500000.0)
w.add_rope_dimension_count(args.hidden // args.heads)
# A byte-level vocabulary with one merge; the rest of the ids are never produced by text.
printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
others = [b for b in range(256) if b not in printable]
characters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
tokens = [characters[b] for b in range(256)] + ["th"]
kinds = [1] * len(tokens) + [5] * (args.vocab - len(tokens))
w.add_tokenizer_model("gpt2")
w.add_tokenizer_pre("gpt-2")
w.add_token_list(tokens + [f"[unused {i}]" for i in range(len(tokens), args.vocab)])
w.add_token_types(kinds)
w.add_token_merges(["t h"])
w.add_eos_token_id(args.vocab - 1)


def matrix(name, rows, cols):
    w.add_tensor_info(name, [rows, cols // 256 * 144], np.dtype(np.uint8), rows * cols // 256 * 144, raw_dtype=GGMLQuantizationType.Q4_K)
    matrices.append((rows * cols // 256 * 144, True))


def norm(name):
    w.add_tensor_info(name, [args.hidden], np.dtype(np.float32), args.hidden * 4)
    matrices.append((args.hidden, False))


matrix("token_embd.weight", args.vocab, args.hidden)
norm("output_norm.weight")
matrix("output.weight", args.vocab, args.hidden)
for layer in range(args.layers):
    block = f"blk.{layer}."
    norm(block + "attn_norm.weight")
    matrix(block + "attn_q.weight", args.hidden, args.hidden)
    matrix(block + "attn_k.weight", kv_width, args.hidden)
    matrix(block + "attn_v.weight", kv_width, args.hidden)
    matrix(block + "attn_output.weight", args.hidden, args.hidden)
    norm(block + "ffn_norm.weight")
    matrix(block + "ffn_gate.weight", args.ffn, args.hidden)
    matrix(block + "ffn_up.weight", args.ffn, args.hidden)
    matrix(block + "ffn_down.weight", args.hidden, args.ffn)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_ti_data_to_file()
for size, quantised in matrices:
    start = int(random.integers(0, BLOCKS)) * 144
    data = np.resize(np.roll(pool, -start), size) if quantised else np.ones(size, np.float32)
    w.write_tensor_data(data)
w.close()
