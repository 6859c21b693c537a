"""Writes smollm2_layer_skip.h5: logits of a dense student made of 15 of SmolLM2-135M-Instruct's layers, in float64.

    python tests/golden/layer_skip/make_layer_skip.py  (after ../influence/make_influence.py; a minute)

The student has the teacher's embedding, norm, tied head and the listed layers, renumbered in order. The input is one sequence:
the first 64 tokens of row 0 of ../influence/smollm2_influence.h5. The teacher's own argmax and logsumexp are there too.
"""
import pathlib
import sys
from dataclasses import replace

import h5py
import numpy as np
import torch

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
from reference_model import create, forward, head, kl_divergence, write_array, write_attributes  # noqa: E402
from reference_teacher import load_gguf, smollm2_path  # noqa: E402

LAYERS = [0, 1, 2, 8, 10, 11, 19, 20, 21, 22, 23, 24, 27, 28, 29]
LENGTH = 64
NUM_COLUMNS = 64


def skip_layers(parameters, layers):
    kept = {name: weight for name, weight in parameters.items() if not name.startswith("layers.")}
    for to, source in enumerate(layers):
        prefix = f"layers.{source}."
        kept |= {f"layers.{to}." + name.removeprefix(prefix): weight for name, weight in parameters.items()
                 if name.startswith(prefix)}
    return kept


@torch.no_grad()
def main():
    with h5py.File(FOLDER.parent / "influence" / "smollm2_influence.h5") as file:
        tokens = torch.from_numpy(file["tokens"][:1, :LENGTH])
    parameters, config = load_gguf(smollm2_path())
    student = replace(config, num_layers=len(LAYERS))
    teacher_logits = head(parameters, config, forward(parameters, config, tokens).final)[0]
    parameters = skip_layers(parameters, LAYERS)
    logits = head(parameters, student, forward(parameters, student, tokens).final)[0]
    kl = kl_divergence(teacher_logits, logits)
    columns = np.round(np.linspace(0, config.vocabulary - 1, NUM_COLUMNS)).astype(np.int64)
    best = logits.topk(2).values
    print(f"KL(teacher || student) on {LENGTH} tokens: {kl.mean():.4f}; smallest argmax gap {(best[:, 0] - best[:, 1]).min():.2e}")
    with create(FOLDER / "smollm2_layer_skip.h5") as file:
        write_attributes(file, "layer_skip/make_layer_skip.py", student)
        write_array(file, "layers", LAYERS, np.int64)
        write_array(file, "tokens", tokens[0].numpy())
        write_array(file, "columns", columns)
        write_array(file, "logits", logits[:, columns].numpy(), np.float32)
        write_array(file, "argmax", logits.argmax(-1).numpy())
        write_array(file, "gap", (best[:, 0] - best[:, 1]).numpy())
        write_array(file, "logsumexp", logits.logsumexp(-1).numpy())
        write_array(file, "kl", kl.numpy())
        write_array(file, "teacher/argmax", teacher_logits.argmax(-1).numpy())
        write_array(file, "teacher/logsumexp", teacher_logits.logsumexp(-1).numpy())


if __name__ == "__main__":
    main()
