"""The tiny models that the scripts of this folder and of ../starts write of: shapes, weights, batches, and losses of a pass.

Weights are multiples of 1/256, so float32 holds them exactly.
"""
import pathlib
import sys
from dataclasses import replace

import torch

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
from reference_model import Config, forward, loss_terms, write_array  # noqa: E402

SCRIPT = "models/make_models.py"
DENSE = Config(vocabulary=97, width=24, num_layers=2, num_heads=4, num_kv_heads=2, head_width=6, mlp_width=40)
UNEVEN = replace(DENSE, vocabulary=257, width=18, num_layers=1, num_heads=6, num_kv_heads=3, head_width=4, mlp_width=13,
                 tied_head=True)  # nothing that two ranks halve
MOE = replace(DENSE, mlp_width=0, num_experts=8, experts_per_token=2, expert_width=20, tied_head=True)
OPTIONS = replace(MOE, mlp_width=12, num_experts=4, expert_width=8, leading_dense=1, shared_width=10, capacity_factor=0.8, jitter=0.1,
                  seed=5)
GLOBAL = replace(MOE, num_layers=1, num_experts=4, expert_width=8, global_balance=True)
CHOICE = replace(MOE, expert_width=8, renormalise=False, capacity_factor=0.8, jitter=0.1, seed=7, expert_choice=True)
STUDENT = replace(MOE, num_layers=1)
JUDGE = replace(MOE, num_experts=4, expert_width=12)
TEACHER = replace(DENSE, width=16, num_layers=1, num_heads=2, num_kv_heads=1, head_width=8, mlp_width=28, tied_head=True)
BALANCE, Z = 0.01, 1e-3
SMALLEST_GAP = 2e-4  # of router logits, also during the AdamW steps: float32 must not flip a choice


def random_parameters(config, seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, scale):
        values = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
        return (values * 256).round() / 256

    def linear(rows, columns):
        return draw(rows, columns, scale=columns ** -0.5)

    c, e = config.width, config.num_experts
    parameters = {"embed.weight": draw(config.vocabulary, c, scale=1.0 if not config.tied_head else 0.3)}
    for layer in range(config.num_layers):
        p = f"layers.{layer}."
        parameters[p + "attention_norm.weight"] = 1 + draw(c, scale=0.2)
        for name, heads in (("q", config.num_heads), ("k", config.num_kv_heads), ("v", config.num_kv_heads)):
            parameters[f"{p}attention.{name}.weight"] = linear(heads * config.head_width, c)
        parameters[p + "attention.o.weight"] = linear(c, config.num_heads * config.head_width)
        parameters[p + "mlp_norm.weight"] = 1 + draw(c, scale=0.2)
        if e and layer >= config.leading_dense:
            f = config.expert_width
            parameters[p + "moe.router.weight"] = draw(e, c, scale=2 * c ** -0.5)
            parameters[p + "moe.experts.gate"] = draw(e, f, c, scale=c ** -0.5)
            parameters[p + "moe.experts.up"] = draw(e, f, c, scale=c ** -0.5)
            parameters[p + "moe.experts.down"] = draw(e, c, f, scale=f ** -0.5)
            f, p = config.shared_width, p + "moe.shared."
        else:
            f, p = config.mlp_width, p + "mlp."
        if f:
            parameters[p + "gate.weight"] = linear(f, c)
            parameters[p + "up.weight"] = linear(f, c)
            parameters[p + "down.weight"] = linear(c, f)
    parameters["norm.weight"] = 1 + draw(c, scale=0.2)
    if not config.tied_head:
        parameters["head.weight"] = linear(config.vocabulary, c)
    return parameters


def make_batch(config, seed):
    """3 packed sequences of 17 tokens; documents of many lengths, one of a single token; a row that is one document."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, config.vocabulary, (3, 17), generator=generator)
    lengths = [[5, 1, 11], [17], [8, 9]]
    positions = torch.tensor([[i for length in row for i in range(length)] for row in lengths])
    documents, number = torch.empty_like(tokens), 0
    for row, parts in enumerate(lengths):
        start = 0
        for length in parts:
            documents[row, start:start + length] = number
            start, number = start + length, number + 1
    targets = tokens.roll(-1, dims=1)
    targets[:, -1] = torch.randint(0, config.vocabulary, (3,), generator=generator)
    targets[documents != documents.roll(-1, dims=1)] = -1  # the last of a document does not predict the next document
    targets[:, -1] = torch.where(torch.tensor([True, False, True]), targets[:, -1].abs(), -1)
    targets[1, 3:6] = -1
    sequences = torch.arange(3)[:, None].expand(3, 17)
    return {"tokens": tokens, "targets": targets, "positions": positions, "documents": documents, "sequences": sequences}


def run(parameters, config, batch, balance_weight, z_weight):
    output = forward(parameters, config, batch["tokens"], batch["positions"], batch["documents"])
    terms = loss_terms(parameters, config, output, batch["targets"])
    terms["total"] = terms["ce"] + balance_weight * terms["balance"] + z_weight * terms["z"]
    return output, terms


def gradients(parameters, loss):
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values()))))


def trainable(parameters):
    return {name: weight.clone().requires_grad_() for name, weight in parameters.items()}


def write_batch(file, batch):
    for name, values in batch.items():
        write_array(file, name, values.numpy())
