"""Golden values of the 8-bit optimizer state (tests/kernels/block8_test.cpp, tests/optim/eight_bit_test.cpp), by bitsandbytes
on the CPU: its dynamic maps, its codes of some values, and ten steps of its AdamW8bit. The lowest fraction of the
signed map is -1 here (bitsandbytes: -0.993; kernels/block8.h says why), which its functions take as a map of the caller's.

    python make_eight_bit.py        # writes eight_bit.json beside this file
"""
import json
import os

import bitsandbytes as bnb
import bitsandbytes.backends.cpu.ops as bnb_cpu
import torch
from bitsandbytes import functional

STEPS, RATE, DECAY, BETAS, EPS = 10, 1e-2, 0.1, (0.9, 0.95), 1e-8
SHAPE = (3, 111)  # 333 elements: a block and a short one


def nearest(x, code, absmax, codes, blocksize):
    """What bitsandbytes' fast CPU kernel approximates (it finds no fraction below 2e-5): its generic path, as on CUDA."""
    found, scales = torch.ops.bitsandbytes.quantize_blockwise(x.double(), code, blocksize)
    codes.copy_(found)
    absmax.copy_(scales)


bnb_cpu._quant_blockwise_fp32_direct = nearest


def maps():
    signed, unsigned = functional.create_dynamic_map(signed=True), functional.create_dynamic_map(signed=False)
    assert abs(signed[0].item() + 0.99296875) < 1e-6
    signed[0] = -1.0
    return signed, unsigned


def short(x):
    """Numbers of four digits, so that their text is short."""
    return torch.tensor([float(f"{v:.3e}") for v in x.flatten().tolist()]).reshape(x.shape)


torch.manual_seed(11)
signed, unsigned = maps()
values = short(torch.randn(600) * torch.logspace(-4, 2, 600)[torch.randperm(600)])
squares = short(values.square())
coded = {}
for name, x, code in (("signed", values, signed), ("unsigned", squares, unsigned)):
    codes, scales = torch.ops.bitsandbytes.quantize_blockwise(x.double(), code, 256)
    coded[name] = {"values": x.tolist(), "codes": codes.tolist(), "scales": scales.tolist(),
                   "decoded": functional.dequantize_blockwise(codes, absmax=scales, code=code, blocksize=256).tolist()}

weight = torch.nn.Parameter(torch.randn(SHAPE))
initial = weight.detach().flatten().tolist()
gradients = short(torch.randn(STEPS, *SHAPE) * torch.logspace(-3, 0, SHAPE[1]))
optimizer = bnb.optim.AdamW8bit([weight], lr=RATE, betas=BETAS, eps=EPS, weight_decay=DECAY, min_8bit_size=1)
optimizer.fill_qmap()
optimizer.name2qmap["dynamic"], optimizer.name2qmap["udynamic"] = signed.clone(), unsigned.clone()
trail = []
for step in range(STEPS):
    weight.grad = gradients[step].clone()
    optimizer.step()
    trail.append(weight.detach().flatten().tolist() if step in (0, STEPS - 1) else None)
state = optimizer.state[weight]
assert state["state1"].dtype == torch.uint8 and torch.equal(state["qmap1"], signed)
golden = {
    "versions": {"bitsandbytes": bnb.__version__, "torch": torch.__version__},
    "settings": {"steps": STEPS, "rate": RATE, "decay": DECAY, "beta1": BETAS[0], "beta2": BETAS[1], "eps": EPS},
    "maps": {"signed": signed.tolist(), "unsigned": unsigned.tolist()},
    "coded": coded,
    "parameter": {"shape": list(SHAPE), "initial": initial, "gradients": gradients.reshape(STEPS, -1).tolist(), "values": trail,
                  "exp_avg": functional.dequantize_blockwise(state["state1"], absmax=state["absmax1"], code=state["qmap1"], blocksize=256).flatten().tolist(),
                  "exp_avg_sq": functional.dequantize_blockwise(state["state2"], absmax=state["absmax2"], code=state["qmap2"], blocksize=256).flatten().tolist()},
}


def rounded(x):
    """Float32 in nine digits: the same numbers, a third of the text."""
    if isinstance(x, float):
        return float(f"{x:.9g}")
    return {k: rounded(v) for k, v in x.items()} if isinstance(x, dict) else [rounded(v) for v in x] if isinstance(x, list) else x


with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "eight_bit.json"), "w") as f:
    json.dump(rounded(golden), f)
    f.write("\n")
