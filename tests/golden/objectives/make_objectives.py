"""Values and gradients of the training objectives on small logits, by PyTorch in float64: tests/golden/objectives/objectives.json.

Each divergence is written by its definition from torch's log_softmax, and the gradients are autograd's. The generalised Jensen-Shannon
divergence of one case is held against TRL's formula (trl.GKDTrainer.generalized_jsd_loss), written with torch's kl_div. The lacking cases are
those of a teacher without some of the student's tokens, one of them a target: cross-entropy is over all, the divergence of what is left.
"""

import json
import os

import torch

torch.set_default_dtype(torch.float64)
TOKENS, COLUMNS, VALID = 5, 13, 11
TARGETS = [3, -1, 10, 0, 7]
WEIGHT = 0.25  # of a token
LACKING = [1, 7]


def kl(log_a, log_b):
    return (log_a.exp() * (log_a - log_b)).sum(-1)


def mixed(share, log_a, log_b):
    """log(share a + (1 - share) b)"""
    return (share * log_a.exp() + (1 - share) * log_b.exp()).log()


DIVERGENCES = {
    "forward_kl": lambda p, q, mix: kl(p, q),
    "reverse_kl": lambda p, q, mix: kl(q, p),
    "jensen_shannon": lambda p, q, mix: mix * kl(p, mixed(mix, p, q)) + (1 - mix) * kl(q, mixed(mix, p, q)),
    "skew_kl": lambda p, q, mix: kl(p, mixed(mix, p, q)),
    "reverse_skew_kl": lambda p, q, mix: kl(q, mixed(mix, q, p)),
    "total_variation": lambda p, q, mix: 0.5 * (p.exp() - q.exp()).abs().sum(-1),
}


def trl_jsd(p, q, mix):
    mixture = torch.logsumexp(torch.stack([q + torch.log(torch.tensor(1 - mix)), p + torch.log(torch.tensor(mix))]), 0)
    to = torch.nn.functional.kl_div
    return (mix * to(mixture, p, reduction="none", log_target=True) + (1 - mix) * to(mixture, q, reduction="none", log_target=True)).sum(-1)


def run(student, teacher, counts, targets, name, alpha, temperature, mix, shared):
    z = student.clone().requires_grad_()
    q = (z[:, shared] / temperature).log_softmax(-1)
    p = (teacher[:, shared] / temperature).log_softmax(-1)
    ce = -z[:, :VALID].log_softmax(-1).gather(1, targets.clamp(min=0)[:, None])[:, 0]
    each = DIVERGENCES[name](p, q, mix)
    if name == "jensen_shannon":
        assert torch.allclose(each, trl_jsd(p, q, mix), rtol=1e-12, atol=1e-14)
    terms = [(WEIGHT * term)[counts].sum() for term in (alpha * ce, (1 - alpha) * temperature**2 * each)]
    parts = [torch.autograd.grad(term, z, retain_graph=True)[0] for term in terms]
    return {"divergence": name, "alpha": alpha, "temperature": temperature, "mix": mix, "loss": sum(terms).item(),
            "gradient": sum(parts).flatten().tolist(), "squares": [part.pow(2).sum().item() for part in parts]}


def figures(student, teacher, counts, targets, shared):
    """What is measured, at temperature 1."""
    q, p = student[:, shared].log_softmax(-1), teacher[:, shared].log_softmax(-1)
    teacher_ce = sum(-p[i, shared.index(t)].item() for i, t in enumerate(targets.tolist()) if t in shared)
    return {"kl": kl(p, q)[counts].sum().item(), "sum_min": torch.minimum(p, q).exp().sum(-1)[counts].sum().item(), "teacher_ce": teacher_ce}


def main():
    generator = torch.Generator().manual_seed(7)
    student = 2 * torch.randn(TOKENS, COLUMNS, generator=generator)
    teacher = 2 * torch.randn(TOKENS, COLUMNS, generator=generator)
    # Padding that would count for everything, a token that is all but certain, and one that is all but impossible.
    student[:, VALID:] = 1e4
    teacher[:, VALID:] = 1e4
    student[0, 3] = 30
    teacher[3, 2] = -60
    targets = torch.tensor(TARGETS)
    counts = targets >= 0
    whole = list(range(VALID))
    shared = [c for c in whole if c not in LACKING]
    cases, lacking_cases = [
        [
            run(student, teacher, counts, targets, name, alpha, temperature, mix, columns)
            for name in DIVERGENCES
            for alpha, temperature, mix in [(0, 1, 0.5), (0.3, 1, 0.1), (0.3, 2.5, 0.7), (1, 2, 0.5)]
        ]
        for columns in (whole, shared)
    ]
    out = {"made_by": f"make_objectives.py, torch {torch.__version__}", "columns": COLUMNS, "valid": VALID, "weight": WEIGHT, "targets": TARGETS,
           "student": student.flatten().tolist(), "teacher": teacher.flatten().tolist(), "cases": cases,
           "lacking": LACKING, "lacking_cases": lacking_cases, "lacking_figures": figures(student, teacher, counts, targets, shared)}
    path = os.path.join(os.path.dirname(__file__), "objectives.json")
    with open(path, "w") as file:
        json.dump(out, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
