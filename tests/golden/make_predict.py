"""Writes families/deepseek_v3_mtp/: a tiny DeepSeek-V3 with two layers that predict further tokens, and what it computes.

    /opt/torch/bin/python tests/golden/make_predict.py            (seconds)

transformers leaves such layers out. So they are written out here, of the paper (DeepSeek-AI 2024, "DeepSeek-V3", section 2.2) and
of the order in which vLLM, SGLang and Megatron read eh_proj: with h^0 the model's hidden states behind its last norm, and t the
tokens of a document,

    x^k_i = eh_proj [enorm(embed(t_{i+k+1})); hnorm(h^k_i)],    h^{k+1} = shared_head.norm(layer(x^k)),

layer a decoder layer of transformers at positions i, and lm_head(h^{k+1}_i) predicts t_{i+k+2}. Where a document has no token
i+k+1 it is token 0: nothing that is predicted sees it, but routers do. The folder holds config.json (num_nextn_predict_layers 2) and
model.safetensors as DeepSeek's own has them, with the copies of embedding and head, and reference.h5 as make_families.py has it, with

    predict/logits/{0,1} [2,24,V]: of the depths, 0 where a document has no token i+k+1
    loss/{ce,z,total}, loss/predict [2]: of the model, of its routers, of each depth (a sum over its targets, by the number of the
        model's targets, as in the paper), and ce + 0.3 mean(predict) + 0.01 z; z is the mean over the tokens and all layers with
        experts, the two among them
    gradients [N]: of the total
    distilled/{total,predict}, distilled/gradients/NAME: of 0.4 CE + 0.6 T^2 KL(p || q) at temperature T = 1.5 (a depth's mean times
        0.3 too, without z), where p is of the same model with logits three times as large, at the token that is predicted from
"""
import json
import pathlib
import tempfile

import h5py
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from family_configs import COMMON, FAMILIES
from make_families import (FOLDER, LENGTHS, Routers, build, classes, in_double, in_float64, make_batch, randomise, split_file,
                           write_reference)

DEPTHS, LAYERS, WEIGHT, Z_WEIGHT, ALPHA, TEMPERATURE = 2, 2, 0.3, 0.01, 0.4, 1.5
NAME = "deepseek_v3_mtp"
DISTILLED = {"embed.weight": "model.embed_tokens.weight", "predict.0.project.weight": f"model.layers.{LAYERS}.eh_proj.weight",
             "predict.1.project.weight": f"model.layers.{LAYERS + 1}.eh_proj.weight",
             "predict.0.norm.weight": f"model.layers.{LAYERS}.shared_head.norm.weight"}


class Norm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Predictor(nn.Module):
    """What a layer that predicts has beside a decoder layer."""

    def __init__(self, config):
        super().__init__()
        self.enorm, self.hnorm = (Norm(config.hidden_size, config.rms_norm_eps) for _ in range(2))
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.shared_head = nn.Module()
        self.shared_head.norm = Norm(config.hidden_size, config.rms_norm_eps)


def configuration(layers):
    config_class, _ = classes("DeepseekV3")
    own = {**COMMON, **FAMILIES["deepseek_v3"][1]}
    own.update(vocab_size=29, num_hidden_layers=layers, n_routed_experts=6, num_experts_per_tok=3)
    return config_class(**own)


def document(model, predictors, tokens):
    """Logits of the model and of each depth, [T,V], of one document."""
    inner, length = model.model, len(tokens)
    positions = torch.arange(length)[None]
    mask = torch.full((length, length), -torch.inf).triu(1)[None, None].to(model.lm_head.weight.dtype)
    embedded = inner.embed_tokens(tokens[None])
    turns = inner.rotary_emb(embedded, positions)

    def layer(n, x):
        return inner.layers[n](x, attention_mask=mask, position_embeddings=turns, position_ids=positions)

    hidden = embedded
    for n in range(LAYERS):
        hidden = layer(n, hidden)
    hidden = inner.norm(hidden)
    logits = [model.lm_head(hidden)[0]]
    for k, predictor in enumerate(predictors):
        ahead = torch.cat([tokens[k + 1:], tokens.new_zeros(min(k + 1, length))])
        both = torch.cat([predictor.enorm(inner.embed_tokens(ahead[None])), predictor.hnorm(hidden)], dim=-1)
        hidden = predictor.shared_head.norm(layer(LAYERS + k, predictor.eh_proj(both)))
        logits.append(model.lm_head(hidden)[0])
    return logits


def run(model, predictors, tokens):
    """-> [1+D,2,24,V]"""
    rows = [[document(model, predictors, part) for part in row.split(lengths)] for row, lengths in zip(tokens, LENGTHS)]
    return torch.stack([torch.stack([torch.cat([part[d] for part in row]) for row in rows]) for d in range(1 + len(predictors))])


def moved(values, documents, by, otherwise):
    """Of each token the value of the one that is `by` further on in its document."""
    result = torch.full_like(values, otherwise)
    same = documents[:, by:] == documents[:, :-by]
    result[:, :-by] = torch.where(same, values[:, by:], otherwise)
    return result


def stored(model, extra):
    """Tensors by the names of the file."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tensors = load_file(pathlib.Path(folder) / "model.safetensors")
    for k, predictor in enumerate(extra):
        prefix = f"model.layers.{LAYERS + k}."
        tensors |= {prefix + name: tensor for name, tensor in predictor.state_dict().items()}
        tensors[prefix + "embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors[prefix + "shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    return {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}


def take_gradients(modules):
    taken = [{name: p.grad.clone() for name, p in module.named_parameters()} for module in modules]
    for module in modules:
        module.zero_grad()
    return taken


def stored_gradients(gradients, architecture, config):
    """What the file would hold were each parameter its gradient. A buffer has none: 0."""
    carriers = [build(architecture, config)] + [Predictor(config) for _ in range(DEPTHS)]
    for carrier, own in zip(carriers, gradients):
        for tensor in carrier.state_dict().values():
            tensor.zero_()
        for name, p in carrier.named_parameters():
            assert own[name].isfinite().all() and own[name].any(), name
            p.data.copy_(own[name])
    return stored(carriers[0], carriers[1:])


def depth_losses(logits, batch, loss_of):
    """The model's, and each depth's: sums over its targets, by the number of the model's."""
    count = (batch["targets"] >= 0).sum()
    losses = []
    for d in range(len(logits)):
        targets = batch["targets"] if d == 0 else moved(batch["targets"], batch["documents"], d, -1)
        losses.append(loss_of(logits[d], targets, d) / count)
    return losses


def cross_entropy(logits, targets, _):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum")


def distillation(teacher):
    def loss(logits, targets, d):
        taught = teacher if d == 0 else torch.stack(
            [torch.cat([row[d:], row[:d]]) for row in teacher])  # rows without a target count nowhere
        valid = targets >= 0
        p = (taught[valid] / TEMPERATURE).log_softmax(-1)
        q = (logits[valid] / TEMPERATURE).log_softmax(-1)
        kl = (p.exp() * (p - q)).sum()
        return ALPHA * cross_entropy(logits, targets, d) + (1 - ALPHA) * TEMPERATURE ** 2 * kl
    return loss


def write(seed):
    _, architecture = classes("DeepseekV3")
    config = configuration(LAYERS + DEPTHS)
    generator = torch.Generator().manual_seed(seed)
    model = build(architecture, config)
    randomise(model, generator)
    predictors = [Predictor(config) for _ in range(DEPTHS)]
    for predictor in predictors:
        randomise(predictor, generator)
    batch = make_batch(config.vocab_size, generator)
    with in_float64():
        precise = in_double(architecture, config, model.state_dict())
        exact = [Predictor(config).double() for _ in range(DEPTHS)]
        for own, other in zip(exact, predictors):
            own.load_state_dict(other.state_dict())
        routers, scores = Routers(precise), []
        for name, module in precise.named_modules():
            if type(module).__name__.endswith("Router"):
                module.register_forward_hook(lambda router, _, output: scores.append(output[0]))
        logits = run(precise, exact, batch["tokens"])
        if not routers.clear():
            return False
        ce, *predict = depth_losses(logits, batch, cross_entropy)
        z = torch.cat([s.logsumexp(-1).square() for s in scores]).mean()
        total = ce + WEIGHT * torch.stack(predict).mean() + Z_WEIGHT * z
        total.backward()
        gradients = take_gradients([precise, *exact])
        again = run(precise, exact, batch["tokens"])
        assert torch.equal(again, logits)
        main, *further = depth_losses(again, batch, distillation(3 * logits[0].detach()))
        distilled = main + WEIGHT * torch.stack(further).mean()
        distilled.backward()
        taught = take_gradients([precise, *exact])
    gradients, taught = (stored_gradients(own, architecture, config) for own in (gradients, taught))
    folder = FOLDER / "families" / NAME
    folder.mkdir(parents=True, exist_ok=True)
    save_file(stored(model, predictors), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    with tempfile.TemporaryDirectory() as other:
        configuration(LAYERS).save_pretrained(other)
        settings = json.loads((pathlib.Path(other) / "config.json").read_text())
        save_file(gradients, pathlib.Path(other) / "model.safetensors", metadata={"format": "pt"})
        head, values = split_file(pathlib.Path(other))
        assert head == split_file(folder)[0]
    settings |= {"architectures": ["DeepseekV3ForCausalLM"], "num_nextn_predict_layers": DEPTHS}
    (folder / "config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    known = [torch.ones_like(batch["tokens"], dtype=torch.bool)]
    known += [moved(known[0], batch["documents"], k + 1, False) for k in range(DEPTHS)]
    arrays = {key: (array.numpy(), "i4") for key, array in batch.items()}
    arrays["logits"] = logits[0].detach().numpy(), "f4"
    for k in range(DEPTHS):
        arrays[f"predict/logits/{k}"] = (logits[k + 1] * known[k + 1][..., None]).detach().numpy(), "f4"
    arrays |= {"loss/ce": (ce.item(), "f8"), "loss/z": (z.item(), "f8"), "loss/total": (total.item(), "f8"),
               "loss/predict": (np.array([p.item() for p in predict]), "f8"), "gradients": (values, "f4"),
               "distilled/total": (distilled.item(), "f8"),
               "distilled/predict": (np.array([p.item() for p in further]), "f8")}
    arrays |= {"distilled/gradients/" + ours.replace(".", "/"): (taught[theirs].numpy(), "f4") for ours, theirs in DISTILLED.items()}
    write_reference(folder / "reference.h5", dict(seed=seed, smallest_routing_gap=routers.gap, predict_weight=WEIGHT,
                                                  z_weight=Z_WEIGHT, alpha=ALPHA, temperature=TEMPERATURE), arrays)
    with h5py.File(folder / "reference.h5", "a") as file:
        file.attrs["generator"] = "tests/golden/make_predict.py"
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{NAME}: seed {seed}, {size / 1024:.0f} KiB; ce {ce.item():.4f}, further {[round(p.item(), 4) for p in predict]}, "
          f"z {z.item():.3f}, routing gap {routers.gap:.1e}")
    return True


if __name__ == "__main__":
    if not any(write(seed) for seed in range(1, 500)):
        raise RuntimeError("every seed has a near-tie")
