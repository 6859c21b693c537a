"""families/deepseek_v3 and kimi_k2 with their matrices in block-scaled FP8, as the checkpoints of their authors have them.

    /opt/torch/bin/python tests/golden/make_fp8.py

fp8/deepseek_v3/{config.json,model.safetensors}: the projections, in F8_E4M3 with a float32 `weight_scale_inv` for each block of 5 rows and 3
columns (128 and 128 in real ones), of which the last of a row and of a column are cut off. fp8/dequantised.safetensors: each element's value by
its code's bits, in integers and exact fractions, times its block's scale, rounded to float32 once; the other tensors as they are.

fp8/kimi_k2/{config.json,model.safetensors}: likewise, in blocks of 8 and 8, all else bfloat16 but for the bias that experts are chosen by, which
is float32. reference.h5: tokens [1,24], logits [1,24,V] in float32, of transformers' DeepSeek-V3 in float64 on the values that the codes stand for.
"""
import json
import math
import pathlib
import tempfile
from fractions import Fraction

import numpy as np
import torch
import h5py
from safetensors.torch import save_file

from made_weights import first_weights
from make_families import in_double, load_again, write_reference
from reference_transformers import in_float64

HERE = pathlib.Path(__file__).resolve().parent
TARGET = HERE / "fp8"


def is_quantised(name):
    return name.endswith("_proj.weight") or name.endswith("_proj_with_mqa.weight")


def quantise(w, rows, columns):
    """-> codes [R,C] float8, scales [R/rows,C/columns] float32 that map the largest of a block to about 448."""
    scales = torch.zeros(math.ceil(w.shape[0] / rows), math.ceil(w.shape[1] / columns))
    codes = torch.zeros(w.shape, dtype=torch.float8_e4m3fn)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            block = (slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns))
            scales[i, j] = w[block].abs().max() / 448 * (1 + 0.01 * (i + j))
            codes[block] = (w[block] / scales[i, j]).to(torch.float8_e4m3fn)
    return codes, scales


def value_of(code):
    """OCP 8-bit floating point, E4M3: 1 bit of sign, 4 of exponent (bias 7), 3 of fraction."""
    sign, exponent, fraction = code >> 7, code >> 3 & 15, code & 7
    assert (exponent, fraction) != (15, 7)
    size = Fraction(fraction, 8) * Fraction(1, 64) if exponent == 0 else (1 + Fraction(fraction, 8)) * Fraction(2) ** (exponent - 7)
    return -size if sign else size


def dequantised(codes, scales, rows, columns):
    bits, result = codes.view(torch.uint8).numpy(), np.zeros(codes.shape, np.float32)
    for (i, j), code in np.ndenumerate(bits):
        result[i, j] = float(value_of(int(code)) * Fraction(float(scales[i // rows, j // columns])))  # of 28 bits: exact in float64
    return torch.from_numpy(result)


def write(family, block, dtype):
    """The folder, other tensors in `dtype`. -> the values by name."""
    weights = {name: torch.from_numpy(w) for name, w in first_weights(HERE / "families" / family).items()}
    stored, plain = {}, {}
    for name, w in weights.items():
        if is_quantised(name):
            stored[name], stored[f"{name}_scale_inv"] = quantise(w, *block)
            plain[name] = dequantised(stored[name], stored[f"{name}_scale_inv"], *block)
            assert torch.equal(plain[name].sign(), stored[name].float().sign())
        else:
            stored[name] = w if name.endswith("correction_bias") else w.to(dtype)
            plain[name] = w
            assert torch.equal(stored[name].float(), w)
    (TARGET / family).mkdir(parents=True, exist_ok=True)
    save_file(stored, TARGET / family / "model.safetensors", {"format": "pt"})
    (TARGET / family / "model.safetensors").chmod(0o644)
    config = json.loads((HERE / "families" / family / "config.json").read_text())
    config["quantization_config"] = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": block}
    (TARGET / family / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return plain


def write_logits(family, plain):
    with h5py.File(HERE / "families" / family / "reference.h5") as file:
        tokens = torch.from_numpy(file["tokens"][:1])
    with tempfile.TemporaryDirectory() as place:
        save_file(plain, pathlib.Path(place) / "model.safetensors", {"format": "pt"})
        (pathlib.Path(place) / "config.json").write_text((HERE / "families" / family / "config.json").read_text())
        model = load_again(place)
    with in_float64(), torch.no_grad():
        logits = in_double(type(model), model.config, model.state_dict())(tokens, use_cache=False).logits
    write_reference(TARGET / family / "reference.h5", dict(generator="tests/golden/make_fp8.py"),
                    {"tokens": (tokens.numpy(), "i4"), "logits": (logits.numpy(), "f4")})


def main():
    save_file(write("deepseek_v3", [5, 3], torch.float32), TARGET / "dequantised.safetensors", {"format": "pt"})
    (TARGET / "dequantised.safetensors").chmod(0o644)
    write_logits("kimi_k2", write("kimi_k2", [8, 8], torch.bfloat16))


main()
