#!/usr/bin/env python3
"""Write a GGUF of OPT-6.7B's size whose feed-forward neurons fire rarely, for speed tests of other programs beside `forebay-repack synth`.

    pip install gguf numpy
    python scripts/oracle/sparse_gguf.py OUT.gguf               # 32 layers, 13.4 GB of f16
    python scripts/oracle/sparse_gguf.py OUT.gguf --layers 2    # the same layers, fewer of them

llama.cpp does not read OPT. The nearest that it reads is "arcee": two matrices a network and a (squared) ReLU between them, so that the same bytes are
read and the same products computed for a token; norms have no bias, positions are rotary. Which neurons fire changes nothing for a program that reads all of them.
"""
import argparse

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter

parser = argparse.ArgumentParser()
parser.add_argument("out")
parser.add_argument("--layers", type=int, default=32)
parser.add_argument("--hidden", type=int, default=4096)
parser.add_argument("--ffn", type=int, default=16384)
parser.add_argument("--heads", type=int, default=32)
parser.add_argument("--vocab", type=int, default=50272)
args = parser.parse_args()
random = np.random.default_rng(1)

# A pool of normal values; a matrix is the pool again and again from some place on, scaled.
pool = random.standard_normal(1 << 21, np.float32)

writer = GGUFWriter(args.out, "arcee")
writer.add_name("synthetic sparse")
writer.add_block_count(args.layers)
writer.add_context_length(2048)
writer.add_embedding_length(args.hidden)
writer.add_feed_forward_length(args.ffn)
writer.add_head_count(args.heads)
writer.add_head_count_kv(args.heads)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_rope_freq_base(10000.0)
writer.add_rope_dimension_count(args.hidden // args.heads)
# A byte-level vocabulary with one merge; the rest of the ids are never produced by text.
printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
others = [b for b in range(256) if b not in printable]
characters = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
tokens = [characters[b] for b in range(256)] + ["th"]
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("gpt-2")
writer.add_token_list(tokens + [f"[unused {i}]" for i in range(len(tokens), args.vocab)])
writer.add_token_types([1] * len(tokens) + [5] * (args.vocab - len(tokens)))
writer.add_token_merges(["t h"])
writer.add_eos_token_id(args.vocab - 1)

tensors = []


def matrix(name, rows, cols, deviation):
    writer.add_tensor_info(name, [rows, cols], np.dtype(np.float16), rows * cols * 2, raw_dtype=GGMLQuantizationType.F16)
    tensors.append((rows * cols, deviation))


def norm(name):
    writer.add_tensor_info(name, [args.hidden], np.dtype(np.float32), args.hidden * 4)
    tensors.append((args.hidden, None))


into, out = args.hidden**-0.5, 0.3 * (2 * args.layers * args.hidden) ** -0.5
matrix("token_embd.weight", args.vocab, args.hidden, 1.0)
norm("output_norm.weight")
for layer in range(args.layers):
    block = f"blk.{layer}."
    norm(block + "attn_norm.weight")
    for part in ["q", "k", "v"]:
        matrix(block + f"attn_{part}.weight", args.hidden, args.hidden, into)
    matrix(block + "attn_output.weight", args.hidden, args.hidden, out)
    norm(block + "ffn_norm.weight")
    matrix(block + "ffn_up.weight", args.ffn, args.hidden, into)
    matrix(block + "ffn_down.weight", args.hidden, args.ffn, out)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_ti_data_to_file()
for size, deviation in tensors:
    if deviation is None:
        writer.write_tensor_data(np.ones(size, np.float32))
    else:
        start = int(random.integers(0, len(pool)))
        writer.write_tensor_data(np.resize(np.roll((pool * deviation).astype(np.float16), -start), size))
writer.close()
