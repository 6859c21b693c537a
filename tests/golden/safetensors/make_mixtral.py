#!/usr/bin/env python3
"""Writes mixtral/, a tiny model as transformers saves it, for tests/data/models/hugging_face_test.cpp.

Every matrix holds expert + row/64 + column/4096, counted in the model (gate rows, then up rows, in one fused matrix).
Made with transformers 5.23, torch 2.15, safetensors 0.8.0:  python3 make_mixtral.py
"""
from pathlib import Path

import torch
from transformers import MixtralConfig, MixtralForCausalLM

model = MixtralForCausalLM(MixtralConfig(
    vocab_size=7, hidden_size=4, intermediate_size=3, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
    head_dim=2, max_position_embeddings=16, num_local_experts=2, num_experts_per_tok=1, rope_theta=5000.0))
for p in model.parameters():
    indices = torch.meshgrid(*[torch.arange(n, dtype=torch.float32) for n in (1, 1, 1, *p.shape)[-3:]], indexing="ij")
    p.data = (indices[0] + indices[1] / 64 + indices[2] / 4096).reshape(p.shape)
model.save_pretrained(Path(__file__).with_name("mixtral"))
