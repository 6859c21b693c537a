"""The reference transformer: plain PyTorch in float64, written from the formulas and not from Limbeck's code.

Used by every generator and checker in this folder. Parameters are a dict {module path: tensor} under Limbeck's names; a
layer is MoE when it has a router. Example:

    output = forward(parameters, config, tokens, positions, documents)
    terms = loss_terms(parameters, config, output, targets)   # ce, balance, z: unweighted
"""
import math
from dataclasses import dataclass, fields

import h5py
import numpy as np
import torch

torch.set_num_threads(2)


@dataclass(frozen=True)
class Config:
    vocabulary: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    mlp_width: int = 0
    num_experts: int = 0
    experts_per_token: int = 0
    expert_width: int = 0
    norm_eps: float = 1e-5
    rope_base: float = 10000.0
    tied_head: bool = False
    renormalise: bool = True
    valid_vocabulary: int = 0  # logits from here on are padding; 0: none is
    leading_dense: int = 0  # layers without experts, before those that have them
    shared_width: int = 0  # of the experts that every token sees, together
    capacity_factor: float = 0.0  # of a row's even share of assignments, an expert's room; 0: unlimited
    jitter: float = 0.0  # the router's input is times 1 - jitter to 1 + jitter
    seed: int = 0  # of the jitter
    global_balance: bool = False  # the balance loss is of the whole batch, not the mean over its rows
    expert_choice: bool = False  # experts choose tokens of a row, with room for the capacity factor's (0: 1) each


@dataclass
class Routing:
    logits: torch.Tensor  # [B,S,E]
    chosen: torch.Tensor  # [B,S,K], best first; ties to the lower index. Where experts choose [B,S,E], all
    kept: torch.Tensor  # [B,S,K] bool: not dropped. Where experts choose: taken
    experts_choose: bool = False

    def smallest_gap(self):
        """Smallest distance between the worst chosen and the best rejected logit: how near a flip is. Where experts choose, of a row's
        logarithms of probabilities."""
        if self.experts_choose:
            scores, far = self.logits.detach().log_softmax(-1), torch.tensor(math.inf)
            worst = torch.where(self.kept, scores, far).amin(1)
            return (worst - torch.where(self.kept, -far, scores).amax(1)).min().item()
        ranked = self.logits.detach().sort(dim=-1, descending=True).values
        k = self.chosen.shape[-1]
        return math.inf if k == ranked.shape[-1] else (ranked[..., k - 1] - ranked[..., k]).min().item()


@dataclass
class Output:
    hidden: list  # L+1 tensors [B,S,C]: the embedding, then the residual stream after each layer
    final: torch.Tensor  # [B,S,C], after the last norm
    routing: list  # a Routing a MoE layer
    attended: list  # L tensors [B,S,C]: what attention adds to the stream
    fed: list  # the same of feed-forwards, or experts


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def rope(x, positions, base):
    """x [B,S,heads,D]; half-split form: channel i turns with channel i + D/2 by positions * base^(-2i/D)."""
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, dtype=torch.float64) * 2 / x.shape[-1])
    angle = positions.to(torch.float64)[:, :, None, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def attention(parameters, prefix, config, x, positions, allowed):
    batch, length, _ = x.shape
    heads, kv_heads, width = config.num_heads, config.num_kv_heads, config.head_width
    q = (x @ parameters[prefix + "q.weight"].T).view(batch, length, heads, width)
    k = (x @ parameters[prefix + "k.weight"].T).view(batch, length, kv_heads, width)
    v = (x @ parameters[prefix + "v.weight"].T).view(batch, length, kv_heads, width)
    q, k = rope(q, positions, config.rope_base), rope(k, positions, config.rope_base)
    q = q.view(batch, length, kv_heads, heads // kv_heads, width)  # query head h reads key/value head h // (H/G)
    scores = torch.einsum("bqgrd,bkgd->bgrqk", q, k) / math.sqrt(width)
    scores = scores.masked_fill(~allowed[:, None, None], -math.inf)
    mixed = torch.einsum("bgrqk,bkgd->bqgrd", scores.softmax(-1), v)
    return mixed.reshape(batch, length, heads * width) @ parameters[prefix + "o.weight"].T


def swiglu(x, gate, up, down):
    return (torch.nn.functional.silu(x @ gate.T) * (x @ up.T)) @ down.T


def philox(counter, key):
    """Ten rounds of Philox 4x32 (Salmon et al. 2011), on four and two numbers of 32 bits."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def jitter(config, name, shape):
    """1 + jitter (2 u - 1) [B,S,C] of step 0: u from the name's FNV-1a hash and the element's index."""
    stream = 0xCBF29CE484222325
    for byte in name.encode():
        stream = ((stream ^ byte) * 0x100000001B3) % 2 ** 64
    low = 2 ** 32
    values = []
    for index in range(math.prod(shape)):
        bits = philox((index % low, index // low, stream % low, stream // low), (config.seed % low, config.seed // low))
        values.append(((bits[0] << 32 | bits[1]) >> 11) * 2.0 ** -53)
    return 1 + config.jitter * (2 * torch.tensor(values, dtype=torch.float64).view(shape) - 1)


def within_capacity(chosen, config):
    """[B,S,K] bool: an expert keeps its first ceil(factor S K / E) assignments of a row."""
    kept = torch.ones_like(chosen, dtype=torch.bool)
    if config.capacity_factor:
        room = math.ceil(config.capacity_factor * chosen[0].numel() / config.num_experts)
        for row in range(chosen.shape[0]):
            for expert in range(config.num_experts):
                places = (chosen[row].flatten() == expert).nonzero().flatten()
                kept[row].view(-1)[places[room:]] = False
    return kept


def taken_by_experts(scores, config):
    """[B,S,E] bool: each expert takes the min(S, ceil(factor S K / E)) tokens of a row with its greatest scores; ties to the lower
    token (Zhou et al. 2022, arXiv 2202.09368)."""
    length = scores.shape[1]
    room = math.ceil((config.capacity_factor or 1.0) * length * config.experts_per_token / config.num_experts)
    ranked = scores.sort(dim=1, descending=True, stable=True).indices[:, :min(length, room)]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(1, ranked, True)


def mixture(parameters, prefix, config, x):
    """Every expert on every token, weighted by zero where it was not chosen: slow, and without any dispatch to get wrong."""
    seen = x * jitter(config, prefix + "jitter", x.shape) if config.jitter else x
    logits = seen @ parameters[prefix + "router.weight"].T
    probabilities = logits.softmax(-1)
    if config.expert_choice:
        chosen = torch.arange(config.num_experts).expand(probabilities.shape)
        kept = taken_by_experts(probabilities, config)
        spread = probabilities * kept
        if config.renormalise:
            spread = spread / spread.sum(-1, keepdim=True).clamp(min=1e-20)
    else:
        chosen = probabilities.sort(dim=-1, descending=True, stable=True).indices[..., : config.experts_per_token]
        kept = within_capacity(chosen, config)
        weights = probabilities.gather(-1, chosen)
        if config.renormalise:
            weights = weights / weights.sum(-1, keepdim=True)
        spread = torch.zeros_like(probabilities).scatter(-1, chosen, weights * kept)
    gate = torch.einsum("bsc,efc->bsef", x, parameters[prefix + "experts.gate"])
    up = torch.einsum("bsc,efc->bsef", x, parameters[prefix + "experts.up"])
    inner = torch.nn.functional.silu(gate) * up * spread[..., None]
    y = torch.einsum("bsef,ecf->bsc", inner, parameters[prefix + "experts.down"])
    if config.shared_width:
        y = y + swiglu(x, *(parameters[f"{prefix}shared.{name}.weight"] for name in ("gate", "up", "down")))
    return y, Routing(logits, chosen, kept, config.expert_choice)


def forward(parameters, config, tokens, positions=None, documents=None):
    """tokens, positions, documents [B,S] int64. A token sees earlier tokens of its own row and document."""
    batch, length = tokens.shape
    order = torch.arange(length)
    positions = order.expand(batch, length) if positions is None else positions
    allowed = (order[:, None] >= order[None, :]).expand(batch, length, length)
    if documents is not None:
        allowed = allowed & (documents[:, :, None] == documents[:, None, :])
    x = parameters["embed.weight"][tokens]
    hidden, routing, attended, fed = [x], [], [], []
    for layer in range(config.num_layers):
        prefix = f"layers.{layer}."
        normed = rms_norm(x, parameters[prefix + "attention_norm.weight"], config.norm_eps)
        attended.append(attention(parameters, prefix + "attention.", config, normed, positions, allowed))
        x = x + attended[-1]
        normed = rms_norm(x, parameters[prefix + "mlp_norm.weight"], config.norm_eps)
        if prefix + "moe.router.weight" in parameters:
            y, routed = mixture(parameters, prefix + "moe.", config, normed)
            routing.append(routed)
        else:
            y = swiglu(normed, *(parameters[f"{prefix}mlp.{name}.weight"] for name in ("gate", "up", "down")))
        fed.append(y)
        x = x + y
        hidden.append(x)
    return Output(hidden, rms_norm(x, parameters["norm.weight"], config.norm_eps), routing, attended, fed)


def head(parameters, config, final):
    """[...,C] -> logits [...,V]."""
    logits = final @ parameters["embed.weight" if config.tied_head else "head.weight"].T
    return logits[..., :config.valid_vocabulary] if config.valid_vocabulary else logits


def balance_loss(routing, config):
    """Mean over sequences (rows) of E * sum_e f_e P_e; f is the share of assignments (sums to 1, constant), P the mean
    probability. All tokens of a row count, whether their target is valid or not, and dropped assignments too. With
    global_balance the batch is one row."""
    chosen, logits = routing.chosen, routing.logits
    if config.global_balance:
        chosen, logits = chosen.flatten(0, 1)[None], logits.flatten(0, 1)[None]
    counts = torch.nn.functional.one_hot(chosen, config.num_experts).sum(dim=(1, 2))  # [B,E]
    share = counts.to(logits.dtype) / counts.sum(-1, keepdim=True)
    return (config.num_experts * share * logits.softmax(-1).mean(1)).sum(-1).mean()


def mean(values):
    return sum(values) / len(values) if values else torch.zeros((), dtype=torch.float64)


def loss_terms(parameters, config, output, targets):
    """Unweighted terms: ce over valid targets (>= 0); balance and z, each a mean over the MoE layers."""
    valid = targets >= 0
    logits = head(parameters, config, output.final[valid])
    return {
        "ce": torch.nn.functional.cross_entropy(logits, targets[valid]),
        "balance": mean([balance_loss(routing, config) for routing in output.routing]),
        "z": mean([routing.logits.logsumexp(-1).pow(2).mean() for routing in output.routing]),
    }


def kl_divergence(teacher_logits, student_logits, temperature=1.0):
    """KL(p_T || q_T) a token; logits [...,V] -> [...]."""
    p = (teacher_logits / temperature).log_softmax(-1)
    q = (student_logits / temperature).log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def gradient_errors(found, expected):
    """The design's metric, a tensor: max|a-b| / max(max|b|, G/100), G the largest gradient entry of the model."""
    largest = max(gradient.abs().max().item() for gradient in expected.values() if gradient.numel())
    return {
        name: (found[name].double() - gradient).abs().max().item() / max(gradient.abs().max().item(), largest / 100)
        for name, gradient in expected.items()
    }


# HDF5: a module path is a path of groups, layers.3.attention.q.weight -> layers/3/attention/q/weight.

def create(path):
    """A new file in the compact layout that HDF5 1.10 and later read."""
    return h5py.File(path, "w", libver=("v110", "v110"))


def write_tensors(file, root, tensors, dtype=None):
    for name, tensor in tensors.items():
        write_array(file, f"{root}/{name.replace('.', '/')}", tensor.detach().numpy(), dtype)


def write_array(file, path, array, dtype=None):
    array = np.asarray(array, dtype=dtype)
    compression = {}
    if array.size > 256:
        compression = {"compression": "gzip", "compression_opts": 9, "shuffle": True, "chunks": array.shape}
    file.create_dataset(path, data=array, **compression)


def read_tensors(file, root, dtype=torch.float64):
    """Every dataset under `root`, by module path."""
    tensors = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            tensors[name.replace("/", ".")] = torch.from_numpy(np.asarray(item[()], dtype=np.float64)).to(dtype)

    file[root].visititems(visit)
    return tensors


def write_attributes(file, script, config, **others):
    """Which script and versions made the file, and the numbers of the model; flags as 0 or 1."""
    file.attrs["generator"] = f"tests/golden/{script}"
    file.attrs["versions"] = f"torch {torch.__version__}, numpy {np.__version__}, h5py {h5py.__version__}"
    for key, value in {**{field.name: getattr(config, field.name) for field in fields(config)}, **others}.items():
        file.attrs[key] = int(value) if isinstance(value, bool) else value


def read_config(attributes):
    """The inverse of write_attributes; widths that a file leaves out follow from its tensors and are not needed."""
    values = {}
    for field in fields(Config):
        if field.name in attributes:
            value = attributes[field.name]
            values[field.name] = field.type(value.item() if hasattr(value, "item") else value)
    return Config(**values)
