"""Compares the logits that `limbeck eval MODEL --tokens FILE --logits OUT.h5` wrote with transformers'.

    python tests/golden/check_logits.py MODEL_DIR OUT.h5 [--tolerance 1e-4]      (PyPI: torch transformers h5py)

MODEL_DIR is a Hugging Face directory (`limbeck convert CHECKPOINT DIR` makes one of a checkpoint), or a GGUF file of the
`llama` architecture, which the reference model of this folder then computes in float64 (PyPI: gguf tokenizers). OUT.h5 holds
/tokens [T] or [B,S] and /logits [T,V] or [B,S,V]; a flat file is one sequence. Prints max |difference| / max |reference|;
exit 1 when it is above the tolerance.
"""
import argparse
import os
import sys

import h5py
import torch

from reference_model import forward, head


@torch.no_grad()
def reference_logits(model, tokens):
    if os.path.isfile(model):
        from reference_teacher import load_gguf
        parameters, config = load_gguf(model)
        return head(parameters, config, forward(parameters, config, tokens).final)
    from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, attn_implementation="eager", local_files_only=True).eval()(tokens).logits


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("logits")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    arguments = parser.parse_args()
    with h5py.File(arguments.logits) as file:
        tokens = torch.from_numpy(file["tokens"][()]).long()
        found = torch.from_numpy(file["logits"][()]).double()
    if list(found.shape[:-1]) != list(tokens.shape) or tokens.dim() not in (1, 2):
        sys.exit(f"{arguments.logits}: /logits has shape {list(found.shape)}, expected {list(tokens.shape) + ['V']}")
    if tokens.dim() == 1:
        tokens, found = tokens[None], found[None]
    reference = reference_logits(arguments.model, tokens).double()
    if reference.shape != found.shape:
        sys.exit(f"{arguments.logits}: /logits has shape {list(found.shape)}, the model gives {list(reference.shape)}")
    difference = (found - reference).abs()
    relative = (difference.max() / reference.abs().max()).item()
    worst = difference.amax(-1).flatten().argmax().item()
    agree = (found.argmax(-1) == reference.argmax(-1)).double().mean().item()
    print(f"{tokens.numel()} tokens, {found.shape[-1]} columns: max |difference| {difference.max():.3e} (token {worst}), "
          f"max |reference| {reference.abs().max():.3e}, ratio {relative:.3e}, same argmax {agree:.4f}")
    if not relative <= arguments.tolerance:
        sys.exit(f"above the tolerance of {arguments.tolerance:g}")


if __name__ == "__main__":
    main()
