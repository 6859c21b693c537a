"""Recomputes, in float64, the loss and every gradient of a file written by `limbeck train --dump-gradients DUMP.h5`.

    python tests/golden/check_gradients.py DUMP.h5 [--tolerance 1e-5]                          (PyPI: torch h5py)
    python tests/golden/check_gradients.py DUMP.h5 --teacher T.gguf --alpha 0.1 --temperature 1    a distillation's

DUMP.h5 holds /parameters/<path>, /gradients/<path> (layers/3/attention/q/weight), /tokens, /targets [B,S] (-1: no target),
/positions, /documents [B,S], /loss/<term>, and on the root the attributes valid_vocabulary width num_layers num_heads num_kv_heads head_width
vocabulary experts_per_token num_experts shared_width norm_eps rope_base tied_head renormalise balance_weight z_weight global_balance
capacity_factor jitter seed (jitter is known for the first step alone). Terms: ce, balance, z
unweighted (means over the MoE layers), kl a token without T^2, total = what the gradients are of:
ce + balance_weight balance + z_weight z, with alpha ce + (1 - alpha) T^2 kl in place of ce when there is a teacher.

Prints the worst gradients by the design's metric, max|a-b| / max(max|b|, G/100), G the model's largest gradient entry, and how
near the routing is to a tie (a difference there may be a flip); exit 1 when a gradient or the total is beyond the tolerance.
"""
import argparse
import sys

import h5py
import torch

from reference_model import (
    forward, gradient_errors, head, kl_divergence, loss_terms, read_config, read_tensors)


def distillation(teacher_path, output, parameters, config, batch):
    """Mean KL(p_T || q_T) over valid targets."""
    from reference_teacher import load_gguf
    teacher, teacher_config = load_gguf(teacher_path)
    valid = batch["targets"] >= 0
    with torch.no_grad():
        final = forward(teacher, teacher_config, batch["tokens"], batch["positions"], batch["documents"]).final[valid]
        teacher_logits = head(teacher, teacher_config, final)
    student_logits = head(parameters, config, output.final[valid])
    return lambda temperature: kl_divergence(
        teacher_logits[..., :student_logits.shape[-1]], student_logits, temperature).mean()


def read_dump(path):
    with h5py.File(path) as file:
        for name in ("parameters", "gradients", "loss", "tokens", "targets", "positions", "documents"):
            if name not in file:
                sys.exit(f"{path}: /{name} is missing")
        others = ("divergence", "hidden_weight", "attention_weight", "feed_forward_weight", "routers_weight")
        if any(file.attrs.get(name, 0) != 0 for name in others):
            sys.exit(f"{path}: of the objectives cross-entropy and the forward KL are known here, without what is matched beside them")
        batch = {name: torch.from_numpy(file[name][()]).long() for name in ("tokens", "targets", "positions", "documents")}
        weights = {name: float(file.attrs.get(name, 0.0)) for name in ("balance_weight", "z_weight")}
        frozen = str(file.attrs.get("frozen", "")).split()
        return (read_config(file.attrs), weights, frozen, batch, read_tensors(file, "parameters"), read_tensors(file, "gradients"),
                read_tensors(file, "loss"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dump")
    parser.add_argument("--tolerance", type=float, default=1e-5)
    parser.add_argument("--teacher", help="a GGUF of the llama architecture")
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--temperature", type=float, default=1.0)
    arguments = parser.parse_args()
    config, weights, frozen, batch, parameters, found, found_loss = read_dump(arguments.dump)

    parameters = {name: weight.requires_grad_() for name, weight in parameters.items()}
    output = forward(parameters, config, batch["tokens"], batch["positions"], batch["documents"])
    terms = loss_terms(parameters, config, output, batch["targets"])
    objective = terms["ce"]
    if arguments.teacher:
        terms["kl"] = distillation(arguments.teacher, output, parameters, config, batch)(arguments.temperature)
        objective = arguments.alpha * terms["ce"] + (1 - arguments.alpha) * arguments.temperature ** 2 * terms["kl"]
    elif "kl" in found_loss:
        sys.exit(f"{arguments.dump}: /loss/kl says that this was a distillation: give --teacher, --alpha and --temperature")
    terms["total"] = objective + weights["balance_weight"] * terms["balance"] + weights["z_weight"] * terms["z"]
    trained = [name for name in parameters if name not in frozen]
    expected = dict(zip(trained, torch.autograd.grad(terms["total"], [parameters[name] for name in trained])))

    failed = False
    for name in sorted(found_loss):
        if name not in terms:
            print(f"loss {name}: {found_loss[name].item():.8f}, unknown here")
            continue
        error = abs(found_loss[name].item() - terms[name].item()) / max(abs(terms[name].item()), 1e-30)
        failed |= name == "total" and not error <= arguments.tolerance
        print(f"loss {name}: {found_loss[name].item():.8f}, expected {terms[name].item():.8f}, error {error:.2e}")
    for name in sorted(set(found) ^ set(expected)):
        sys.exit(f"{arguments.dump}: {name} is {'not a parameter' if name in found else 'without a gradient'}")
    for name in found:
        if found[name].shape != expected[name].shape:
            sys.exit(f"{arguments.dump}: the gradient of {name} has shape {list(found[name].shape)}, "
                     f"expected {list(expected[name].shape)}")
    errors = gradient_errors(found, expected)
    for name in sorted(errors, key=errors.get, reverse=True)[:5]:
        print(f"gradient {name}: error {errors[name]:.2e}")
    if output.routing:
        print(f"smallest routing gap {min(routing.smallest_gap() for routing in output.routing):.2e} (router logits)")
    worst = max(errors.values())
    failed |= not worst <= arguments.tolerance
    print(f"{len(errors)} gradients, worst error {worst:.2e}: {'beyond' if failed else 'within'} {arguments.tolerance:g}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
