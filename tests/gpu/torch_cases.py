"""What tests/gpu/torch_bench.py times of PyTorch: for a case of bench_gpu (name, shape) the ways in which PyTorch does the same.

A way is a function that runs it; the fastest counts. All are of PyTorch itself, as its users call it: every backend of
scaled_dot_product_attention, grouped_mm, fused AdamW, compiled linear + cross-entropy. Activations and weights are bfloat16.
"""

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

grouped_mm = getattr(F, "grouped_mm", None) or torch._grouped_mm
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION,
            "math": SDPBackend.MATH}


class Makers:
    """Tensors on a device."""

    def __init__(self, device):
        self.device = device

    def bf16(self, *shape, std=1.0):
        return (torch.randn(*shape, device=self.device) * std).to(torch.bfloat16)

    def f32(self, *shape):
        return torch.randn(*shape, device=self.device)

    def integers(self, values):
        return torch.tensor(values, device=self.device)


def memory_ways(name, s, make):
    """Of passes that memory bounds, those that are one operation of PyTorch."""
    if name == "convert float32 to bfloat16":
        x = make.f32(s["T"], s["C"])
        return {"to": lambda: x.to(torch.bfloat16)}
    if name == "add, bfloat16":
        x, y = make.bf16(s["T"], s["C"]), make.bf16(s["T"], s["C"])
        return {"add": lambda: x + y}
    if name == "RMSNorm of a float32 stream":
        x, weight = make.f32(s["T"], s["C"]), make.f32(s["C"])
        return {"rms_norm, to float32": lambda: F.rms_norm(x, x.shape[-1:], weight, 1e-5)}
    if name == "embedding, float32":
        table, ids = make.f32(s["V"], s["C"]), torch.arange(s["T"], device=make.device) * (s["V"] // s["T"])
        return {"embedding": lambda: F.embedding(ids, table)}
    if name == "sum of squares, float32":
        x = make.f32(s["P"])
        return {"vector_norm": lambda: torch.linalg.vector_norm(x)}
    if name == "AdamW":
        parameter = torch.nn.Parameter(make.f32(s["P"]))
        parameter.grad = make.f32(s["P"])
        optimizer = torch.optim.AdamW([parameter], lr=1e-4, fused=True)
        return {"fused": optimizer.step}
    if name == "router's softmax":
        x = make.f32(s["T"], s["E"])
        return {"softmax": lambda: x.softmax(-1)}
    if name == "top K":
        x = make.f32(s["T"], s["E"])
        return {"topk": lambda: x.topk(s["K"], -1)}
    if name == "sort by expert":
        chosen = torch.arange(s["T"] * s["K"], device=make.device) * 37 % s["E"]
        return {"sort": lambda: chosen.sort(stable=True)}
    if name == "permute, bfloat16":
        x, source = make.bf16(s["T"], s["C"]), torch.randperm(s["T"] * s["K"], device=make.device) // s["K"]
        return {"index_select": lambda: x.index_select(0, source)}
    return {}


def product_ways(name, s, make):
    x, weight, dy = make.bf16(s["T"], s["C"]), make.bf16(s["F"], s["C"]), make.bf16(s["T"], s["F"])
    if name == "product":
        return {"linear": lambda: F.linear(x, weight)}
    if name == "product, input gradient":
        return {"mm": lambda: dy @ weight}
    return {"mm, to float32": lambda: torch.mm(dy.t(), x, out_dtype=torch.float32), "mm": lambda: dy.t() @ x}


def grouped_ways(name, s, make, rows):
    offsets = make.integers(rows).cumsum(0).to(torch.int32)
    num_rows = s["T"] * s["K"]
    x, dy = make.bf16(num_rows, s["C"]), make.bf16(num_rows, s["F"])
    if name == "grouped product, weight gradient":
        return {"grouped_mm": lambda: grouped_mm(dy.t(), x, offs=offsets)}
    weight = make.bf16(s["E"], s["F"], s["C"])
    other = weight.transpose(1, 2).contiguous()  # the same weights, stored the other way round
    if name == "grouped product":
        return {"grouped_mm": lambda: grouped_mm(x, weight.transpose(1, 2), offs=offsets),
                "grouped_mm, [E,in,out]": lambda: grouped_mm(x, other, offs=offsets)}
    return {"grouped_mm": lambda: grouped_mm(dy, weight, offs=offsets),
            "grouped_mm, [E,in,out]": lambda: grouped_mm(dy, other.transpose(1, 2), offs=offsets)}


def latent_ways(s, make):
    """A token of each text with the latents of its own, in the order of the text."""
    q, latents = make.bf16(s["N"], s["H"], s["D"]), make.bf16(s["N"], s["S"], s["D"])
    values, scale = latents[:, :, :s["R"]], s["D"] ** -0.5

    def products():
        return (q @ latents.transpose(1, 2) * scale).softmax(-1) @ values

    def sdpa():
        return F.scaled_dot_product_attention(q, latents, values, scale=scale)  # heads as queries of one head

    return {"products": products, "sdpa": sdpa}


def attention_ways(name, s, make):
    if name == "attention of latents, a token more":
        return latent_ways(s, make)

    def heads(count):
        return make.bf16(s["N"], s["S"], count, s["D"]).transpose(1, 2)

    q, k, v, dy = heads(s["H"]), heads(s["G"]), heads(s["G"]), heads(s["H"])
    backward = name == "attention, forward and backward"
    for x in (q, k, v):
        x.requires_grad_(backward)

    def way(backend):
        def run():
            with sdpa_kernel(backend):
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
            if backward:
                torch.autograd.grad(y, (q, k, v), dy)
        return run

    return {label: way(backend) for label, backend in BACKENDS.items()}


def head_ways(name, s, make, modes):
    if name != "head loss and its gradients":
        return {}
    hidden = make.bf16(s["T"], s["C"]).requires_grad_()
    weight = make.bf16(s["V"], s["C"], std=0.02).requires_grad_()
    targets = torch.arange(s["T"], device=make.device) * 7919 % s["V"]

    def loss(hidden, weight):
        return F.cross_entropy(F.linear(hidden, weight).float(), targets)

    def way(mode):
        compiled = torch.compile(loss, mode=mode)

        def run():
            hidden.grad = weight.grad = None
            compiled(hidden, weight).backward()
        return run

    return {f"compiled, {mode}": way(mode) for mode in modes}


def ways_of(case, make, modes):
    """By label; empty where PyTorch has nothing to set against it."""
    kind, name, of = case["kind"], case["name"], case["of"]
    if kind in ("memory", "small"):
        return memory_ways(name, of, make)
    if kind == "product":
        return product_ways(name, of, make)
    if kind == "grouped":
        return grouped_ways(name, of, make, case["rows"])
    if kind == "attention":
        return attention_ways(name, of, make)
    return head_ways(name, of, make, modes)
