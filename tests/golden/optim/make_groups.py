"""Golden values of tests/optim/groups_test.cpp: torch.optim.AdamW with parameter groups of their own rate and decay, under
transformers' warm-up, stable, decay schedule, in float64.

    python make_groups.py        # writes groups.json beside this file
"""
import json
import os

import torch
import transformers

STEPS, WARMUP, DECAY_STEPS, PEAK = 12, 2, 4, 2e-2
BETAS, EPS, DECAY = (0.9, 0.95), 1e-8, 0.1
# name: (shape, factor of the rate, decay; None: frozen)
PARAMETERS = {
    "embed.weight": ([3, 2], 1.0, None),
    "layers.0.attention_norm.weight": ([2], 1.0, 0.0),
    "layers.0.attention.q.weight": ([2, 2], 0.5, DECAY),
    "layers.0.moe.router.weight": ([2, 2], 0.1, 0.3),
    "layers.1.attention.q.weight": ([2, 2], 0.5, DECAY),
    "layers.1.moe.router.weight": ([2, 2], 2.0, 0.0),
    "head.weight": ([3, 2], 1.0, DECAY),
}

torch.manual_seed(7)
values = {n: torch.randn(shape, dtype=torch.float64).requires_grad_() for n, (shape, _, _) in PARAMETERS.items()}
initial = {n: v.flatten().tolist() for n, v in values.items()}
gradients = {n: torch.randn([STEPS] + shape, dtype=torch.float64) for n, (shape, _, _) in PARAMETERS.items()}
optimizer = torch.optim.AdamW(
    [{"params": [values[n]], "lr": PEAK * factor, "weight_decay": decay}
     for n, (_, factor, decay) in PARAMETERS.items() if decay is not None], betas=BETAS, eps=EPS)
schedule = transformers.get_wsd_schedule(optimizer, num_warmup_steps=WARMUP, num_decay_steps=DECAY_STEPS,
                                         num_training_steps=STEPS, decay_type="linear")
for step in range(STEPS):
    schedule.step()  # rates count steps from 1
    for n, v in values.items():
        if PARAMETERS[n][2] is not None:
            v.grad = gradients[n][step].clone()
    optimizer.step()

golden = {
    "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    "settings": {"steps": STEPS, "warmup": WARMUP, "decay_steps": DECAY_STEPS, "peak": PEAK, "beta1": BETAS[0],
                 "beta2": BETAS[1], "eps": EPS, "decay": DECAY},
    "parameters": [{"name": n, "shape": shape, "initial": initial[n], "final": values[n].flatten().tolist(),
                    "gradients": gradients[n].reshape(STEPS, -1).tolist()} for n, (shape, _, _) in PARAMETERS.items()],
}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "groups.json"), "w") as f:
    json.dump(golden, f)
    f.write("\n")
