"""Golden values of tests/optim: 20 steps of torch.optim.AdamW with clipping, rates by transformers' cosine schedule.

    python make_adamw.py        # writes adamw.json beside this file
"""
import json
import os

import torch
import transformers

STEPS, WARMUP, PEAK, FINAL = 20, 4, 3e-2, 0.1
BETAS, EPS, DECAY, CLIP = (0.9, 0.95), 1e-8, 0.1, 4.0
SHAPES = {"a.weight": [3, 5], "b.norm": [7], "c.scale": [1]}
DECAYED = {"a.weight", "c.scale"}


def run(dtype, initial, gradients):
    values = {n: torch.tensor(v, dtype=dtype).requires_grad_() for n, v in initial.items()}
    optimizer = torch.optim.AdamW(
        [{"params": [v], "weight_decay": DECAY if n in DECAYED else 0.0} for n, v in values.items()],
        lr=PEAK, betas=BETAS, eps=EPS)
    schedule = transformers.get_cosine_with_min_lr_schedule_with_warmup(
        optimizer, num_warmup_steps=WARMUP, num_training_steps=STEPS, min_lr_rate=FINAL)
    rates, norms = [], []
    for step in range(STEPS):
        schedule.step()  # rates count steps from 1
        for n, v in values.items():
            v.grad = torch.tensor(gradients[n][step], dtype=dtype)
        grads = [v.grad for v in values.values()]
        norm = torch.nn.utils.get_total_norm(grads)
        for g in grads:
            g.mul_(min(1.0, CLIP / norm.item()))
        rates.append(optimizer.param_groups[0]["lr"])
        norms.append(norm.item())
        optimizer.step()
    state = {n: optimizer.state[v] for n, v in values.items()}
    return {"rates": rates, "norms": norms,
            "values": {n: v.flatten().tolist() for n, v in values.items()},
            "exp_avg": {n: s["exp_avg"].flatten().tolist() for n, s in state.items()},
            "exp_avg_sq": {n: s["exp_avg_sq"].flatten().tolist() for n, s in state.items()}}


torch.manual_seed(1)
initial = {n: torch.randn(s).tolist() for n, s in SHAPES.items()}
gradients = {n: torch.randn([STEPS] + s).tolist() for n, s in SHAPES.items()}
gradients["c.scale"][6] = [0.0]  # a step without a gradient

golden = {
    "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    "settings": {"steps": STEPS, "warmup": WARMUP, "peak": PEAK, "final": FINAL, "beta1": BETAS[0],
                 "beta2": BETAS[1], "eps": EPS, "decay": DECAY, "clip": CLIP},
    "parameters": [{"name": n, "shape": s, "decays": n in DECAYED,
                    "initial": torch.tensor(initial[n]).flatten().tolist(),
                    "gradients": torch.tensor(gradients[n]).reshape(STEPS, -1).tolist()} for n, s in SHAPES.items()],
    "float64": run(torch.float64, initial, gradients),
    "float32": run(torch.float32, initial, gradients),
}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "adamw.json"), "w") as f:
    json.dump(golden, f)
    f.write("\n")
