#!/usr/bin/env python3
"""Loads a directory that Limbeck exported with transformers and prints logits: for developers, not run in CI.

    python3 check_transformers.py DIR TOKEN...        e.g. check_transformers.py out 1 5 7

Fails unless every weight in the files was used, none was missing, and each lies where its Hugging Face name says (experts
may be fused inside). Tried with transformers 5.23 and torch 2.15.
"""
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

folder, tokens = Path(sys.argv[1]), [int(t) for t in sys.argv[2:]]
model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
    assert not report[kind], f"{kind}: {report[kind]}"
print(type(model).__name__, sum(p.numel() for p in model.parameters()), "parameters")

# The weights as stored against the weights in the model; classic Mixtral experts are fused by transformers 5.
stored = {}
for file in folder.glob("*.safetensors"):
    with safe_open(file, "pt") as f:
        stored.update({name: f.get_tensor(name).float() for name in f.keys()})
loaded = dict(model.named_parameters())
for name, value in stored.items():
    if name in loaded:
        assert torch.equal(loaded[name], value), name
    elif name.endswith("block_sparse_moe.gate.weight"):
        assert torch.equal(loaded[name.replace("block_sparse_moe", "mlp")], value), name
    else:
        prefix, rest = name.split("block_sparse_moe.experts.")
        expert, matrix, _ = rest.split(".")
        if matrix == "w2":
            found = loaded[prefix + "mlp.experts.down_proj"][int(expert)]
        else:  # gate, then up
            found = loaded[prefix + "mlp.experts.gate_up_proj"][int(expert)].chunk(2)[matrix == "w3"]
        assert torch.equal(found, value), name
print(len(stored), "tensors lie in their places")
with torch.no_grad():
    logits = model(torch.tensor([tokens])).logits[0]
torch.set_printoptions(precision=6, sci_mode=False)
for t, row in zip(tokens, logits):
    print(t, row[:8].tolist(), "logsumexp", row.logsumexp(-1).item())
