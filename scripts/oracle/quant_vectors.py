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
wholly random bytes. Types with a codebook also have blocks that go through all its points; NVFP4 has every scale byte at every place.
NaN results are written as the canonical 0x7fc00000, because payloads of NaN are not specified.

With --ggml LIBRARY (a libggml-base.so, which is not part of this project) the values are also computed by its C functions, and must be the
same floats.
"""

import argparse
import ctypes
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
    T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.IQ4_NL: [0], T.IQ4_XS: [0], T.IQ2_XXS: [0], T.IQ2_XS: [0], T.IQ2_S: [0],
    T.IQ3_XXS: [0], T.IQ3_S: [0], T.IQ1_S: [0], T.IQ1_M: [48], T.TQ1_0: [52], T.TQ2_0: [64],
}
SIZES = {
    T.F32: (1, 4), T.F16: (1, 2), T.BF16: (1, 2), T.Q4_0: (32, 18), T.Q4_1: (32, 20), T.Q5_0: (32, 22), T.Q5_1: (32, 24), T.Q8_0: (32, 34),
    T.Q2_K: (256, 84), T.Q3_K: (256, 110), T.Q4_K: (256, 144), T.Q5_K: (256, 176), T.Q6_K: (256, 210), T.IQ4_NL: (32, 18),
    T.IQ4_XS: (256, 136), T.MXFP4: (32, 17), T.IQ2_XXS: (256, 66), T.IQ2_XS: (256, 74), T.IQ2_S: (256, 82), T.IQ3_XXS: (256, 98),
    T.IQ3_S: (256, 110), T.IQ1_S: (256, 50), T.IQ1_M: (256, 56), T.TQ1_0: (256, 54), T.TQ2_0: (256, 66), T.NVFP4: (64, 36),
}
# Points of the codebook, and those in a block.
POINTS = {
    T.IQ2_XXS: (256, 32), T.IQ2_XS: (512, 32), T.IQ2_S: (1024, 32), T.IQ3_XXS: (256, 64), T.IQ3_S: (512, 64), T.IQ1_S: (2048, 32),
}
EXTREME_HALVES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00]
EXTREME_SINGLES = [
    0x00000000, 0x80000000, 0x00000001, 0x807FFFFF, 0x00800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000,
    0x3F800000, 0x33800000, 0x477FE000, 0x477FF000, 0x38800000,
]


def put_half(kind, block, at, bits):
    """Writes a half; IQ1_M has it in the upper four bits of four words."""
    if kind == T.IQ1_M:
        for word in range(4):
            high = at + 2 * word + 1
            block[high] = (block[high] & 15) | (((bits >> (4 * word)) & 15) << 4)
    else:
        block[at:at + 2] = np.array([bits], dtype="<u2").view(np.uint8)


def put_point(kind, block, i, point):
    """Makes the i-th point of a block this one."""
    low, high = point & 255, point >> 8
    if kind == T.IQ2_XXS:
        block[2 + 8 * (i // 4) + i % 4] = low
    elif kind == T.IQ2_XS:
        block[2 + 2 * i], block[3 + 2 * i] = low, (block[3 + 2 * i] & 0xFE) | high
    elif kind == T.IQ3_XXS:
        block[2 + i] = low
    else:
        block[2 + i] = low
        at, shift, bits = {T.IQ2_S: (66 + i // 4, 2 * (i % 4), 3), T.IQ3_S: (66 + i // 8, i % 8, 1), T.IQ1_S: (34 + 2 * (i // 4), 3 * (i % 4), 7)}[kind]
        word = (int(block[at]) | int(block[at + 1]) << 8) & ~(bits << shift) | high << shift
        block[at], block[at + 1] = word & 255, word >> 8


def all_points(kind, rng):
    """Blocks with a scale near one that go through the codebook."""
    points, each = POINTS[kind]
    blocks = rng.integers(0, 256, (points // each, SIZES[kind][1]), dtype=np.uint8)
    for i, point in enumerate(rng.permutation(points)):
        put_point(kind, blocks[i // each], i % each, int(point))
    for block in blocks:
        put_half(kind, block, HALVES[kind][0], 0x3D55)
    return blocks


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
    if kind == T.NVFP4:
        every_scale = rng.integers(0, 256, (256, size), dtype=np.uint8)
        for place in range(4):
            every_scale[:, place] = (np.arange(256) + 64 * place) % 256
        return np.concatenate([every_scale, random])
    halves = HALVES[kind]
    plausible = rng.integers(0, 256, (4 if few else 16, size), dtype=np.uint8)
    for at in halves:
        scale = (rng.standard_normal(len(plausible)) * 0.01).astype("<f2")
        for block, bits in zip(plausible, scale.view("<u2")):
            put_half(kind, block, at, int(bits))
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
            put_half(kind, extreme[i], at, bits)
    points = [all_points(kind, rng)] if kind in POINTS else []
    return np.concatenate([plausible, extreme, random, *points])


def ggml_values(library, kind, blocks, count):
    """What the C library makes of the blocks."""
    values = np.empty(count, dtype="<f4")
    function = getattr(ctypes.CDLL(library), "dequantize_row_" + kind.name.lower().replace("_k", "_K"))
    function(blocks.ctypes.data_as(ctypes.c_void_p), values.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(count))
    return values


def vector(kind, library=None):
    rng = np.random.default_rng(1000 + int(kind))
    blocks = blocks_of(kind, rng)
    length, size = SIZES[kind]
    assert blocks.shape[1] == size
    with np.errstate(all="ignore"):
        values = np.ascontiguousarray(quants.dequantize(blocks.reshape(-1), kind), dtype="<f4").reshape(-1).copy()
    assert values.size == len(blocks) * length
    values.view("<u4")[np.isnan(values)] = 0x7FC00000
    if library and length > 1:  # float types have no such function
        theirs = ggml_values(library, kind, blocks, values.size)
        theirs.view("<u4")[np.isnan(theirs)] = 0x7FC00000
        assert np.array_equal(values.view("<u4"), theirs.view("<u4")), f"{kind.name}: gguf and ggml disagree"
    return np.array([len(blocks)], dtype="<u4").tobytes() + blocks.tobytes() + values.tobytes()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--ggml", metavar="LIBRARY")
    arguments = parser.parse_args()
    check = arguments.check
    OUT.mkdir(parents=True, exist_ok=True)
    differing = []
    for kind in SIZES:
        path, data = OUT / f"{kind.name.lower()}.bin", vector(kind, arguments.ggml)
        if not check:
            path.write_bytes(data)
        elif not path.exists() or path.read_bytes() != data:
            differing.append(path.name)
    if differing:
        sys.exit("differ from what gguf computes: " + ", ".join(differing))


if __name__ == "__main__":
    main()
