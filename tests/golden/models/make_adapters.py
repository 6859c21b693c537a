"""Writes adapters.h5: the models of dense.h5 and moe_options.h5 with low-rank adapters beside their matrices, losses and
the gradients of the adapters' factors in float64.

    python tests/golden/models/make_adapters.py        (PyPI: torch h5py; seconds)

The reference has no adapters: it is the model of the weights W + alpha/r B A, differentiated by A and B. Neither of the
two is zero, so that each has a gradient.
"""
import pathlib
import sys

import h5py
import torch

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
from reference_model import (  # noqa: E402
    create, forward, loss_terms, read_config, read_tensors, write_array, write_attributes, write_tensors)

SCRIPT = "models/make_adapters.py"
RANK, ALPHA = 3, 5.0
SMALLEST_GAP = 2e-4
BLOCKS = (".attention.", ".mlp.", ".moe.shared.", ".moe.experts.")


def has_adapter(name, weight):
    return weight.dim() > 1 and any(block in name for block in BLOCKS)


def draw(generator, *shape):
    """Multiples of 1/256, which float32 holds."""
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.3 * 256).round() / 256


def write_model(out, name):
    with h5py.File(FOLDER / f"{name}.h5") as file:
        config = read_config(file.attrs)
        weights = read_tensors(file, "parameters")
        batch = {column: torch.from_numpy(file[column][()]) for column in ("tokens", "targets", "positions", "documents")}
        balance, z = float(file.attrs["balance_weight"]), float(file.attrs["z_weight"])
    generator = torch.Generator().manual_seed(11)
    a, b = {}, {}
    for key in sorted(weights):
        if not has_adapter(key, weights[key]):
            continue
        *stack, rows, columns = weights[key].shape
        a[key] = draw(generator, *stack, RANK, columns).requires_grad_()
        b[key] = draw(generator, *stack, rows, RANK).requires_grad_()
    merged = {key: w + ALPHA / RANK * (b[key] @ a[key]) if key in a else w for key, w in weights.items()}
    output = forward(merged, config, batch["tokens"], batch["positions"], batch["documents"])
    gap = min([routing.smallest_gap() for routing in output.routing], default=1.0)
    assert gap > SMALLEST_GAP, gap
    terms = loss_terms(merged, config, output, batch["targets"])
    total = terms["ce"] + balance * terms["balance"] + z * terms["z"]
    found = torch.autograd.grad(total, [*a.values(), *b.values()])
    group = out.create_group(name)
    write_attributes(group, SCRIPT, config, rank=RANK, alpha=ALPHA)
    write_array(group, "loss", total.item())
    for which, factors, gradients in (("a", a, found[:len(a)]), ("b", b, found[len(a):])):
        write_tensors(group, f"adapters/{which}", factors, "f4")
        write_tensors(group, f"gradients/{which}", dict(zip(factors, gradients)))
    print(f"{name}: {len(a)} adapters, loss {total.item():.6f}, routing gap {gap:.1e}")


def main():
    with create(FOLDER / "adapters.h5") as out:
        for name in ("dense", "moe_options"):
            write_model(out, name)


if __name__ == "__main__":
    main()
