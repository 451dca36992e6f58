#!/usr/bin/env python3
"""Golden vectors of block decoding, computed by the `gguf` Python package (not by this project).

    python3 scripts/oracle/quant_vectors.py          writes format-spec/vectors/quant/NAME.bin
    python3 scripts/oracle/quant_vectors.py --check  compares instead; exit code 1 if a file differs

One file a quant type, little-endian:

    u32                 n, the number of blocks
    n * block_bytes     blocks as stored
    n * block_len * 4   the f32 values they stand for

The blocks: random bytes under plausible scales of both signs; every combination of extreme scales (zero, negative zero, the smallest and
the largest subnormal, the smallest and the largest normal, both signs, infinity, NaN) over random, all-zero and all-one codes; and blocks of
wholly random bytes. NaN results are written as the canonical 0x7fc00000, because payloads of NaN are not specified.
"""

import argparse
import itertools
import pathlib
import sys

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import quants

OUT = pathlib.Path(__file__).resolve().parents[2] / "format-spec" / "vectors" / "quant"

# Byte offsets of the half-precision numbers of a block.
HALVES = {
    T.F16: [0], T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q3_K: [108],
    T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0], T.IQ4_XS: [0],
}
SIZES = {
    T.F32: (1, 4), T.F16: (1, 2), T.BF16: (1, 2), T.Q4_0: (32, 18), T.Q4_1: (32, 20), T.Q5_0: (32, 22), T.Q5_1: (32, 24), T.Q8_0: (32, 34),
    T.Q2_K: (256, 84), T.Q3_K: (256, 110), T.Q4_K: (256, 144), T.Q5_K: (256, 176), T.Q6_K: (256, 210), T.IQ4_NL: (32, 18),
    T.IQ4_XS: (256, 136), T.MXFP4: (32, 17),
}
EXTREME_HALVES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00]
EXTREME_SINGLES = [
    0x00000000, 0x80000000, 0x00000001, 0x807FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000,
    0x3F800000, 0x33800000, 0x477FE000, 0x477FF000, 0x38800000,
]


def blocks_of(kind, rng):
    length, size = SIZES[kind]
    if kind in (T.F32, T.BF16):
        extreme = np.array(EXTREME_SINGLES, dtype="<u4").view(np.uint8).reshape(-1, 4)[:, 4 - size:]
        return np.concatenate([extreme, rng.integers(0, 256, (240, size), dtype=np.uint8)])
    if kind == T.F16:
        extreme = np.array(EXTREME_HALVES, dtype="<u2").view(np.uint8).reshape(-1, 2)
        return np.concatenate([extreme, rng.integers(0, 256, (500, size), dtype=np.uint8)])
    few = length == 256
    random = rng.integers(0, 256, (3 if few else 16, size), dtype=np.uint8)
    if kind == T.MXFP4:
        every_scale = rng.integers(0, 256, (256, size), dtype=np.uint8)
        every_scale[:, 0] = np.arange(256)
        return np.concatenate([every_scale, random])
    halves = HALVES[kind]
    plausible = rng.integers(0, 256, (4 if few else 16, size), dtype=np.uint8)
    for at in halves:
        scale = (rng.standard_normal(len(plausible)) * 0.01).astype("<f2")
        plausible[:, at:at + 2] = scale.view(np.uint8).reshape(-1, 2)
    combinations = list(itertools.product(EXTREME_HALVES, repeat=len(halves)))
    if few and len(halves) > 1:  # one at a time, the other scale plausible: the whole product would be 121 KiB a type
        combinations = [(h, 0x2A3D) for h in EXTREME_HALVES] + [(0x2A3D, h) for h in EXTREME_HALVES]
    extreme = rng.integers(0, 256, (len(combinations), size), dtype=np.uint8)
    for i, combination in enumerate(combinations):
        if i % 5 == 3:
            extreme[i] = 0
        if i % 5 == 4:
            extreme[i] = 255
        for at, bits in zip(halves, combination):
            extreme[i, at:at + 2] = np.array([bits], dtype="<u2").view(np.uint8)
    return np.concatenate([plausible, extreme, random])


def vector(kind):
    rng = np.random.default_rng(1000 + int(kind))
    blocks = blocks_of(kind, rng)
    length, size = SIZES[kind]
    assert blocks.shape[1] == size
    with np.errstate(all="ignore"):
        values = np.ascontiguousarray(quants.dequantize(blocks.reshape(-1), kind), dtype="<f4").reshape(-1).copy()
    assert values.size == len(blocks) * length
    values.view("<u4")[np.isnan(values)] = 0x7FC00000
    return np.array([len(blocks)], dtype="<u4").tobytes() + blocks.tobytes() + values.tobytes()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    OUT.mkdir(parents=True, exist_ok=True)
    differing = []
    for kind in SIZES:
        path, data = OUT / f"{kind.name.lower()}.bin", vector(kind)
        if not check:
            path.write_bytes(data)
        elif not path.exists() or path.read_bytes() != data:
            differing.append(path.name)
    if differing:
        sys.exit("differ from what gguf computes: " + ", ".join(differing))


if __name__ == "__main__":
    main()
