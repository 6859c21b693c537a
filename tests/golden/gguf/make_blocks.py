"""Random blocks of the storage formats and their values by the `gguf` package (0.19.0, numpy 2.4.6).

    python make_blocks.py

Writes blocks.gguf beside itself: for each format a tensor `FORMAT` of 6 rows of 64 values, or of 5 rows of 256 where that is a block
(random bytes; scales include, over all formats, zeros, subnormals, the largest halves and infinities, no NaN), and a tensor `FORMAT.values` with the same
dequantised, as F32. `input` is what is stored as F16, BF16 and Q8_0 in `input.FORMAT`. The file also holds a key of every metadata type.
"""
import os

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q

EXTREME = np.array([0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x3C00, 0x0400], dtype=np.uint16)
rng = np.random.default_rng(7)


def halves(count):
    values = rng.standard_normal(count).astype(np.float16).view(np.uint16)
    values[: len(EXTREME)] = EXTREME[:count]
    rng.shuffle(values)
    return values.view(np.uint8).reshape(count, 2)


def small_halves(count):
    return rng.standard_normal(count).astype(np.float16).view(np.uint8).reshape(count, 2)


def some(count, length):
    return rng.integers(0, 256, (count, length), dtype=np.uint8)


# The bytes of a block, in order: S a half that may be extreme, s a half, E an exponent, n random bytes.
LAYOUTS = {Q.Q4_0: "S 16", Q.Q4_1: "S s 16", Q.Q5_0: "S 20", Q.Q5_1: "S s 20", Q.Q8_0: "S 32", Q.Q2_K: "80 S s", Q.Q3_K: "108 S",
           Q.Q4_K: "S s 140", Q.Q5_K: "S s 172", Q.Q6_K: "208 S", Q.IQ4_NL: "S 16", Q.IQ4_XS: "S 134", Q.MXFP4: "E 16"}



def exponents(count):
    """Powers of two of MXFP4: near 1, and the ends; of 253 and 254 some values are infinite, 255 is NaN by the standard."""
    values = rng.integers(110, 140, count).astype(np.uint8)
    values[:5] = [0, 1, 2, 252, 254]
    rng.shuffle(values)
    return values.reshape(count, 1)


def blocks(kind):
    if kind in LAYOUTS:
        n = 12 if gguf.GGML_QUANT_SIZES[kind][0] == 32 else 5
        make = {"S": lambda: halves(n), "s": lambda: small_halves(n), "E": lambda: exponents(n)}
        raw = np.concatenate([make[part]() if part in make else some(n, int(part)) for part in LAYOUTS[kind].split()], axis=1)
        return np.ascontiguousarray(raw.reshape(6 if n == 12 else 5, -1))
    if kind == Q.F16:
        raw = halves(6 * 64)
    elif kind == Q.BF16:
        raw = rng.standard_normal(6 * 64).astype(np.float32).view(np.uint16).reshape(-1, 2)[:, 1].copy().view(np.uint8)
    else:
        raw = rng.standard_normal(6 * 64).astype(np.float32).view(np.uint8)
    return np.ascontiguousarray(raw.reshape(6, -1))


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
    for kind in (Q.F32, Q.F16, Q.BF16, *(k for k in LAYOUTS if k != Q.MXFP4)):
        raw = blocks(kind)
        values = gguf.dequantize(raw, kind).astype(np.float32)
        if kind == Q.F32:
            writer.add_tensor("F32", raw.view(np.float32))
        elif kind == Q.F16:
            writer.add_tensor("F16", raw.view(np.float16))
        else:
            writer.add_tensor(kind.name, raw, raw_dtype=kind)
        writer.add_tensor(f"{kind.name}.values", values)
    scales = np.array([1, 1e-8, 3e4, 1e-40, 0, 1e-4], dtype=np.float32)  # one a row
    stored = rng.standard_normal((6, 64)).astype(np.float32).clip(-2, 2) * scales[:, None]
    stored[0, :32] = np.arange(32) / 2 - 8  # ties of Q8_0 among others
    stored[0, 0] = 127
    writer.add_tensor("input", stored)
    writer.add_tensor("input.F16", stored.astype(np.float16))
    for kind in (Q.BF16, Q.Q8_0):
        writer.add_tensor(f"input.{kind.name}", gguf.quantize(stored, kind), raw_dtype=kind)
    # Last, so that the others stay what they were.
    raw = blocks(Q.MXFP4)
    writer.add_tensor("MXFP4", raw, raw_dtype=Q.MXFP4)
    writer.add_tensor("MXFP4.values", gguf.dequantize(raw, Q.MXFP4).astype(np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
