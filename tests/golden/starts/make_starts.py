"""Writes greedy.h5: how students of a tiny model start, in float64.

    python tests/golden/starts/make_starts.py          (PyPI: torch h5py; seconds)

greedy.h5: which of 7 layers are dropped one after another by KL. Each time the layer goes without which KL(whole || what is left),
mean over the tokens with a target, is least; every candidate is run from the embedding on and seen on all tokens. Prints how near a
choice comes to another. The batch is that of ../models.
"""
import pathlib
import sys
from dataclasses import replace

import torch

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
sys.path.insert(0, str(FOLDER.parent / "models"))
from make_models import DENSE, make_batch, random_parameters, write_batch  # noqa: E402
from reference_model import create, forward, head, kl_divergence, write_array, write_attributes, write_tensors  # noqa: E402

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


if __name__ == "__main__":
    main()
