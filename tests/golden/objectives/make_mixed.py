"""Distillation from two teachers at once, by PyTorch in float64: tests/golden/objectives/mixed.json.

Hidden states and heads of a student and two teachers of other widths; each token has the teachers' shares of its source. The mixture is the
mean of probabilities at the temperature; loss and gradients of hidden states and head are autograd's.

    python3 tests/golden/objectives/make_mixed.py
"""

import json
import os

import torch

torch.set_default_dtype(torch.float64)
TOKENS, VOCABULARY, VALID, WIDTH = 7, 12, 10, 3
TARGETS = [3, -1, 9, 0, 7, 2, -1]
WEIGHT = 0.125  # of a token
SHARES = [[0.25, 0.25, 1, 1, 0, 0, 0.25], [0.75, 0.75, 0, 0, 1, 1, 0.75]]


def divergence(name, p, q):
    kl = lambda a, b: (a.exp() * (a - b)).sum(-1)
    if name == "forward_kl":
        return kl(p, q)
    if name == "reverse_kl":
        return kl(q, p)
    middle = (0.5 * p.exp() + 0.5 * q.exp()).log()
    return 0.5 * kl(p, middle) + 0.5 * kl(q, middle)


torch.manual_seed(3)
hidden, head = torch.randn(TOKENS, WIDTH), torch.randn(VOCABULARY, WIDTH)
teachers = [(torch.randn(TOKENS, width), torch.randn(VOCABULARY, width)) for width in (4, 5)]
targets = torch.tensor(TARGETS)
counts = targets >= 0
cases = []
for name, alpha, temperature in (("forward_kl", 0.0, 1.0), ("forward_kl", 0.3, 2.5), ("reverse_kl", 0.1, 1.5), ("jensen_shannon", 0.0, 0.7)):
    x, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
    z = (x @ w.T)[:, :VALID]
    p = sum(torch.tensor(share)[:, None] * ((h @ t.T)[:, :VALID] / temperature).softmax(-1) for share, (h, t) in zip(SHARES, teachers)).log()
    ce = -z.log_softmax(-1).gather(1, targets.clamp(min=0)[:, None])[:, 0]
    each = alpha * ce + (1 - alpha) * temperature**2 * divergence(name, p, (z / temperature).log_softmax(-1))
    loss = (WEIGHT * each)[counts].sum()
    loss.backward()
    teacher_ce = -(temperature * p).log_softmax(-1).gather(1, targets.clamp(min=0)[:, None])[:, 0]
    cases.append({"divergence": name, "alpha": alpha, "temperature": temperature, "loss": loss.item(),
                  "teacher_ce": teacher_ce[counts].sum().item(), "hidden_gradient": x.grad.flatten().tolist(),
                  "head_gradient": w.grad.flatten().tolist()})

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "mixed.json"), "w") as out:
    json.dump({"torch": torch.__version__, "valid": VALID, "weight": WEIGHT, "targets": TARGETS, "shares": SHARES,
               "hidden": hidden.flatten().tolist(), "head": head.flatten().tolist(),
               "teachers": [{"width": h.shape[1], "hidden": h.flatten().tolist(), "head": t.flatten().tolist()} for h, t in teachers],
               "cases": cases}, out)
