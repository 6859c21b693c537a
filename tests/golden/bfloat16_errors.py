"""Prints how far the lengths of parameters' gradients are off from float64's where products are of bfloat16.

    python tests/golden/bfloat16_errors.py          (PyPI: torch h5py; half a minute)

Of models with experts, of few channels and tokens and of more, with several draws of the weights: what is off most under
PyTorch's autocast; with all roundings of docs/architecture.md, "What is of which type", in front of the head; with all but
one; and with each alone. The bounds of tests/launch/run/bfloat16_test.cpp are taken from it.
"""
import contextlib
import math
from dataclasses import replace

import torch

from reference_model import Config, Output, Routing, loss_terms, rms_norm, rope

SMALL = Config(vocabulary=97, width=24, num_layers=2, num_heads=4, num_kv_heads=2, head_width=6, num_experts=8,
               experts_per_token=2, expert_width=20, tied_head=True)
WIDE = replace(SMALL, width=64, head_width=16, expert_width=64)
DRAWS = 8
BALANCE, Z = 0.01, 1e-3
# Values that are rounded where they are made, and whose gradients are where those are complete.
ACTIVATIONS = ["norm", "projection", "rope", "attended", "branch", "rows", "gate and up", "hidden", "routed"]
ROUNDINGS = [*ACTIVATIONS, "weights", "delta of rounded output"]


def rounded(x):
    return x.bfloat16().to(x.dtype)


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, value, gradient):
        ctx.gradient = gradient
        return rounded(x) if value else x.clone()

    @staticmethod
    def backward(ctx, g):
        return rounded(g) if ctx.gradient else g, None, None


class Attention(torch.autograd.Function):
    """softmax(q k^T / sqrt(D)) v; the backward's sums of dout * out are of the exact output or of the rounded one."""

    @staticmethod
    def forward(ctx, q, k, v, allowed, of_rounded):
        scores = torch.einsum("bqgrd,bkgd->bgrqk", q, k) / math.sqrt(q.shape[-1])
        p = scores.masked_fill(~allowed, -math.inf).softmax(-1)
        out = torch.einsum("bgrqk,bkgd->bqgrd", p, v)
        ctx.save_for_backward(q, k, v, p, rounded(out) if of_rounded else out)
        return out

    @staticmethod
    def backward(ctx, dout):
        q, k, v, p, out = ctx.saved_tensors
        delta = torch.einsum("bqgrd,bqgrd->bgrq", dout, out)[..., None]
        dscores = p * (torch.einsum("bqgrd,bkgd->bgrqk", dout, v) - delta) / math.sqrt(q.shape[-1])
        return (torch.einsum("bgrqk,bkgd->bqgrd", dscores, k), torch.einsum("bgrqk,bqgrd->bkgd", dscores, q),
                torch.einsum("bgrqk,bqgrd->bkgd", p, dout), None, None)


def draw(config, seed):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * shape[-1] ** -0.5

    c, e, f, d = config.width, config.num_experts, config.expert_width, config.head_width
    parameters = {"embed.weight": normal(config.vocabulary, c), "norm.weight": 1 + normal(c)}
    for i in range(config.num_layers):
        p = f"layers.{i}."
        parameters |= {p + "attention_norm.weight": 1 + normal(c), p + "mlp_norm.weight": 1 + normal(c),
                       p + "attention.q.weight": normal(config.num_heads * d, c),
                       p + "attention.k.weight": normal(config.num_kv_heads * d, c),
                       p + "attention.v.weight": normal(config.num_kv_heads * d, c),
                       p + "attention.o.weight": normal(c, config.num_heads * d),
                       p + "moe.router.weight": 2 * normal(e, c), p + "moe.experts.gate": normal(e, f, c),
                       p + "moe.experts.up": normal(e, f, c), p + "moe.experts.down": normal(e, c, f)}
    return parameters


def forward(parameters, config, tokens, choices, roundings):
    """`choices`: the experts of each layer; appended to where it has none yet."""
    def at(name, x):
        return Round.apply(x, name in roundings, name in roundings)

    def weight(name):
        return Round.apply(parameters[name], "weights" in roundings, False)

    batch, length = tokens.shape
    heads, groups, width = config.num_heads, config.num_kv_heads, config.head_width
    positions = torch.arange(length).expand(batch, length)
    allowed = torch.ones(length, length, dtype=torch.bool).tril()
    x, routing = parameters["embed.weight"][tokens], []
    for i in range(config.num_layers):
        p = f"layers.{i}."
        normed = at("norm", rms_norm(x, parameters[p + "attention_norm.weight"], config.norm_eps))
        q, k, v = (at("projection", normed @ weight(f"{p}attention.{name}.weight").T).view(batch, length, -1, width)
                   for name in "qkv")
        q, k = (at("rope", rope(y, positions, config.rope_base).to(y.dtype)) for y in (q, k))
        out = Attention.apply(q.view(batch, length, groups, heads // groups, width), k, v, allowed,
                              "delta of rounded output" in roundings)
        out = at("attended", out.reshape(batch, length, heads * width))
        x = x + at("branch", out @ weight(p + "attention.o.weight").T)
        normed = at("norm", rms_norm(x, parameters[p + "mlp_norm.weight"], config.norm_eps))
        with torch.autocast("cpu", enabled=False):
            logits = normed @ parameters[p + "moe.router.weight"].T
        if i == len(choices):
            choices.append(logits.topk(config.experts_per_token).indices)
        chosen = logits.softmax(-1).gather(-1, choices[i])
        spread = torch.zeros_like(logits).scatter(-1, choices[i], chosen / chosen.sum(-1, keepdim=True))
        rows = at("rows", normed)
        gate, up = (at("gate and up", torch.einsum("bsc,efc->bsef", rows, weight(p + "moe.experts." + name)))
                    for name in ("gate", "up"))
        hidden = at("hidden", torch.nn.functional.silu(gate) * up)
        y = at("branch", torch.einsum("bsef,ecf->bsec", hidden, weight(p + "moe.experts.down")))
        x = x + at("routed", (y * spread[..., None]).sum(2))
        routing.append(Routing(logits, choices[i], None))
    return Output([], at("norm", rms_norm(x, parameters["norm.weight"], config.norm_eps)), routing)


def gradients(parameters, config, tokens, choices, roundings=(), autocast=False):
    dtype = torch.float32 if autocast else torch.float64
    parameters = {name: value.to(dtype).requires_grad_() for name, value in parameters.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else contextlib.nullcontext():
        output = forward(parameters, config, tokens, choices, roundings)
        terms = loss_terms(parameters, config, output, tokens.roll(-1, dims=1))
    loss = terms["ce"] + BALANCE * terms["balance"] + Z * terms["z"]
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values()))))


def errors(config, sequences, length):
    """[draw] of every way to round: the parameter that is off most, in per cent."""
    ways = {"PyTorch's autocast": None, "all": ROUNDINGS,
            **{f"all but {name}": [r for r in ROUNDINGS if r != name] for name in ROUNDINGS},
            **{f"{name} alone": [name] for name in ROUNDINGS}}
    found = {way: [] for way in ways}
    for seed in range(DRAWS):
        parameters = draw(config, seed)
        tokens = torch.randint(0, config.vocabulary, (sequences, length), generator=torch.Generator().manual_seed(seed))
        choices = []
        exact = gradients(parameters, config, tokens, choices)
        for way, roundings in ways.items():
            g = gradients(parameters, config, tokens, choices, roundings or (), autocast=roundings is None)
            found[way].append(max(abs(g[name].double().norm() / exact[name].norm() - 1).item() * 100 for name in exact))
    return found


for config, sequences, length in ((SMALL, 3, 17), (WIDE, 4, 64)):
    print(f"{config.width} channels, {sequences * length} tokens, {DRAWS} draws: mean and largest of the worst parameters, %")
    for way, worst in errors(config, sequences, length).items():
        print(f"  {way:36} {sum(worst) / len(worst):5.2f} {max(worst):5.2f}")
