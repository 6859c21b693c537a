"""Token files written by Megatron-LM's own IndexedDatasetBuilder (megatron-core 0.16.1, numpy 2.4.6), in token types and with
parts that make_token_file.py does not have.

    pip install --no-deps megatron-core==0.16.1        # beside torch
    python make_megatron.py

The documents are those of make_token_file.py; the third is two sequences. _modes has the modes of a multimodal file, all of
them text; in _image sequence 2 is an image.
"""
import os

import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import IndexedDataset, IndexedDatasetBuilder

HERE = os.path.dirname(os.path.abspath(__file__))
documents = [[[3, 1, 4, 0]], [[]], [[1, 5, 9, 2], [6, 0]], [[0]]]
for name, dtype, modes in (
    ("uint8", np.uint8, None),
    ("int64", np.int64, None),
    ("modes", np.int32, [0, 0, 0, 0, 0]),
    ("image", np.int32, [0, 0, 1, 0, 0]),
):
    prefix = os.path.join(HERE, "megatron_" + name)
    builder = IndexedDatasetBuilder(prefix + ".bin", dtype=dtype, multimodal=modes is not None)
    for document in documents:
        for sequence in document:
            mode = modes[len(builder.sequence_lengths)] if modes else 0
            builder.add_item(torch.tensor(sequence, dtype=torch.int64), mode)
        builder.end_document()
    builder.finalize(prefix + ".idx")
    back = IndexedDataset(prefix, multimodal=modes is not None)
    read = [x[0] if modes else x for x in (back[i] for i in range(len(back)))]
    assert [list(x) for x in read] == [s for d in documents for s in d]
