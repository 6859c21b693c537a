"""The peer of tests/bench/compare.sh: PyTorch's training step of the model that a config of Limbeck's describes.

    pip install torch
    python tests/bench/torch_step.py tests/bench/model_a.textproto [--precision float32|autocast|bfloat16]
        [--steps 6] [--warm-up 2] [--threads 2] [--set num_experts=64]...

It prints one line of JSON: tokens_per_s, the median of the steps after the warm-up; peak_bytes, the most memory that the process
had resident; version, that of PyTorch.

What is computed is what `limbeck train` computes: Llama's blocks (RMSNorm, rotary embedding, grouped-query attention, SwiGLU or a
mixture of experts of it, nothing dropped), cross-entropy, the gradient's norm clipped to 1, AdamW. How, is as fast as PyTorch
was found to do it without kernels of one's own: scaled_dot_product_attention, one product for q, k and v and one for gate and up,
tokens sorted by expert and one product an expert (each expert's weights are parameters of their own, for gradients of slices of
one parameter are as large as the whole), fused AdamW. Tokens are random, uniform over the vocabulary.

Precisions: float32; autocast: float32 weights, bfloat16 products; bfloat16: weights, gradients and moments are bfloat16 too,
which saves casts and memory, and loses small steps.
"""

import argparse
import contextlib
import json
import pathlib
import re
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F


def config_of(path, sets):
    """Fields by name, whatever their section: no two that are read here have the same."""
    text = re.sub(r"#.*", "", pathlib.Path(path).read_text())
    fields = dict(re.findall(r"(\w+): *([^\s}]+)", text))
    fields.update(s.split("=", 1) for s in sets)
    return lambda name, default=0: int({"true": 1, "false": 0}.get(value := fields.get(name, str(default)), value))


def weight(*shape):
    return nn.Parameter(torch.randn(*shape) * 0.02)


def swiglu(x, gate_up, down):
    gate, up = F.linear(x, gate_up).chunk(2, -1)
    return F.linear(F.silu(gate) * up, down)


class Attention(nn.Module):
    def __init__(self, width, heads, kv_heads):
        super().__init__()
        self.heads, self.kv_heads, self.head_width = heads, kv_heads, width // heads
        self.qkv = weight((heads + 2 * kv_heads) * self.head_width, width)
        self.out = weight(width, width)

    def forward(self, x, cos, sin):
        batch, length, width = x.shape
        qkv = F.linear(x, self.qkv).view(batch, length, -1, self.head_width).transpose(1, 2)
        rotated, v = qkv.split([self.heads + self.kv_heads, self.kv_heads], 1)
        first, second = rotated.chunk(2, -1)
        rotated = rotated * cos + torch.cat([-second, first], -1) * sin
        q, k = rotated.to(v.dtype).split([self.heads, self.kv_heads], 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
        return F.linear(y.transpose(1, 2).reshape(batch, length, width), self.out)


class Dense(nn.Module):
    def __init__(self, width, neurons):
        super().__init__()
        self.gate_up, self.down = weight(2 * neurons, width), weight(width, neurons)

    def forward(self, x):
        return swiglu(x, self.gate_up, self.down)


class Experts(nn.Module):
    def __init__(self, width, experts, selected, neurons):
        super().__init__()
        self.selected = selected
        self.router = weight(experts, width)
        self.gate_up = nn.ParameterList(weight(2 * neurons, width) for _ in range(experts))
        self.down = nn.ParameterList(weight(width, neurons) for _ in range(experts))

    def forward(self, x):
        tokens = x.reshape(-1, x.shape[-1])
        probabilities = F.linear(tokens, self.router).float().softmax(-1)
        weights, chosen = probabilities.topk(self.selected, -1)
        weights = (weights / weights.sum(-1, keepdim=True)).flatten()
        order = chosen.flatten().argsort()
        counts = torch.bincount(chosen.flatten(), minlength=len(self.down)).tolist()
        source = order // self.selected
        parts = tokens.index_select(0, source).split(counts)
        rows = torch.cat([swiglu(*part) for part in zip(parts, self.gate_up, self.down)])
        rows = rows * weights.index_select(0, order).unsqueeze(-1).to(rows.dtype)
        return torch.zeros_like(tokens, dtype=rows.dtype).index_add(0, source, rows).view(x.shape)


class Layer(nn.Module):
    def __init__(self, config, experts):
        super().__init__()
        width, heads = config("width"), config("num_heads")
        self.attention_norm = nn.Parameter(torch.ones(width))
        self.attention = Attention(width, heads, config("num_kv_heads", heads))
        self.mlp_norm = nn.Parameter(torch.ones(width))
        if config("num_experts"):
            self.mlp = experts(width, config("num_experts"), config("experts_per_token"), config("expert_width"))
        else:
            self.mlp = Dense(width, config("mlp_width"))

    def forward(self, x, cos, sin):
        x = x + self.attention(F.rms_norm(x, x.shape[-1:], self.attention_norm, 1e-5), cos, sin)
        return x + self.mlp(F.rms_norm(x, x.shape[-1:], self.mlp_norm, 1e-5))


class Model(nn.Module):
    def __init__(self, config, experts=Experts):
        super().__init__()
        self.embedding = weight(config("vocabulary"), config("width"))
        self.layers = nn.ModuleList(Layer(config, experts) for _ in range(config("num_layers")))
        self.norm = nn.Parameter(torch.ones(config("width")))
        self.head = self.embedding if config("tied_head") else weight(config("vocabulary"), config("width"))
        half = config("width") // config("num_heads") // 2
        angles = torch.outer(torch.arange(config("sequence_length")), 10000.0 ** (-torch.arange(half) / half)).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def hidden(self, tokens):
        x = F.embedding(tokens, self.embedding)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return F.rms_norm(x, x.shape[-1:], self.norm, 1e-5)

    def logits(self, tokens):
        return F.linear(self.hidden(tokens), self.head)

    def forward(self, tokens, targets):
        return F.cross_entropy(self.logits(tokens).flatten(0, 1), targets.flatten())


def train(model, casts, tokens_of_step, loss_of, options):
    """Seconds of each step, and the last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    times = []
    for _ in range(options.warm_up + options.steps):
        start = time.perf_counter()
        text = tokens_of_step()
        with casts:
            loss = loss_of(text[:, :-1], text[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - start)
    return times, loss.item()


def casts_of(precision):
    return torch.autocast("cpu", torch.bfloat16) if precision == "autocast" else contextlib.nullcontext()


def peak_bytes():
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status).group(1))


def main():
    parser = argparse.ArgumentParser(description="PyTorch's training step of a model, timed.")
    parser.add_argument("config")
    parser.add_argument("--precision", choices=["float32", "autocast", "bfloat16"], default="float32")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    options = parser.parse_args()

    torch.manual_seed(1)
    torch.set_num_threads(options.threads)
    config = config_of(options.config, options.set)
    model = Model(config)
    parameters = sum(p.numel() for p in model.parameters())
    if options.precision == "bfloat16":
        model = model.to(torch.bfloat16)
    shape = (config("sequences_per_step"), config("sequence_length") + 1)
    times, loss = train(model, casts_of(options.precision), lambda: torch.randint(config("vocabulary"), shape), model, options)
    tokens = config("sequences_per_step") * config("sequence_length")
    print(json.dumps({"tokens_per_s": tokens / statistics.median(times[options.warm_up:]), "peak_bytes": peak_bytes(),
                      "parameters": parameters, "loss": loss, "version": torch.__version__}))


if __name__ == "__main__":
    main()
