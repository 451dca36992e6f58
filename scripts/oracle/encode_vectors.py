#!/usr/bin/env python3
"""What other encoders make of the same rows, for comparison with ours.

    python3 scripts/oracle/encode_vectors.py --model DIR --ggml LIBGGML_BASE_SO      writes repack/vectors/encode/

* `weights.f32`: 96 rows of 256 little-endian f32: 48 rows of trained weights (--model: a Hugging Face directory of bf16 shards; expert,
  attention, delta-net, embedding and head rows), 24 rows of Gaussian and 24 of Laplace noise.
* `NAME.bin`: those rows encoded. q8_0, q4_0, q5_0, mxfp4, f16 and bf16 by the `gguf` Python package; q4_k and q6_k by
  `ggml_quantize_chunk` of a built llama.cpp (no importance matrix), because the package has no encoder for them.
"""

import argparse
import ctypes
import json
import pathlib
import struct

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import quants

OUT = pathlib.Path(__file__).resolve().parents[2] / "repack" / "vectors" / "encode"
COLS = 256
NAMES = [
    "model.layers.0.mlp.experts.3.gate_proj.weight", "model.layers.5.mlp.experts.40.up_proj.weight",
    "model.layers.3.self_attn.q_proj.weight", "model.layers.7.self_attn.v_proj.weight", "model.layers.1.linear_attn.in_proj_qkv.weight",
    "model.layers.6.linear_attn.out_proj.weight", "model.embed_tokens.weight", "lm_head.weight",
]


def bf16_rows(model, name, rows):
    shard = json.loads((model / "model.safetensors.index.json").read_text())["weight_map"][name]
    with open(model / shard, "rb") as file:
        header_size = struct.unpack("<Q", file.read(8))[0]
        tensor = json.loads(file.read(header_size))[name]
        assert tensor["dtype"] == "BF16" and tensor["shape"][1] == COLS
        file.seek(8 + header_size + tensor["data_offsets"][0])
        data = np.frombuffer(file.read(rows * COLS * 2), dtype="<u2")
    return (data.astype(np.uint32) << 16).view(np.float32).reshape(rows, COLS)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--ggml", required=True)
    args = parser.parse_args()
    rng = np.random.default_rng(7)
    parts = [bf16_rows(args.model, name, 6) for name in NAMES]
    parts += [rng.standard_normal((24, COLS)) * 0.02, rng.laplace(size=(24, COLS)) * 0.02]
    rows = np.ascontiguousarray(np.concatenate(parts), dtype="<f4")
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "weights.f32").write_bytes(rows.tobytes())
    for kind in (T.Q8_0, T.Q4_0, T.Q5_0, T.MXFP4, T.F16, T.BF16):
        (OUT / f"{kind.name.lower()}.bin").write_bytes(quants.quantize(rows, kind).tobytes())
    ggml = ctypes.CDLL(args.ggml)
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    for kind, size in ((T.Q4_K, 144), (T.Q6_K, 210)):
        out = ctypes.create_string_buffer(len(rows) * size)
        written = ggml.ggml_quantize_chunk(int(kind), rows.ctypes.data, out, 0, len(rows), COLS, None)
        assert written == len(out)
        (OUT / f"{kind.name.lower()}.bin").write_bytes(out.raw)


if __name__ == "__main__":
    main()
