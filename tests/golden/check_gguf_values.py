"""Compares a quantised GGUF file as Limbeck reads it with PyPI's `gguf`, whole matrices bit by bit.

    limbeck convert MODEL.gguf VALUES.gguf --dtype float32
    python tests/golden/check_gguf_values.py MODEL.gguf VALUES.gguf                      (PyPI: gguf numpy)

MODEL.gguf may be the first of several parts. Prints the tensors of each format; exit 1 at the first that differs.
"""
import glob
import re
import sys

import gguf
import numpy as np


def same_bits(model, values):
    """How many tensors of each format were compared; exits at one that differs."""
    parts = sorted(glob.glob(re.sub(r"-\d{5}-of-", "-?????-of-", glob.escape(str(model)))))
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(values).tensors}
    counts = {}
    for part in parts:
        for tensor in gguf.GGUFReader(part).tensors:
            expected = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            got = found.pop(tensor.name).data
            if got.shape != expected.shape or not np.array_equal(got.view(np.uint32), expected.view(np.uint32)):
                sys.exit(f"{tensor.name} ({tensor.tensor_type.name}, {list(expected.shape)}) differs")
            counts[tensor.tensor_type.name] = counts.get(tensor.tensor_type.name, 0) + 1
    if found:
        sys.exit(f"{values}: has tensors that {model} lacks: {', '.join(found)}")
    return counts


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    print(f"the same bits: {same_bits(sys.argv[1], sys.argv[2])}")
