"""Golden values of tests/core/mamba_test.cpp: the parts of transformers' Mamba2Mixer in float64, one behind the other as there, with the
gradients that PyTorch finds.

    python3 make_mamba.py      # writes mamba.json beside this file; needs torch and transformers
"""
import json
import os

import torch
import transformers
from transformers.models.mamba2 import modeling_mamba2 as mamba2

# The reference computes in float32 where it says so.
torch.Tensor.float = torch.Tensor.double
torch.float32 = torch.float64
torch.set_default_dtype(torch.float64)
torch.manual_seed(7)

TOKENS, HEADS, WIDTH, GROUPS, STATE, TAPS, CHUNK, EPS = 66, 4, 1, 2, 2, 4, 16, 1e-5
LIMIT = (0.2, 1.5)  # some steps are beyond
inner, outer = HEADS * WIDTH, GROUPS * STATE
channels = inner + 2 * outer


def rounded(*shape, scale=1.0):
    """Numbers of few digits."""
    return (torch.randn(*shape) * scale * 256).round() / 256


values = {
    "x": rounded(TOKENS, channels), "weight": rounded(channels, TAPS, scale=0.5), "bias": rounded(channels),
    "dt": rounded(TOKENS, HEADS), "dt_bias": rounded(HEADS), "a_log": rounded(HEADS, scale=0.5), "skip": rounded(HEADS),
    "z": rounded(TOKENS, inner), "norm": rounded(inner), "upstream": rounded(TOKENS, inner),
}
v = {name: value.clone().requires_grad_(name != "upstream") for name, value in values.items()}

convolved = mamba2.causal_conv1d_fn(v["x"].T[None], v["weight"], v["bias"], activation="silu")[0].T
x, b, c = convolved.split([inner, outer, outer], dim=-1)
scanned, state = mamba2.mamba2_chunk_scan(
    x.reshape(1, TOKENS, HEADS, WIDTH), v["dt"][None], -torch.exp(v["a_log"]), b.reshape(1, TOKENS, GROUPS, STATE),
    c.reshape(1, TOKENS, GROUPS, STATE), chunk_size=CHUNK, D=v["skip"], dt_bias=v["dt_bias"], dt_softplus=True, dt_limit=LIMIT,
    return_final_states=True)
scanned = scanned.reshape(TOKENS, inner)
norm = mamba2.MambaRMSNormGated(inner, group_size=inner // GROUPS, eps=EPS)
norm.weight = torch.nn.Parameter(values["norm"])
normed = norm(scanned, v["z"])
assert normed.dtype == state.dtype == torch.float64
(normed * v["upstream"]).sum().backward()
v["norm"].grad = norm.weight.grad


def numbers(t):
    return [float(f"{n:.15g}") for n in t.detach().reshape(-1).tolist()]


golden = {"made_by": f"make_mamba.py, torch {torch.__version__}, transformers {transformers.__version__}"}
golden |= {name: numbers(value) for name, value in values.items()}
golden |= {"convolved": numbers(convolved), "scanned": numbers(scanned), "normed": numbers(normed), "state": numbers(state)}
golden |= {"d_" + name: numbers(value.grad) for name, value in v.items() if name != "upstream"}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "mamba.json"), "w") as file:
    file.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(g)}" for k, g in golden.items()) + "\n}\n")
