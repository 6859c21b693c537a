"""families/deepseek_v3 with its matrices in block-scaled FP8, as DeepSeek-V3's own checkpoint has them, and what they stand for.

    /opt/torch/bin/python tests/golden/make_fp8.py

fp8/deepseek_v3/{config.json,model.safetensors}: the projections, in F8_E4M3 with a float32 `weight_scale_inv` for each block of 5 rows and 3
columns (128 and 128 in real ones), of which the last of a row and of a column are cut off. fp8/dequantised.safetensors: each element's value by
its code's bits, in integers and exact fractions, times its block's scale, rounded to float32 once; the other tensors as they are.
"""
import json
import math
import pathlib
from fractions import Fraction

import numpy as np
import torch
from safetensors.torch import save_file

from made_weights import first_weights

HERE = pathlib.Path(__file__).resolve().parent
SOURCE, TARGET = HERE / "families" / "deepseek_v3", HERE / "fp8"
ROWS, COLUMNS = 5, 3


def is_quantised(name):
    return name.endswith("_proj.weight") or name.endswith("_proj_with_mqa.weight")


def quantise(w):
    """-> codes [R,C] float8, scales [R/5,C/3] float32 that map the largest of a block to about 448."""
    scales = torch.zeros(math.ceil(w.shape[0] / ROWS), math.ceil(w.shape[1] / COLUMNS))
    codes = torch.zeros(w.shape, dtype=torch.float8_e4m3fn)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            block = (slice(i * ROWS, (i + 1) * ROWS), slice(j * COLUMNS, (j + 1) * COLUMNS))
            scales[i, j] = w[block].abs().max() / 448 * (1 + 0.01 * (i + j))
            codes[block] = (w[block] / scales[i, j]).to(torch.float8_e4m3fn)
    return codes, scales


def value_of(code):
    """OCP 8-bit floating point, E4M3: 1 bit of sign, 4 of exponent (bias 7), 3 of fraction."""
    sign, exponent, fraction = code >> 7, code >> 3 & 15, code & 7
    assert (exponent, fraction) != (15, 7)
    size = Fraction(fraction, 8) * Fraction(1, 64) if exponent == 0 else (1 + Fraction(fraction, 8)) * Fraction(2) ** (exponent - 7)
    return -size if sign else size


def dequantised(codes, scales):
    bits, result = codes.view(torch.uint8).numpy(), np.zeros(codes.shape, np.float32)
    for (i, j), code in np.ndenumerate(bits):
        result[i, j] = float(value_of(int(code)) * Fraction(float(scales[i // ROWS, j // COLUMNS])))  # of 28 bits: exact in float64
    return torch.from_numpy(result)


def main():
    weights = {name: torch.from_numpy(w) for name, w in first_weights(SOURCE).items()}
    stored, plain = {}, {}
    for name, w in weights.items():
        if is_quantised(name):
            stored[name], stored[f"{name}_scale_inv"] = quantise(w)
            plain[name] = dequantised(stored[name], stored[f"{name}_scale_inv"])
            assert torch.equal(plain[name].sign(), stored[name].float().sign())
        else:
            stored[name] = plain[name] = w
    (TARGET / "deepseek_v3").mkdir(parents=True, exist_ok=True)
    save_file(stored, TARGET / "deepseek_v3" / "model.safetensors", {"format": "pt"})
    save_file(plain, TARGET / "dequantised.safetensors", {"format": "pt"})
    config = json.loads((SOURCE / "config.json").read_text())
    config["quantization_config"] = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [ROWS, COLUMNS]}
    (TARGET / "deepseek_v3" / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


main()
