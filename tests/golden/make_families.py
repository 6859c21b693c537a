"""Writes families/: tiny random models of the families that people have, as transformers saves them, and what they compute.

    python3 -m venv /opt/torch && /opt/torch/bin/pip install torch transformers safetensors numpy h5py
    /opt/torch/bin/python tests/golden/make_families.py            (a minute; names as arguments: these families alone)

A family's folder holds config.json of `save_pretrained`, the same model's config_v4.json in the style of transformers 4 (GPT-2's is
no other), weights.txt, which says what tensors its model.safetensors has, in their order, and how their values are made of names and
a seed (made_weights.py: values that bfloat16 holds too), and reference.h5 of three models of other seeds, the first:

    tokens, targets, positions, documents [2,24]: two rows, one of them of two documents; a token sees its own document only;
        a target of -1 counts nowhere. Every document is longer than every window and every original context.
    logits [2,24,V], loss: the mean cross-entropy over valid targets
    gradients [N]: of the loss, value for value what lies behind the head of model.safetensors; 0 for what is no parameter.
        Written there in place of the weights, they make a model that any reader of the family takes apart by name.
    experts [48,N,K] (of mixtures): of each token in the N layers that have them, ascending
    short/tokens, short/logits (phi3, phi4_mini, phimoe): a row within the original context, where LongRoPE takes its short
        factors

and in others/0 and others/1, which cut their rows otherwise, tokens to documents, loss and experts likewise, and

    logits [48,4]: each token's on four directions of -1 and 1 (signs("logits", V)); `largest` [1] of all logits
    gradients [M,5]: of each tensor of weights.txt the largest, and what it is on four directions (signs(NAME, count))

Computed in float64 throughout (the widening to float32 in norms, softmax and RoPE too); logits and gradients of the first are stored
in float32. A document is run alone, at positions from 0: what a packed row must equal. Of Phi-3.5-MoE transformers 5.24 always takes
the short factors, as its rotary embedding asks for the frequencies without the length; transformers 4.57.1 asks with it, as
Microsoft's own code does, and so it is asked here. Attributes hold the versions, the seed and the smallest distance
of a router's scores from another choice. Each model is loaded again in float32, and its logits are compared. transformers
4.57.1 computes them too from config_v4.json, but for DeepSeek-V2, where it leaves mscale out of the softmax, and GPT-OSS,
where it always clamps at 7.
"""
import copy
import json
import pathlib
import shutil
import sys
import tempfile

import h5py
import numpy as np
import torch
import transformers
from safetensors.torch import load_file

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))
from family_configs import COMMON, FAMILIES, WINDOW  # noqa: E402
from made_weights import made_weights, read_list, signs, write_list, write_model  # noqa: E402
from reference_model import create, write_array  # noqa: E402
from reference_transformers import in_float64  # noqa: E402

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

LENGTHS = [[24], [11, 13]]  # documents of the rows
OTHER_LENGTHS = [[[13, 11], [24]], [[12, 12], [24]]]
SHORT = 9  # length of the short row
SMALLEST_GAP = 5e-3  # of router scores: float32 must not flip a choice


def classes(kind):
    if kind == "GPT2":
        return transformers.GPT2Config, transformers.GPT2LMHeadModel
    config = "Gemma3TextConfig" if kind == "Gemma3" else f"{kind}Config"
    return getattr(transformers, config), getattr(transformers, f"{kind}ForCausalLM")


def build(architecture, config):
    config = copy.deepcopy(config)
    config._attn_implementation = config._experts_implementation = "eager"
    return with_long_factors(architecture(config).eval())


def with_long_factors(model):
    """Of Phi-3.5-MoE: with those that belong to a sequence's length."""
    if model.config.model_type == "phimoe":
        rotary = model.model.rotary_emb
        usual = rotary.rope_init_fn

        def see(module, args, kwargs):
            module.rope_init_fn = lambda config: usual(config, seq_len=int(kwargs["position_ids"].max()) + 1)

        rotary.register_forward_pre_hook(see, with_kwargs=True)
    return model


def scale_of(name, shape, transposed):
    """The deviation of a weight's values: of a matrix, so that its output is about as large as its input."""
    if name.endswith("conv1d.weight"):
        return 0.4
    if name.endswith(("sinks", "correction_bias")):
        return 0.7 if name.endswith("sinks") else 0.15
    if len(shape) == 1 or name.endswith("_bias") or "norm" in name:
        return 0.3
    if name.endswith(("embed_tokens.weight", "wte.weight", "wpe.weight")):
        return 0.5
    fan_in = shape[-2] if transposed else shape[-1]
    return (2.0 if "router" in name or name.endswith((".mlp.gate.weight", "block_sparse_moe.gate.weight")) else 1.2) * fan_in ** -0.5


def is_transposed(kind, name):
    return name.endswith("proj") if kind.startswith("GptOss") else "c_" in name  # stored [in, out]


def is_about_one(kind, name):
    """Norms, but those of Gemma, which adds 1; and what Mamba-2 lets through."""
    return name.endswith(".D") or ("norm" in name or "ln_" in name) and name.endswith("weight") and not kind.startswith("Gemma")


def weight_list(kind, folder):
    """What a folder's model.safetensors has, in its order, for made_weights.py."""
    head = json.loads(split_file(folder)[0][8:])
    head.pop("__metadata__", None)
    entries = sorted(head.items(), key=lambda item: item[1]["data_offsets"])
    return [(name, entry["shape"], float(is_about_one(kind, name)),
             float(f"{scale_of(name, entry['shape'], is_transposed(kind, name)):.3g}")) for name, entry in entries]


def randomise(model, generator):
    """Values that bfloat16 holds, so that files compress."""
    kind = type(model).__name__
    for name, tensor in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items():
        if name.endswith("inv_freq") or name.endswith("embed_scale"):
            continue
        values = torch.randn(tensor.shape, generator=generator) * scale_of(name, tensor.shape, is_transposed(kind, name))
        tensor.data.copy_((values + is_about_one(kind, name)).bfloat16())


def make_batch(vocabulary, generator, rows=LENGTHS):
    """Tokens from 3 on: transformers gives the embedding of the padding token no gradient."""
    tokens = torch.randint(3, vocabulary, (len(rows), sum(rows[0])), generator=generator)
    positions = torch.tensor([[i for length in row for i in range(length)] for row in rows])
    documents = (positions == 0).flatten().cumsum(0).view_as(positions) - 1
    targets = tokens.roll(-1, dims=1)
    targets[documents != documents.roll(-1, dims=1)] = -1
    targets[:, -1] = -1
    return {"tokens": tokens, "targets": targets, "positions": positions, "documents": documents}


def run(model, tokens, lengths_of_rows=LENGTHS):
    """Each document alone. -> [2,24,V]"""
    rows = [[model(part[None], use_cache=False).logits[0] for part in row.split(lengths)]
            for row, lengths in zip(tokens, lengths_of_rows)]
    return torch.stack([torch.cat(row) for row in rows])


def distance(scores, count):
    """[T,N] -> the smallest distance between the worst of `count` chosen and the best that is not."""
    best = scores.topk(count + 1).values if count < scores.shape[-1] else None
    return float("inf") if best is None else (best[:, -2] - best[:, -1]).min().item()


def mixer_gap(router, logits):
    """Of the first choice from another, and of who is near from who is not: of the latter nothing but rounding counts."""
    first, second = logits.topk(2).values.split(1, dim=-1)
    others = logits.masked_fill(logits == first, -torch.inf)
    edges = [((best - rivals) / logits.abs().clamp(min=best) - 2 * router.router_jitter_noise).abs().min().item()
             for best, rivals in ((first, logits), (second, others))]
    return min([distance(logits, 1)] + [20 * edge for edge in edges])


def routing_gap(router, logits):
    kind = type(router).__name__
    is_biased = kind in ("DeepseekV3TopkRouter", "Glm4MoeTopkRouter")
    scores = logits.sigmoid() + router.e_score_correction_bias if is_biased else logits
    gap = mixer_gap(router, logits) if kind.startswith("Phimoe") else float("inf")
    if is_biased or kind.startswith("Deepseek"):
        grouped = scores.unflatten(-1, (router.num_group, -1))
        of_groups = grouped.max(-1).values if kind == "DeepseekV2TopkRouter" else grouped.topk(2).values.sum(-1)
        gap = distance(of_groups, router.topk_group)
        chosen = torch.zeros_like(of_groups).scatter(-1, of_groups.topk(router.topk_group).indices, 1)
        scores = grouped.masked_fill(chosen[..., None] == 0, -torch.inf).flatten(-2)
    return min(gap, distance(scores, router.top_k))


class Routers:
    """Watches a model's routers: how near they come to another choice, and whom they choose."""

    def __init__(self, model):
        self.gap, self.counts, self.chosen = float("inf"), {}, {}
        for name, module in model.named_modules():
            if type(module).__name__.endswith("Router"):
                module.register_forward_hook(lambda router, _, output, name=name: self.see(name, router, *output))

    def see(self, name, router, logits, _, chosen):
        self.gap = min(self.gap, routing_gap(router, logits.detach()))
        counts = torch.bincount(chosen.flatten(), minlength=logits.shape[-1])
        self.counts[name] = self.counts.get(name, 0) + counts
        self.chosen.setdefault(name, []).append(chosen.sort(-1).values)

    def experts(self):
        """[T,N,K]: the layers' names are in their order."""
        return torch.stack([torch.cat(parts) for parts in self.chosen.values()], dim=1)

    def clear(self):
        return self.gap >= SMALLEST_GAP and all((counts > 0).all() for counts in self.counts.values())


def in_double(architecture, config, state):
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    model = build(architecture, config)
    torch.set_default_dtype(usual)
    model.load_state_dict(state)
    assert {p.dtype for p in [*model.parameters(), *model.buffers()]} == {torch.float64}
    return model


def split_file(folder):
    """A folder's model.safetensors -> its head, its values as one array."""
    content = (folder / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return content[:end], np.frombuffer(content[end:], "<f4")


def saved_gradients(architecture, config, model):
    """What model.safetensors would hold were each parameter its gradient, by name, in float64. A buffer has none: 0."""
    with in_float64():
        carrier = in_double(architecture, config, build(architecture, config).state_dict())
    for tensor in carrier.state_dict().values():
        tensor.zero_()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    for name, p in carrier.named_parameters():
        assert gradients[name].isfinite().all() and gradients[name].any(), name
        p.data.copy_(gradients[name])
    with tempfile.TemporaryDirectory() as other:
        carrier.save_pretrained(other)
        return load_file(pathlib.Path(other) / "model.safetensors")


def version_4(config):
    """The config.json of transformers 4: RoPE at the top, `torch_dtype`, and what single families had otherwise."""
    config = dict(config)
    kind, rope = config["model_type"], config.pop("rope_parameters")
    config["torch_dtype"], config["transformers_version"] = config.pop("dtype"), "4.57.1"
    if kind == "gemma3_text":
        rope, local = rope["full_attention"], rope["sliding_attention"]
        config["rope_local_base_freq"] = local["rope_theta"]
        config["sliding_window_pattern"] = config["layer_types"].index("full_attention") + 1
        del config["_sliding_window_pattern"]
    rope = dict(rope)
    config["rope_theta"] = rope.pop("rope_theta")
    if kind in ("phi3", "glm4", "glm4_moe"):
        config["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    if kind == "phi3":
        del rope["original_max_position_embeddings"]
    if kind == "qwen3_moe":
        config["num_experts"] = config.pop("num_local_experts")
    if kind == "qwen2":
        config.update(sliding_window=WINDOW, max_window_layers=2)  # use_sliding_window is false: they do not count
    if kind in ("phi3", "phimoe", "deepseek_v2", "deepseek_v3"):
        rope["type"] = rope.pop("rope_type")
    if kind in ("bamba", "granitemoehybrid"):
        least, most = config["time_step_limit"]
        config["time_step_limit"] = [least, float("inf") if isinstance(most, dict) else most]  # infinity is no JSON, and what is written
        rope.pop("partial_rotary_factor", None)
    if kind == "granitemoehybrid":
        config["layer_types"] = ["attention" if t == "full_attention" else "mamba" for t in config["layer_types"]]
    elif kind != "gpt_oss":
        config.pop("layer_types", None)
    config["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
    return dict(sorted(config.items()))


def load_again(folder):
    return with_long_factors(transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", experts_implementation="eager", dtype=torch.float32).eval())


def check_again(folder, seed, tokens, lengths, expected):
    """The largest difference of float32 logits: with config.json, and with config_v4.json in its place."""
    differences = []
    for config in ("config.json", "config_v4.json"):
        if not (folder / config).exists():
            continue
        with tempfile.TemporaryDirectory() as other:
            write_model(folder, other, seed, config)
            with torch.no_grad():
                differences.append((run(load_again(other), tokens, lengths) - expected).abs().max().item())
    assert max(differences) < 1e-4, (folder, differences)
    return differences


def write_folder(kind, architecture, config, folder):
    """All that is of no seed."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as other:
        build(architecture, config).save_pretrained(other)
        shutil.copyfile(pathlib.Path(other) / "config.json", folder / "config.json")
        write_list(folder / "weights.txt", weight_list(kind, pathlib.Path(other)))
    settings = json.loads((folder / "config.json").read_text())
    if "rope_parameters" in settings:
        (folder / "config_v4.json").write_text(json.dumps(version_4(settings), indent=2) + "\n")


def made_state(folder, seed):
    """Of the model of the weights of weights.txt, which it has all of and no others."""
    with tempfile.TemporaryDirectory() as place:
        write_model(folder, place, seed)
        model = load_again(place)
        model.save_pretrained(pathlib.Path(place) / "again")
        saved = load_file(pathlib.Path(place) / "again" / "model.safetensors")
    weights = made_weights(read_list(folder / "weights.txt"), seed)
    assert saved.keys() == weights.keys() and all(np.array_equal(saved[name].numpy(), weights[name]) for name in weights)
    return model.state_dict()


def write_reference(path, attributes, arrays, of_groups={}):
    with create(path) as file:
        file.attrs["generator"] = "tests/golden/make_families.py"
        file.attrs["versions"] = f"torch {torch.__version__}, transformers {transformers.__version__}, numpy {np.__version__}, " \
                                 f"h5py {h5py.__version__}"
        for key, value in attributes.items():
            file.attrs[key] = value
        for key, (array, dtype) in arrays.items():
            write_array(file, key, array, dtype)
        for group, own in of_groups.items():
            file[group].attrs.update(own)


class Computed:
    """What a model of a seed computes: arrays of what every seed has, logits [2,24,V], gradients by name."""

    def __init__(self, architecture, config, folder, seed, lengths):
        batch = make_batch(config.vocab_size, torch.Generator().manual_seed(seed), lengths)
        tokens, targets, valid = batch["tokens"], batch["targets"], batch["targets"] >= 0
        state = made_state(folder, seed)
        with in_float64():
            precise = in_double(architecture, config, state)
            routers = Routers(precise)
            logits = run(precise, tokens, lengths)
            self.is_clear = routers.clear()
            if not self.is_clear:
                return
            loss = torch.nn.functional.cross_entropy(logits[valid], targets[valid])
            loss.backward()
            experts = routers.experts() if routers.counts else None
            with torch.no_grad():
                self.short = tokens[:1, :SHORT], precise(tokens[:1, :SHORT], use_cache=False).logits
        self.gradients = {name: g.numpy() for name, g in saved_gradients(architecture, config, precise).items()}
        self.logits, self.tokens, self.lengths = logits.detach(), tokens, lengths
        self.arrays = {key: (array.numpy(), "i4") for key, array in batch.items()}
        self.arrays["loss"] = loss.item(), "f8"
        if experts is not None:
            self.arrays["experts"] = experts.numpy(), "u1"
        self.attributes = dict(seed=seed, num_valid=int(valid.sum()), smallest_routing_gap=routers.gap)

    def projected(self, entries):
        """In place of logits and gradients."""
        logits = self.logits.flatten(0, 1).numpy()
        of_tensors = [[abs(self.gradients[name]).max(), *(signs(name, int(np.prod(shape))) @ self.gradients[name].ravel())]
                      for name, shape, _, _ in entries]
        return {"logits": (logits @ signs("logits", logits.shape[1]).T, "f8"), "largest": ([abs(logits).max()], "f8"),
                "gradients": (of_tensors, "f8")}


def computed(architecture, config, folder, first, lengths):
    """Of the first seed that keeps clear of near-ties."""
    for seed in range(first, 2000):
        model = Computed(architecture, config, folder, seed, lengths)
        if model.is_clear:
            return model
    raise RuntimeError(f"{folder.name}: every seed has a near-tie")


def write_family(name):
    kind, values = FAMILIES[name]
    config_class, architecture = classes(kind)
    common = {key: value for key, value in COMMON.items() if kind != "Mamba2" or key != "max_position_embeddings"}
    config = config_class(**({} if kind == "GPT2" else common) | values)
    folder = FOLDER / "families" / name
    write_folder(kind, architecture, config, folder)
    entries = read_list(folder / "weights.txt")
    model = computed(architecture, config, folder, 1, LENGTHS)
    arrays = dict(model.arrays)
    arrays["logits"] = model.logits.numpy(), "f4"
    arrays["gradients"] = np.concatenate([model.gradients[tensor].ravel() for tensor, *_ in entries]), "f4"
    if kind in ("Phi3", "Phimoe"):
        arrays["short/tokens"], arrays["short/logits"] = (model.short[0].numpy(), "i4"), (model.short[1].numpy(), "f4")
    models = [model]
    for i, lengths in enumerate(OTHER_LENGTHS):
        models.append(computed(architecture, config, folder, models[-1].attributes["seed"] + 1, lengths))
        arrays |= {f"others/{i}/{key}": value for key, value in (models[-1].arrays | models[-1].projected(entries)).items()}
    write_reference(folder / "reference.h5", dict(architecture=architecture.__name__, **model.attributes), arrays,
                    {f"others/{i}": other.attributes for i, other in enumerate(models[1:])})
    differences = [d for m in models for d in check_again(folder, m.attributes["seed"], m.tokens, m.lengths, m.logits)]
    best = model.logits.topk(2).values
    gaps = ", ".join(f"{m.attributes['smallest_routing_gap']:.1e}" for m in models)
    print(f"{name}: seeds {[m.attributes['seed'] for m in models]}, {sum(int(np.prod(shape)) for _, shape, *_ in entries)} values in "
          f"{len(entries)} tensors, {sum(f.stat().st_size for f in folder.iterdir()) / 1024:.0f} KiB; loss {model.arrays['loss'][0]:.4f}, "
          f"logits' deviation {model.logits.std().item():.2f}, median gap {(best[..., 0] - best[..., 1]).median().item():.2f}, routing "
          f"gaps {gaps}; loaded again in float32: {', '.join(f'{d:.1e}' for d in differences)}", flush=True)


def main():
    for name in sys.argv[1:] or FAMILIES:
        write_family(name)


if __name__ == "__main__":
    main()
