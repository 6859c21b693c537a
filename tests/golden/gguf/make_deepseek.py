"""families/deepseek_v3 as GGUF, with the names, keys and orders of llama.cpp's conversion/deepseek.py, by PyPI's `gguf` (0.19.0).

    /opt/torch/bin/python tests/golden/gguf/make_deepseek.py

deepseek_v3.gguf has attn_k_b [H,R,N], each head transposed, and attn_v_b [H,Dv,R], as files since April 2025, and a layer behind the last,
which predicts a further token, as files of GLM-4.7-Flash, which are of this architecture (folder deepseek_v3 has the same as config.json
and weights.txt); deepseek_v3_joined.gguf attn_kv_b [H*(N+Dv),R], as those before. Both are float32.
"""
import json
import pathlib

import numpy as np

from mixture_file import PREDICTING, begin, expert_tensors, finish, first_weights, outer_tensors, with_layer_behind

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE.parent / "families" / "deepseek_v3"
NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_a_proj": "attn_q_a", "self_attn.q_b_proj": "attn_q_b",
    "self_attn.q_a_layernorm": "attn_q_a_norm", "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp", "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp", "mlp.shared_experts.down_proj": "ffn_down_shexp", **PREDICTING}


def tensors(weights, config, is_split):
    heads, own = config["num_attention_heads"], config["qk_nope_head_dim"]
    yield from outer_tensors(weights)
    for layer in range(config["num_hidden_layers"] + is_split):
        theirs, ours = f"model.layers.{layer}.", f"blk.{layer}."
        for name, to in NAMES.items():
            if f"{theirs}{name}.weight" not in weights:
                continue
            w = weights[f"{theirs}{name}.weight"]
            if to != "attn_kv_b" or not is_split:
                yield f"{ours}{to}.weight", w
                continue
            k, v = np.split(w.reshape(heads, -1, w.shape[-1]), [own], axis=1)
            yield f"{ours}attn_k_b.weight", k.swapaxes(1, 2)
            yield f"{ours}attn_v_b.weight", v
        yield from expert_tensors(weights, config, layer)


def write(path, is_split):
    config, weights = json.loads((SOURCE / "config.json").read_text()), first_weights(SOURCE)
    if is_split:
        config, weights = with_layer_behind(SOURCE, HERE / "deepseek_v3")
    rank, turning = config["kv_lora_rank"], config["qk_rope_head_dim"]
    width = config["qk_nope_head_dim"] + turning
    w = begin(path, "deepseek2", config, config["num_hidden_layers"] + is_split, 1 if is_split else config["num_attention_heads"])
    w.add_q_lora_rank(config["q_lora_rank"])
    w.add_kv_lora_rank(rank)
    w.add_key_length(rank + turning if is_split else width)
    w.add_value_length(rank if is_split else config["v_head_dim"])
    if is_split:
        w.add_key_length_mla(width)
        w.add_value_length_mla(config["v_head_dim"])
        w.add_nextn_predict_layers(1)
    w.add_rope_dimension_count(turning)
    w.add_rope_scaling_yarn_log_mul(0.1 * config["rope_parameters"]["mscale_all_dim"])
    finish(w, tensors(weights, config, is_split))


for name, is_split in (("deepseek_v3", True), ("deepseek_v3_joined", False)):
    write(HERE / f"{name}.gguf", is_split)
