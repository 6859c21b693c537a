"""Golden values of optim/cached_distillation: losses and gradients of kept tokens, by PyTorch's autograd in float64.

    python make_cached_distillation.py        # writes cached_distillation.json beside this file
"""
import json
import os

import torch

N, V, WIDTH = 5, 23, 4  # tokens, vocabulary (of which 21 count), channels
VALID, TARGETS, WEIGHT = 21, [3, -1, 20, 0, 7], 0.3


def ghost(p, q, ids):
    """KL(p || q) over the kept tokens and one outcome for all others."""
    kept = torch.zeros(VALID, dtype=torch.bool)
    kept[ids] = True
    kl = (p[kept] * (p[kept].log() - q[kept].log())).sum()
    if kept.all():
        return kl
    return kl + p[~kept].sum() * (p[~kept].sum().log() - q[~kept].sum().log())


def renormalised(p, q, ids):
    p, q = p[ids] / p[ids].sum(), q[ids] / q[ids].sum()
    return (p * (p.log() - q.log())).sum()


def sampled(p, q, ids, shares):
    return (shares * -q[ids].log()).sum() + (p * p.log()).sum()


def main():
    generator = torch.Generator().manual_seed(11)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden, head, teacher = draw(N, WIDTH), draw(V, WIDTH), 2 * draw(N, V)
    cases = []
    for kind in ("ghost", "renormalised", "sampled"):
        for kept in (1, 3, 8, VALID):
            for temperature in (1.0, 2.5) if kind != "sampled" else (1.0,):
                for alpha in (0.0, 0.3):
                    x, w = hidden.clone().requires_grad_(), head.clone().requires_grad_()
                    z = x @ w.T
                    loss, rows = torch.zeros((), dtype=torch.float64), []
                    for i, target in enumerate(TARGETS):
                        zs, zt = z[i, :VALID], teacher[i, :VALID]
                        at_one = torch.softmax(zt, 0)
                        if kind == "sampled":
                            draws = torch.multinomial(at_one, kept, replacement=True, generator=generator)
                            ids, counts = torch.unique(draws, return_counts=True)
                            shares = counts.double() / kept
                        else:
                            ids = zt.topk(kept).indices.sort().values
                        rows.append({"ids": ids.tolist(), "shares": shares.tolist() if kind == "sampled" else []})
                        if target < 0:
                            continue
                        p, q = torch.softmax(zt / temperature, 0), torch.softmax(zs / temperature, 0)
                        kl = sampled(p, q, ids, shares) if kind == "sampled" else globals()[kind](p, q, ids)
                        loss = loss + WEIGHT * (-alpha * torch.log_softmax(zs, 0)[target] +
                                                (1 - alpha) * temperature**2 * kl)
                        with torch.no_grad():
                            q1 = torch.softmax(zs, 0)
                            rows[-1]["kl"] = float(sampled(at_one, q1, ids, shares) if kind == "sampled"
                                                   else ghost(at_one, q1, ids))
                            rows[-1]["full_kl"] = float((at_one * (at_one.log() - q1.log())).sum())
                            rows[-1]["teacher_ce"] = float(-at_one[target].log())
                            rows[-1]["ce"] = float(-q1[target].log())
                            rows[-1]["agreement"] = int(at_one.argmax() == q1.argmax())
                    loss.backward()
                    cases.append({"kind": kind, "kept": kept, "temperature": temperature, "alpha": alpha,
                                  "rows": rows, "loss": float(loss.detach()), "hidden_gradient": x.grad.flatten().tolist(),
                                  "head_gradient": w.grad.flatten().tolist()})
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cached_distillation.json")
    with open(path, "w") as file:
        json.dump({"made_by": "optim/make_cached_distillation.py", "torch": torch.__version__, "tokens": N,
                   "vocabulary": V, "valid": VALID, "width": WIDTH, "weight": WEIGHT, "targets": TARGETS,
                   "hidden": hidden.flatten().tolist(), "head": head.flatten().tolist(),
                   "teacher": teacher.flatten().tolist(), "cases": cases}, file)
        file.write("\n")


main()
