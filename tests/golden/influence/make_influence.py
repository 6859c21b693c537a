"""Writes smollm2_influence.h5: each layer's block influence in SmolLM2-135M-Instruct, in float64.

    python tests/golden/influence/make_influence.py    (needs the Debian package anarchism too; a minute)

Influence of a layer = 1 - cosine of the residual stream before and after it, mean over tokens. The 512 tokens are the first 256
of two files of the package, tokenized by the oracle; their ids are kept, so the text is not needed to test.
"""
import gzip
import pathlib
import sys

import torch

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
from reference_model import create, forward, write_array, write_attributes  # noqa: E402
from reference_teacher import load_gguf, smollm2_path, tokenizer  # noqa: E402

TEXTS = ["/usr/share/doc/anarchism/markdown/10years.md.gz", "/usr/share/doc/anarchism/markdown/secA1.md.gz"]
LENGTH = 256


@torch.no_grad()
def influences(parameters, config, tokens):
    """tokens [B,S] -> [L]"""
    hidden = forward(parameters, config, tokens).hidden
    return torch.stack([
        1 - torch.nn.functional.cosine_similarity(before, after, dim=-1).mean()
        for before, after in zip(hidden[:-1], hidden[1:])])


def main():
    path = smollm2_path()
    oracle = tokenizer(path)
    tokens = torch.tensor([oracle.encode(gzip.open(text, "rt", encoding="utf-8").read()).ids[:LENGTH] for text in TEXTS])
    parameters, config = load_gguf(path)
    found = influences(parameters, config, tokens)
    print("influence", " ".join(f"{layer}:{value:.4f}" for layer, value in enumerate(found.tolist())))
    order = found.argsort(descending=True)
    print("greatest 15:", sorted(order[:15].tolist()), f"gap to the 16th {(found[order[14]] - found[order[15]]).item():.2e}")
    with create(FOLDER / "smollm2_influence.h5") as file:
        write_attributes(file, "influence/make_influence.py", config, texts=", ".join(TEXTS) + " of Debian's anarchism 15.3-3")
        write_array(file, "tokens", tokens.numpy())
        write_array(file, "influence", found.numpy())


if __name__ == "__main__":
    main()
