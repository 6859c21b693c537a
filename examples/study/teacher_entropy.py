#!/usr/bin/env python3
"""The mean entropy of the teacher's distributions on the study's text, and the smoothing of labels that have as much.

    examples/study/teacher_entropy.py [OUT]      # of study.py; needs numpy and h5py

OUT/teacher_entropy.json has it, for study.py to print beside that of its smoothed labels.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

from study import ROOT, TEACHER, VOCABULARY, WINDOW, smoothed_entropy

out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "runs/study")
tokens = np.fromfile(next((out / "tokens").glob("*.bin")), dtype=np.uint16)
rng = np.random.default_rng(1)
entropies = []  # of each window
with tempfile.TemporaryDirectory() as folder:
    for first in rng.integers(0, len(tokens) - WINDOW, 16):
        (Path(folder) / "ids.txt").write_text(" ".join(map(str, tokens[first:first + WINDOW])))
        logits = Path(folder) / "logits.h5"
        subprocess.run([ROOT / "build/release/bin/limbeck", "eval", ROOT / TEACHER, "--tokens", f"{folder}/ids.txt", "--logits", logits, "--force",
                        "--quiet"], check=True, stdout=subprocess.DEVNULL)
        z = h5py.File(logits)["logits"][:].astype(np.float64)
        log_p = z - z.max(axis=1, keepdims=True)
        log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        entropies.append(-(np.exp(log_p) * log_p).sum(axis=1))
        if z.shape[1] != VOCABULARY:
            sys.exit(f"teacher_entropy.py: error: {TEACHER} has {z.shape[1]} tokens, expected the {VOCABULARY} of study.py")
means = np.mean(entropies, axis=1)
mean, error = np.mean(means), np.std(means, ddof=1) / np.sqrt(len(means))  # positions of a window are no draws of their own
(out / "teacher_entropy.json").write_text(json.dumps({"entropy": mean, "error": error, "positions": np.size(entropies)}) + "\n")

low, high = 1e-3, 0.9
for _ in range(60):
    middle = (low + high) / 2
    low, high = (middle, high) if smoothed_entropy(middle, VOCABULARY) < mean else (low, middle)
print(f"entropy {mean:.4f} nats, with a standard error of {error:.4f}, of {np.size(entropies)} positions; smoothing {low:.4f}")
