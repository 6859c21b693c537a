"""A token file as Megatron-LM's IndexedDatasetBuilder lays it out, written with numpy alone (2.4.6), in both token types.

    python make_token_file.py

Documents: [3, 1, 4, 0], [], [1, 5, 9, 2, 6, 0], [0]; the third is two sequences (4 and 2 tokens).
"""
import os

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sequences = [[3, 1, 4, 0], [], [1, 5, 9, 2], [6, 0], [0]]
for name, dtype, code in (("narrow", np.uint16, 8), ("wide", np.int32, 4)):
    with open(os.path.join(HERE, name + ".bin"), "wb") as file:
        file.write(np.concatenate([np.array(s, dtype) for s in sequences]).tobytes())
    sizes = np.array([len(s) for s in sequences], np.int32)
    pointers = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64) * np.dtype(dtype).itemsize
    bounds = np.array([0, 1, 2, 4, 5], np.int64)
    with open(os.path.join(HERE, name + ".idx"), "wb") as file:
        file.write(b"MMIDIDX\x00\x00" + np.uint64(1).tobytes() + np.uint8(code).tobytes())
        file.write(np.uint64(len(sizes)).tobytes() + np.uint64(len(bounds)).tobytes())
        file.write(sizes.tobytes() + pointers.tobytes() + bounds.tobytes())
