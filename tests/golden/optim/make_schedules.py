"""Golden rates of tests/optim/schedule_test.cpp: transformers' schedules, driven through torch.optim.lr_scheduler.

    python make_schedules.py        # writes schedules.json beside this file
"""
import json
import os

import torch
import transformers
from transformers import optimization

STEPS, WARMUP, DECAY, PEAK, FINAL = 40, 5, 12, 3e-2, 0.15


def rates(make):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = make(optimizer)
    result = []
    for _ in range(STEPS):
        optimizer.step()
        schedule.step()  # rates count steps from 1
        result.append(optimizer.param_groups[0]["lr"])
    return result


def stable(decay_type, final, warmup=WARMUP):
    # transformers' warm-up begins at the final rate, ours at 0: those steps are left out by the test where final > 0.
    return lambda o: optimization.get_wsd_schedule(
        o, num_warmup_steps=warmup, num_decay_steps=DECAY, num_training_steps=STEPS, decay_type=decay_type, min_lr_ratio=final)


golden = {
    "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    "settings": {"steps": STEPS, "warmup": WARMUP, "decay_steps": DECAY, "peak": PEAK, "final": FINAL},
    "linear": rates(lambda o: optimization.get_polynomial_decay_schedule_with_warmup(
        o, WARMUP, STEPS, lr_end=PEAK * FINAL, power=1.0)),
    "linear_to_zero": rates(lambda o: optimization.get_linear_schedule_with_warmup(o, WARMUP, STEPS)),
    "cosine": rates(lambda o: optimization.get_cosine_with_min_lr_schedule_with_warmup(o, WARMUP, STEPS, min_lr_rate=FINAL)),
    "constant": rates(lambda o: optimization.get_constant_schedule_with_warmup(o, WARMUP)),
    "stable": {"LINEAR_DECAY": rates(stable("linear", 0)), "COSINE_DECAY": rates(stable("cosine", 0)),
               "ONE_MINUS_SQRT": rates(stable("1-sqrt", 0))},
    "stable_without_warmup": {"LINEAR_DECAY": rates(stable("linear", FINAL, 0)),
                              "COSINE_DECAY": rates(stable("cosine", FINAL, 0)),
                              "ONE_MINUS_SQRT": rates(stable("1-sqrt", FINAL, 0))},
}
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "schedules.json"), "w") as f:
    json.dump(golden, f)
    f.write("\n")
