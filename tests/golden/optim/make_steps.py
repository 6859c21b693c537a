"""Golden values of tests/launch/run/optimizers_test.cpp: ten steps of each optimizer on the tiny models of ../models, whose weights and
batches these files hold. The model is computed in float64 (reference_model.py).

    python make_steps.py        # writes steps.json beside this file

Muon is make_muon.py's, in float64, with torch.optim.AdamW for what is no hidden matrix. Eight-bit state is bitsandbytes' AdamW8bit
on float32 weights, with the map of make_eight_bit.py; norms have torch.optim.AdamW. With bfloat16 weights the passes see
matrices rounded to bfloat16 from float32 master weights, which torch.optim.AdamW or Muon in float32 steps.
"""
import json
import os
import sys

import bitsandbytes as bnb
import bitsandbytes.backends.cpu.ops as bnb_cpu
import h5py
import numpy as np
import torch

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(FOLDER))
from reference_model import forward, loss_terms, read_config, read_tensors  # noqa: E402

STEPS, RATE, DECAY, BETAS, EPS, CLIP, MOMENTUM = 10, 5e-3, 0.1, (0.9, 0.95), 1e-8, 1.0, 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def nearest(x, code, absmax, codes, blocksize):
    """What bitsandbytes' fast CPU kernel approximates (it finds no fraction below 2e-5): its generic path, as on CUDA."""
    found, scales = torch.ops.bitsandbytes.quantize_blockwise(x.double(), code, blocksize)
    codes.copy_(found)
    absmax.copy_(scales)


bnb_cpu._quant_blockwise_fp32_direct = nearest


def orthogonalise(g):
    a, b, c = COEFFICIENTS
    x = g.T if g.shape[0] > g.shape[1] else g
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if g.shape[0] > g.shape[1] else x


class Muon:
    def __init__(self, weights):
        self.weights, self.buffers = weights, [torch.zeros_like(w) for w in weights]

    def step(self):
        for weight, buffer in zip(self.weights, self.buffers):
            buffer.lerp_(weight.grad, 1 - MOMENTUM)
            update = weight.grad.lerp(buffer, MOMENTUM)
            update = torch.stack([orthogonalise(u) for u in update]) if update.dim() == 3 else orthogonalise(update)
            weight.mul_(1 - RATE * DECAY).sub_(update, alpha=RATE * 0.2 * max(update.shape[-2:]) ** 0.5)


class EightBit:
    """bitsandbytes on matrices, every expert of a stack by itself."""

    def __init__(self, matrices):
        self.matrices, self.each = matrices, [list(w) if w.dim() == 3 else [w] for w in matrices]
        self.optimizer = bnb.optim.AdamW8bit(sum(self.each, []), lr=RATE, betas=BETAS, eps=EPS, weight_decay=DECAY, min_8bit_size=1)
        self.optimizer.fill_qmap()
        self.optimizer.name2qmap["dynamic"][0] = -1.0

    def step(self):
        for weight, each in zip(self.matrices, self.each):
            for part, gradient in zip(each, weight.grad if weight.dim() == 3 else [weight.grad]):
                part.grad = gradient.contiguous()
        self.optimizer.step()


def adamw(weights, names):
    groups = [{"params": [w for n, w in zip(names, weights) if w.dim() > 1], "weight_decay": DECAY},
              {"params": [w for w in weights if w.dim() == 1], "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=RATE, betas=BETAS, eps=EPS)


def optimizers(kind, masters):
    def chosen(condition):
        return zip(*[(n, w) for n, w in masters.items() if condition(n, w)])
    if kind == "adamw":
        return [adamw(list(masters.values()), list(masters))]
    if kind == "eight_bit":
        _, matrices = chosen(lambda n, w: w.dim() > 1)
        names, norms = chosen(lambda n, w: w.dim() == 1)
        return [EightBit(matrices), adamw(list(norms), names)]
    _, hidden = chosen(lambda n, w: n.startswith("layers.") and w.dim() > 1)
    names, rest = chosen(lambda n, w: not (n.startswith("layers.") and w.dim() > 1))
    return [Muon(list(hidden)), adamw(list(rest), names)]


def steps(model, kind, dtype, narrow):
    with h5py.File(os.path.join(os.path.dirname(FOLDER), "models", model + ".h5")) as file:
        config = read_config(file.attrs)
        weights = {k: float(file.attrs[k]) for k in ("balance_weight", "z_weight")}
        batch = {k: torch.from_numpy(file[k][()]).long() for k in ("tokens", "targets", "positions", "documents")}
        initial = read_tensors(file, "parameters")

    def seen(w):
        return w.to(torch.bfloat16).double() if narrow and w.dim() > 1 else w.double()

    masters = {n: (seen(w) if narrow else w).to(dtype).clone() for n, w in initial.items()}
    all_optimizers = optimizers(kind, masters)
    losses, norms, gap = [], [], float("inf")
    for _ in range(STEPS):
        parameters = {n: seen(w).clone().requires_grad_() for n, w in masters.items()}
        output = forward(parameters, config, batch["tokens"], batch["positions"], batch["documents"])
        gap = min([gap] + [r.smallest_gap() for r in output.routing])
        terms = loss_terms(parameters, config, output, batch["targets"])
        total = terms["ce"]
        if output.routing:
            total = total + weights["balance_weight"] * terms["balance"] + weights["z_weight"] * terms["z"]
        found = dict(zip(parameters, torch.autograd.grad(total, list(parameters.values()))))
        norm = torch.stack([g.pow(2).sum() for g in found.values()]).sum().sqrt().item()
        losses.append(total.item())
        norms.append(norm)
        for n, w in masters.items():
            w.grad = (found[n] * min(1.0, CLIP / norm)).to(dtype)
        for optimizer in all_optimizers:
            optimizer.step()
    print(f"{model} {kind}{' bfloat16' if narrow else ''}: loss {losses[0]:.6f} -> {losses[-1]:.6f}, routing gap {gap:.1e}")
    return {"model": model + ".h5", "kind": kind, "bfloat16": narrow, "float64": dtype == torch.float64, "losses": losses,
            "grad_norms": norms, "smallest_routing_gap": gap if np.isfinite(gap) else None}


runs = [steps("dense", "muon", torch.float64, False), steps("moe", "muon", torch.float64, False),
        steps("moe_idle_expert", "muon", torch.float64, False),
        steps("dense", "eight_bit", torch.float32, False), steps("moe", "eight_bit", torch.float32, False),
        steps("dense", "adamw", torch.float32, True), steps("moe", "adamw", torch.float32, True),
        steps("dense", "muon", torch.float32, True), steps("dense", "eight_bit", torch.float32, True)]
golden = {"versions": {"torch": torch.__version__, "bitsandbytes": bnb.__version__},
          "settings": {"rate": RATE, "decay": DECAY, "beta1": BETAS[0], "beta2": BETAS[1], "eps": EPS, "clip": CLIP,
                       "momentum": MOMENTUM},
          "runs": runs}
with open(os.path.join(FOLDER, "steps.json"), "w") as f:
    json.dump(golden, f)
    f.write("\n")
