"""PyTorch's training step of the models of bench_gpu_step, on a GPU.

Blocks are those of tests/bench/torch_step.py. Experts are grouped_mm over rows that are sorted by expert, and nothing waits for
the host; rows go there and back by gathers in both passes, which is faster than adding with atomics. bfloat16 by autocast: weights,
gradients, moments and the residual stream are float32, as Limbeck's are. The model with its loss is compiled; AdamW is fused.
"""

import pathlib
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench"))
from torch_step import Model, weight  # noqa: E402
from torch_cases import grouped_mm  # noqa: E402


class Gather(torch.autograd.Function):
    """x[index], index a permutation: the gradient goes back by its inverse."""

    @staticmethod
    def forward(ctx, x, index, inverse):
        ctx.save_for_backward(inverse)
        return x[index]

    @staticmethod
    def backward(ctx, dy):
        (inverse,) = ctx.saved_tensors
        return dy[inverse], None, None


class GroupedExperts(nn.Module):
    def __init__(self, width, experts, selected, neurons):
        super().__init__()
        self.selected = selected
        self.router = weight(experts, width)
        self.gate_up = weight(experts, 2 * neurons, width)
        self.down = weight(experts, width, neurons)

    def forward(self, x):
        tokens = x.reshape(-1, x.shape[-1])
        probabilities = F.linear(tokens, self.router).float().softmax(-1)
        weights, chosen = probabilities.topk(self.selected, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        order = chosen.flatten().sort(stable=True).indices
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=order.device))
        counts = torch.histc(chosen.flatten().float(), bins=len(self.router), min=0, max=len(self.router) - 1)
        offsets = counts.cumsum(0).to(torch.int32)
        narrow = torch.bfloat16
        copies = tokens.to(narrow).unsqueeze(1).expand(-1, self.selected, -1).reshape(-1, tokens.shape[-1])
        rows = Gather.apply(copies, order, inverse)
        gate, up = grouped_mm(rows, self.gate_up.to(narrow).transpose(1, 2), offs=offsets).chunk(2, -1)
        rows = grouped_mm(F.silu(gate) * up, self.down.to(narrow).transpose(1, 2), offs=offsets)
        rows = Gather.apply(rows, inverse, order).view(-1, self.selected, tokens.shape[-1])
        return (rows * weights.unsqueeze(-1)).sum(1).view(x.shape)


def config_of(case):
    s = case["of"]
    fields = {"vocabulary": s["V"], "width": s["C"], "num_layers": s["L"], "num_heads": s["H"], "num_kv_heads": s["G"],
              "sequence_length": s["S"], "tied_head": int(case["tied"])}
    if "E" in s:
        fields |= {"num_experts": s["E"], "experts_per_token": s["K"], "expert_width": s["F"]}
    else:
        fields["mlp_width"] = s["F"]
    return lambda name, default=0: fields.get(name, default)


def time_steps(case, device, mode, warm_up=3, steps=10):
    """Seconds of a step (the median), most bytes allocated, and the last loss."""
    of = case["of"]
    with torch.device(device):
        model = Model(config_of(case), experts=GroupedExperts)
        compiled = torch.compile(model, mode=mode)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        tokens, targets = torch.randint(of["V"], (2, of["N"], of["S"]))
    times = []
    for _ in range(warm_up + steps):
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16):
            loss = compiled(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()  # waits, as Limbeck does for a step's figures
        times.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return statistics.median(times[warm_up:]), peak, value
