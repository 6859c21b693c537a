"""families/deepseek_v3 as GGUF, with the names, keys and orders of llama.cpp's conversion/deepseek.py, by PyPI's `gguf` (0.19.0).

    /opt/torch/bin/python tests/golden/gguf/make_deepseek.py

deepseek_v3.gguf has attn_k_b [H,R,N], each head transposed, and attn_v_b [H,Dv,R], as files since April 2025; deepseek_v3_joined.gguf
attn_kv_b [H*(N+Dv),R], as those before. Both are float32.
"""
import json
import pathlib

import gguf
import torch
from safetensors.torch import load_file

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE.parent / "families" / "deepseek_v3"
NAMES = {
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_a_proj": "attn_q_a", "self_attn.q_b_proj": "attn_q_b",
    "self_attn.q_a_layernorm": "attn_q_a_norm", "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp", "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp", "mlp.shared_experts.down_proj": "ffn_down_shexp"}


def tensors(weights, config, is_split):
    heads, own = config["num_attention_heads"], config["qk_nope_head_dim"]
    yield "token_embd.weight", weights["model.embed_tokens.weight"]
    yield "output_norm.weight", weights["model.norm.weight"]
    yield "output.weight", weights["lm_head.weight"]
    for layer in range(config["num_hidden_layers"]):
        theirs, ours = f"model.layers.{layer}.", f"blk.{layer}."
        for name, to in NAMES.items():
            if f"{theirs}{name}.weight" not in weights:
                continue
            w = weights[f"{theirs}{name}.weight"]
            if to != "attn_kv_b" or not is_split:
                yield f"{ours}{to}.weight", w
                continue
            k, v = w.view(heads, -1, w.shape[-1]).split([own, config["v_head_dim"]], dim=1)
            yield f"{ours}attn_k_b.weight", k.transpose(1, 2)
            yield f"{ours}attn_v_b.weight", v
        if f"{theirs}mlp.gate.weight" not in weights:
            continue
        yield f"{ours}exp_probs_b.bias", weights[f"{theirs}mlp.gate.e_score_correction_bias"]
        for part in ("gate", "up", "down"):
            yield f"{ours}ffn_{part}_exps.weight", torch.stack(
                [weights[f"{theirs}mlp.experts.{e}.{part}_proj.weight"] for e in range(config["n_routed_experts"])])


def write(path, is_split):
    config, weights = json.loads((SOURCE / "config.json").read_text()), load_file(SOURCE / "model.safetensors")
    rope, rank, turning = config["rope_parameters"], config["kv_lora_rank"], config["qk_rope_head_dim"]
    width = config["qk_nope_head_dim"] + turning
    w = gguf.GGUFWriter(path, "deepseek2")
    w.add_vocab_size(config["vocab_size"])
    w.add_context_length(config["max_position_embeddings"])
    w.add_embedding_length(config["hidden_size"])
    w.add_block_count(config["num_hidden_layers"])
    w.add_feed_forward_length(config["intermediate_size"])
    w.add_head_count(config["num_attention_heads"])
    w.add_head_count_kv(1 if is_split else config["num_attention_heads"])
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    w.add_rope_freq_base(rope["rope_theta"])
    w.add_leading_dense_block_count(config["first_k_dense_replace"])
    w.add_q_lora_rank(config["q_lora_rank"])
    w.add_kv_lora_rank(rank)
    w.add_key_length(rank + turning if is_split else width)
    w.add_value_length(rank if is_split else config["v_head_dim"])
    if is_split:
        w.add_key_length_mla(width)
        w.add_value_length_mla(config["v_head_dim"])
    w.add_expert_feed_forward_length(config["moe_intermediate_size"])
    w.add_expert_count(config["n_routed_experts"])
    w.add_expert_used_count(config["num_experts_per_tok"])
    w.add_expert_shared_count(config["n_shared_experts"])
    w.add_expert_weights_scale(config["routed_scaling_factor"])
    w.add_expert_weights_norm(config["norm_topk_prob"])
    w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    w.add_expert_group_count(config["n_group"])
    w.add_expert_group_used_count(config["topk_group"])
    w.add_rope_dimension_count(turning)
    w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    w.add_rope_scaling_factor(rope["factor"])
    w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    w.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
    w.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    w.add_rope_scaling_yarn_log_mul(0.1 * rope["mscale_all_dim"])
    w.add_tokenizer_model("none")
    for name, tensor in tensors(weights, config, is_split):
        w.add_tensor(name, tensor.contiguous().numpy())
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


for name, is_split in (("deepseek_v3", True), ("deepseek_v3_joined", False)):
    write(HERE / f"{name}.gguf", is_split)
