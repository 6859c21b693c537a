#!/usr/bin/env python3
"""The mean entropy of the teacher's distributions on the study's text, and the smoothing of labels that have as much.

    examples/study/teacher_entropy.py [OUT]      # of study.py; needs numpy and h5py
"""
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "runs/study")
tokens = np.fromfile(next((out / "tokens").glob("*.bin")), dtype=np.uint16)
rng = np.random.default_rng(1)
entropies = []
with tempfile.TemporaryDirectory() as folder:
    for first in rng.integers(0, len(tokens) - 256, 16):
        (Path(folder) / "ids.txt").write_text(" ".join(map(str, tokens[first:first + 256])))
        logits = Path(folder) / "logits.h5"
        subprocess.run([ROOT / "build/release/bin/limbeck", "eval", ROOT / "downloads/SmolLM2-135M-Instruct.Q4_1.gguf", "--tokens",
                        f"{folder}/ids.txt", "--logits", logits, "--force", "--quiet"], check=True, stdout=subprocess.DEVNULL)
        z = h5py.File(logits)["logits"][:].astype(np.float64)
        log_p = z - z.max(axis=1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        entropies.extend(-(np.exp(log_p) * log_p).sum(axis=1))
vocabulary = z.shape[1]


def entropy(smoothing):
    p, other = 1 - smoothing + smoothing / vocabulary, smoothing / vocabulary
    return -p * math.log(p) - (vocabulary - 1) * other * math.log(other)


low, high = 1e-3, 0.9
for _ in range(60):
    middle = (low + high) / 2
    low, high = (middle, high) if entropy(middle) < np.mean(entropies) else (low, middle)
print(f"entropy {np.mean(entropies):.4f} nats of {len(entropies)} positions; smoothing {low:.4f}")
