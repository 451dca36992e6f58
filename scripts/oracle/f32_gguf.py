#!/usr/bin/env python3
"""Copy a GGUF with every tensor decoded to F32: what another engine computes from it has the weights of the original and none of the rounding of activations.

    pip install gguf numpy
    python scripts/oracle/f32_gguf.py MODEL.gguf MODEL-f32.gguf
"""
import sys

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize

source, out = sys.argv[1:]
reader = GGUFReader(source)
architecture = reader.fields["general.architecture"].contents()
writer = GGUFWriter(out, architecture)
for field in reader.fields.values():
    # The writer has its own of these.
    if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"):
        continue
    kind = field.types[0]
    inner = field.types[1] if kind == GGUFValueType.ARRAY else None
    writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
writer.add_file_type(0)
for tensor in reader.tensors:
    shape = [int(n) for n in reversed(tensor.shape)]
    writer.add_tensor(tensor.name, np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), np.float32).reshape(shape))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
