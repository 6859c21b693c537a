#!/usr/bin/env python3
"""Writes tiny.safetensors with Python's safetensors, for tests/data/models/safetensors_test.cpp.

Made with safetensors 0.8.0 and torch 2.15.0:  python3 make_golden.py
With a file as argument it prints that file as Python reads it, to look at what Limbeck wrote:  python3 make_golden.py FILE
"""
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

if len(sys.argv) == 2:
    for name, tensor in sorted(load_file(sys.argv[1]).items()):
        print(name, tensor.dtype, list(tensor.shape), tensor.flatten()[:8].tolist())
else:
    values = torch.tensor([[0.0, -1.5, 65504.0], [6e-8, 1.0, float("inf")]])  # 6e-8: a subnormal of float16
    save_file(
        {
            "f16": values.half(),
            "bf16": values.bfloat16(),
            "f32": torch.tensor([0.1, -2.0]),
            "f64": torch.tensor([[0.1], [1e300]], dtype=torch.float64),
            "i64": torch.tensor([-1, 2**40]),
            "scalar": torch.tensor(3.5),
            "empty": torch.empty(0, 4),
        },
        Path(__file__).with_name("tiny.safetensors"),
        metadata={"format": "pt"},
    )
