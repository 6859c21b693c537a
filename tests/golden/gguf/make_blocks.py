"""Random blocks of the storage formats and their values by the `gguf` package (0.19.0, numpy 2.4.6).

    python make_blocks.py

Writes blocks.gguf beside itself: for each format a tensor `FORMAT` of 6 rows of 64 values (random bytes; scales include zeros,
subnormals, the largest halves and infinities, no NaN) and a tensor `FORMAT.values` with the same dequantised, as F32. It also
holds a key of every metadata type.
"""
import os

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q

ROWS, COLUMNS = 6, 64
EXTREME = np.array([0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x3C00, 0x0400], dtype=np.uint16)
rng = np.random.default_rng(7)


def halves(count):
    values = rng.standard_normal(count).astype(np.float16).view(np.uint16)
    values[: len(EXTREME)] = EXTREME[:count]
    rng.shuffle(values)
    return values.view(np.uint8).reshape(count, 2)


def blocks(kind):
    n = ROWS * COLUMNS // 32
    if kind == Q.Q8_0:
        raw = np.concatenate([halves(n), rng.integers(0, 256, (n, 32), dtype=np.uint8)], axis=1)
    elif kind == Q.Q4_1:
        second = rng.standard_normal(n).astype(np.float16).view(np.uint8).reshape(n, 2)
        raw = np.concatenate([halves(n), second, rng.integers(0, 256, (n, 16), dtype=np.uint8)], axis=1)
    elif kind == Q.F16:
        raw = halves(n * 32)
    elif kind == Q.BF16:
        raw = rng.standard_normal(n * 32).astype(np.float32).view(np.uint16).reshape(-1, 2)[:, 1].copy().view(np.uint8)
    else:
        raw = rng.standard_normal(n * 32).astype(np.float32).view(np.uint8)
    return np.ascontiguousarray(raw.reshape(ROWS, -1))


writer = gguf.GGUFWriter(os.path.join(os.path.dirname(os.path.abspath(__file__)), "blocks.gguf"), "test")
for name, value in {"uint8": 200, "int8": -100, "uint16": 60000, "int16": -30000, "uint32": 4000000000, "int32": -2000000000,
                    "uint64": 1 << 62, "int64": -(1 << 62), "float32": 0.5, "float64": 1e300}.items():
    getattr(writer, f"add_{name}")(f"a.{name}", value)
writer.add_bool("a.bool", True)
writer.add_string("a.string", "äöü")
writer.add_array("a.strings", ["x", "", "yz"])
writer.add_array("a.integers", [1, -2, 3])
writer.add_array("a.numbers", [0.5, -1.5])
with np.errstate(all="ignore"):
    for kind in (Q.F32, Q.F16, Q.BF16, Q.Q4_1, Q.Q8_0):
        raw = blocks(kind)
        values = gguf.dequantize(raw, kind).reshape(ROWS, COLUMNS).astype(np.float32)
        if kind == Q.F32:
            writer.add_tensor("F32", raw.view(np.float32).reshape(ROWS, COLUMNS))
        elif kind == Q.F16:
            writer.add_tensor("F16", raw.view(np.float16).reshape(ROWS, COLUMNS))
        else:
            writer.add_tensor(kind.name, raw, raw_dtype=kind)
        writer.add_tensor(f"{kind.name}.values", values)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
