#!/usr/bin/env python3
"""Opens a Limbeck checkpoint's index.h5 with h5py and prints every tensor: for developers, not run in CI.

    python3 check_h5py.py CHECKPOINT/step_N

Prints name, dtype, global shape, and the mean of the values, all read through the virtual datasets; fails if a place is NaN
(a rank's file is missing). Tried with h5py 3.16 (HDF5 2.0.0).
"""
import sys
from pathlib import Path

import h5py
import numpy as np


def show(_, dataset):
    if not isinstance(dataset, h5py.Dataset):
        return
    values = dataset.astype("float64")[...] if dataset.dtype.kind == "f" else dataset[...]
    assert not np.isnan(values).any(), f"{dataset.name}: NaN"
    print(dataset.attrs["name"], dataset.attrs["dtype"], list(dataset.attrs["global_shape"]),
          f"mean {values.mean():.6g}" if values.size else "empty", "virtual" if dataset.is_virtual else "plain")


with h5py.File(Path(sys.argv[1]) / "index.h5") as index:
    print({key: index.attrs[key].item() for key in index.attrs})
    index.visititems(show)
