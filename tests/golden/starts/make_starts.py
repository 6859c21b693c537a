"""Writes greedy.h5 and experts.h5: how students of tiny models start, in float64.

    python tests/golden/starts/make_starts.py          (PyPI: torch h5py; seconds)

greedy.h5: which of 7 layers are dropped one after another by KL. Each time the layer goes without which KL(whole || what is left),
mean over the tokens with a target, is least; every candidate is run from the embedding on and seen on all tokens. Prints how near a
choice comes to another. And the same by a search that tries fewer layers on fewer tokens. Beside it, of the same model, the mean activations of neurons, heads and channels, and the logits of what is
left of the most active.

experts.h5: load, weight, weight times length of the output, and similarity of 8 experts, and the logits of models with 5 of them (by
REAP's score), with 5 merged, and with dense feed-forwards of 3. Batches are those of ../models. All that is cut is cut here by plain
indexing.
"""
import pathlib
import sys
from dataclasses import replace

import torch

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
sys.path.insert(0, str(FOLDER.parent / "models"))
from reference_model import (  # noqa: E402
    attention, create, forward, head, kl_divergence, mixture, rms_norm, swiglu, write_array, write_attributes, write_tensors)
from tiny_models import DENSE, MOE, make_batch, random_parameters, write_batch  # noqa: E402

SCRIPT = "starts/make_starts.py"
DEEP = replace(DENSE, num_layers=7)


def of_layers(parameters, layers):
    """The model of some of the layers, in order."""
    kept = {name: weight for name, weight in parameters.items() if not name.startswith("layers.")}
    for to, source in enumerate(layers):
        prefix = f"layers.{source}."
        kept |= {f"layers.{to}." + name.removeprefix(prefix): weight for name, weight in parameters.items() if name.startswith(prefix)}
    return kept


def logits_of(parameters, config, batch):
    """[N,V] of the tokens that have a target."""
    output = forward(parameters, config, batch["tokens"], batch["positions"], batch["documents"])
    return head(parameters, config, output.final[batch["targets"] >= 0])


@torch.no_grad()
def greedy(parameters, config, batch):
    """Layers in the order in which they are dropped, and the KL after each, down to one layer."""
    whole = logits_of(parameters, config, batch)
    kept, dropped = list(range(config.num_layers)), []
    while len(kept) > 1:
        found = []
        for layer in kept:
            rest = [other for other in kept if other != layer]
            logits = logits_of(of_layers(parameters, rest), replace(config, num_layers=len(rest)), batch)
            found.append((kl_divergence(whole, logits).mean().item(), layer))
        found.sort()
        kl, layer = found[0]
        print(f"without {layer}: KL {kl:.4f}" + (f", the next {found[1][0] / kl - 1:.1%} more" if len(found) > 1 else ""))
        kept.remove(layer)
        dropped.append((layer, kl))
    return dropped


@torch.no_grad()
def raced(parameters, config, batch, stages, errors):
    """What a search drops that tries the layers in the order of what they were at last (at first, 1 - cosine of the streams around them),
    ends a round at the first that was then above the best of it, and gives up a layer at the end of a stage but the last, of so many
    sequences, where its KL is above the best's by more than `errors` standard errors of the mean of the differences, or in sum above all
    of the best's. Also how many were tried, and on all tokens."""
    whole = logits_of(parameters, config, batch)
    sequence = (batch["targets"] >= 0).nonzero()[:, 0]
    streams = forward(parameters, config, batch["tokens"], batch["positions"], batch["documents"]).hidden
    last = {n: (1 - torch.cosine_similarity(streams[n], streams[n + 1], dim=-1)).sum().item() for n in range(config.num_layers)}
    kept, dropped, tried, wholly = list(range(config.num_layers)), [], 0, 0
    while len(kept) > 1:
        best = None
        for layer in sorted(kept, key=last.get):
            if best is not None and dropped and last[layer] > best.mean().item():
                break
            rest = [other for other in kept if other != layer]
            kl = kl_divergence(whole, logits_of(of_layers(parameters, rest), replace(config, num_layers=len(rest)), batch))
            tried += 1
            if best is not None:
                for end in stages[:-1]:
                    seen = sequence < end
                    above = (kl - best)[seen]
                    if kl[seen].sum() > best.sum() or above.mean() > errors * above.std() / len(above) ** 0.5:
                        last[layer] = (best.mean() + above.mean()).item()
                        break
                else:
                    wholly, last[layer] = wholly + 1, kl.mean().item()
                    if kl.mean() < best.mean():
                        best, chosen = kl, layer
            else:
                wholly, last[layer], best, chosen = wholly + 1, kl.mean().item(), kl, layer
        kept.remove(chosen)
        dropped.append((chosen, best.mean().item()))
    print(f"of {config.num_layers * (config.num_layers + 1) // 2 - 1}, {tried} were tried, {wholly} on all tokens:", dropped)
    return dropped, tried, wholly


def layer_inputs(parameters, config, batch):
    """Of each layer: the stream before it, what its heads give [B,S,H,D], and what its feed-forward reads."""
    tokens, positions, documents = batch["tokens"], batch["positions"], batch["documents"]
    order = torch.arange(tokens.shape[1])
    allowed = (order[:, None] >= order[None, :]) & (documents[:, :, None] == documents[:, None, :])
    x = parameters["embed.weight"][tokens]
    for layer in range(config.num_layers):
        prefix = f"layers.{layer}."
        normed = rms_norm(x, parameters[prefix + "attention_norm.weight"], config.norm_eps)
        bare = parameters | {prefix + "attention.o.weight": torch.eye(config.num_heads * config.head_width, dtype=torch.float64)}
        heads = attention(bare, prefix + "attention.", config, normed, positions, allowed)
        middle = x + heads @ parameters[prefix + "attention.o.weight"].T
        seen = rms_norm(middle, parameters[prefix + "mlp_norm.weight"], config.norm_eps)
        yield x, heads.unflatten(-1, (config.num_heads, config.head_width)), seen
        if config.num_experts:
            x = middle + mixture(parameters, prefix + "moe.", config, seen)[0]
        else:
            x = middle + swiglu(seen, *(parameters[f"{prefix}mlp.{name}.weight"] for name in ("gate", "up", "down")))


def narrow(parameters, config, file, batch):
    """Half of the key/value heads, 25 of 40 neurons and 18 of 24 channels are kept."""
    kept_neurons, kept_heads, channels = [], [], 0
    for layer, (x, heads, seen) in enumerate(layer_inputs(parameters, config, batch)):
        prefix = f"layers.{layer}."
        inner = torch.nn.functional.silu(seen @ parameters[prefix + "mlp.gate.weight"].T) * (seen @ parameters[prefix + "mlp.up.weight"].T)
        neurons = inner.abs().sum((0, 1))
        groups = heads.unflatten(2, (config.num_kv_heads, -1)).flatten(-2).norm(dim=-1).sum((0, 1))
        channels = channels + (x.abs() / x.pow(2).mean(-1, keepdim=True).sqrt()).sum((0, 1))
        write_array(file, f"activity/{layer}/neurons", neurons.numpy())
        write_array(file, f"activity/{layer}/kv_heads", groups.numpy())
        kept_neurons.append(neurons.argsort(descending=True)[:25].sort().values)
        kept_heads.append(groups.argsort(descending=True)[:1].sort().values)
    write_array(file, "activity/channels", channels.numpy())
    c = channels.argsort(descending=True)[:18].sort().values
    left, grown = {}, (config.width / 18) ** 0.5
    for name, weight in parameters.items():
        if name.startswith("layers."):
            layer, part = int(name.split(".")[1]), name.split(".", 2)[2]
            per_group = config.num_heads // config.num_kv_heads * config.head_width
            rows = torch.cat([torch.arange(per_group) + g * per_group for g in kept_heads[layer].tolist()])
            keys = torch.cat([torch.arange(config.head_width) + g * config.head_width for g in kept_heads[layer].tolist()])
            n = kept_neurons[layer]
            cut = {"attention.q.weight": lambda w: w[rows][:, c], "attention.k.weight": lambda w: w[keys][:, c],
                   "attention.v.weight": lambda w: w[keys][:, c], "attention.o.weight": lambda w: w[c][:, rows],
                   "mlp.gate.weight": lambda w: w[n][:, c], "mlp.up.weight": lambda w: w[n][:, c],
                   "mlp.down.weight": lambda w: w[c][:, n]}.get(part, lambda w: w[c] * grown)
            left[name] = cut(weight)
        else:
            left[name] = weight[c] * grown if name == "norm.weight" else weight[:, c]
    smaller = replace(config, width=18, num_heads=config.num_heads // 2, num_kv_heads=1, mlp_width=25, norm_eps=config.norm_eps * 24 / 18)
    write_array(file, "narrower/logits", logits_of(left, smaller, batch).numpy())


def experts(parameters, config, file, batch):
    norms, loads, weights, alike = [], [], [], []
    for layer, (_, _, seen) in enumerate(layer_inputs(parameters, config, batch)):
        prefix = f"layers.{layer}.moe."
        x = seen.flatten(0, 1)
        logits = x @ parameters[prefix + "router.weight"].T
        chosen = logits.argsort(dim=-1, descending=True, stable=True)[:, :config.experts_per_token]
        gates = torch.zeros_like(logits).scatter(-1, chosen, logits.gather(-1, chosen).softmax(-1))
        lengths = torch.stack([
            swiglu(x, *(parameters[f"{prefix}experts.{name}"][e] for name in ("gate", "up", "down"))).norm(dim=-1)
            for e in range(config.num_experts)], dim=-1)
        load = (gates > 0).sum(0)
        norms.append((gates * lengths).sum(0) / load.clamp(min=1))
        loads.append(load)
        weights.append(gates.sum(0))
        unit = logits / logits.norm(dim=0)
        alike.append(unit.T @ unit)
        for name, values in (("routed_norm", norms), ("load", loads), ("weight", weights), ("similarity", alike)):
            write_array(file, f"use/{layer}/{name}", values[-1].numpy())

    def changed(new_config, change):
        left = {name: weight for name, weight in parameters.items() if ".moe." not in name}
        for layer in range(config.num_layers):
            prefix = f"layers.{layer}."
            of_layer = {name.removeprefix(prefix + "moe."): weight for name, weight in parameters.items() if name.startswith(prefix + "moe.")}
            left |= {prefix + name: weight for name, weight in change(layer, of_layer).items()}
        return logits_of(left, new_config, batch).numpy()

    def pruned(layer, moe):
        keep = norms[layer].argsort(descending=True)[:5].sort().values
        return {"moe." + name: weight[keep] for name, weight in moe.items()}

    def merged(layer, moe):
        load = loads[layer].double()
        leaders = load.argsort(descending=True, stable=True)[:5].sort().values.tolist()
        members = {leader: [leader] for leader in leaders}
        for e in set(range(config.num_experts)) - set(leaders):
            members[max(leaders, key=lambda leader: alike[layer][e, leader])].append(e)
        result = {"moe.router.weight": moe["router.weight"][leaders]}
        for name in ("experts.gate", "experts.up", "experts.down"):
            result["moe." + name] = torch.stack([
                sum(load[e] * moe[name][e] for e in members[leader]) / sum(load[e] for e in members[leader]) for leader in leaders])
        return result

    def dense(layer, moe):
        keep = weights[layer].argsort(descending=True)[:3].sort().values
        share = weights[layer][keep] / weights[layer][keep].sum()
        return {"mlp.gate.weight": moe["experts.gate"][keep].flatten(0, 1), "mlp.up.weight": moe["experts.up"][keep].flatten(0, 1),
                "mlp.down.weight": torch.cat([s * down for s, down in zip(share, moe["experts.down"][keep])], dim=1)}

    write_array(file, "pruned/logits", changed(replace(config, num_experts=5), pruned))
    write_array(file, "merged/logits", changed(replace(config, num_experts=5), merged))
    write_array(file, "dense/logits", changed(replace(config, num_experts=0, mlp_width=3 * config.expert_width), dense))


@torch.no_grad()
def main():
    parameters, batch = random_parameters(DEEP, 21), make_batch(DEEP, 22)
    for name in parameters:  # layers do less, and some far less than others: so there is something to choose
        if name.endswith(("o.weight", "down.weight")):
            parameters[name] = (parameters[name] * [1.5, 0.3, 0.8, 0.1, 0.5, 0.6, 1.2][int(name.split(".")[1])] * 256).round() / 256
    dropped = greedy(parameters, DEEP, batch)
    with create(FOLDER / "greedy.h5") as file:
        write_attributes(file, SCRIPT, DEEP)
        write_tensors(file, "parameters", parameters, "f4")
        write_batch(file, batch)
        write_array(file, "dropped/layers", torch.tensor([layer for layer, _ in dropped]).numpy())
        write_array(file, "dropped/kl", torch.tensor([kl for _, kl in dropped], dtype=torch.float64).numpy())
        dropped, tried, wholly = raced(parameters, DEEP, batch, [1, 2, len(batch["tokens"])], 0.3)
        write_array(file, "raced/layers", torch.tensor([layer for layer, _ in dropped]).numpy())
        write_array(file, "raced/kl", torch.tensor([kl for _, kl in dropped], dtype=torch.float64).numpy())
        write_array(file, "raced/runs", torch.tensor([tried, wholly]).numpy())
        narrow(parameters, DEEP, file, batch)
    parameters, batch = random_parameters(MOE, 23), make_batch(MOE, 24)
    with create(FOLDER / "experts.h5") as file:
        write_attributes(file, SCRIPT, MOE)
        write_tensors(file, "parameters", parameters, "f4")
        write_batch(file, batch)
        experts(parameters, MOE, file, batch)


if __name__ == "__main__":
    main()
