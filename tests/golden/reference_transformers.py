"""Cross-checks of reference_model.py: the same weights in transformers' Llama and Mixtral.

    with in_float64():
        logits = as_transformers(parameters, config)(tokens, position_ids=positions).logits
"""
import contextlib
from unittest import mock

import torch
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM


@contextlib.contextmanager
def in_float64():
    """transformers widens norms, softmax and RoPE to float32; while this lasts, to float64."""
    with mock.patch.object(torch, "float32", torch.float64), mock.patch.object(torch, "float", torch.float64), \
            mock.patch.object(torch.Tensor, "float", torch.Tensor.double):
        yield


def transformers_name(name):
    name = name.replace("attention_norm", "input_layernorm").replace("mlp_norm", "post_attention_layernorm")
    for part in "qkvo":
        name = name.replace(f"attention.{part}.", f"self_attn.{part}_proj.")
    for part in ("gate", "up", "down"):
        name = name.replace(f"mlp.{part}.", f"mlp.{part}_proj.")
    name = name.replace("moe.router.", "mlp.gate.").replace("moe.experts.down", "mlp.experts.down_proj")
    name = name.replace("embed.weight", "embed_tokens.weight")
    return "lm_head.weight" if name == "head.weight" else "model." + name


def as_transformers(parameters, config):
    """A Llama (dense) or Mixtral (every layer MoE, renormalised) with these float64 weights. Attention masks: transformers'."""
    common = dict(
        vocab_size=config.vocabulary, hidden_size=config.width, num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads, num_key_value_heads=config.num_kv_heads, head_dim=config.head_width,
        rms_norm_eps=config.norm_eps, max_position_embeddings=8192, tie_word_embeddings=config.tied_head,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_base}, attn_implementation="eager")
    if config.num_experts:
        model = MixtralForCausalLM(MixtralConfig(
            intermediate_size=config.expert_width, num_local_experts=config.num_experts,
            num_experts_per_tok=config.experts_per_token, experts_implementation="eager", **common))
    else:
        model = LlamaForCausalLM(LlamaConfig(intermediate_size=config.mlp_width, **common))
    model = model.double().eval()
    state = {transformers_name(name): weight.detach() for name, weight in parameters.items() if ".experts." not in name or
             name.endswith("down")}
    for name, gate in parameters.items():
        if name.endswith("experts.gate"):
            up = parameters[name.removesuffix("gate") + "up"]
            state["model." + name.replace("moe.experts.gate", "mlp.experts.gate_up_proj")] = torch.cat([gate, up], 1).detach()
    missing = model.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and missing.missing_keys in ([], ["lm_head.weight"]), missing
    model.model.rotary_emb.inv_freq = config.rope_base ** (
        -torch.arange(config.head_width // 2, dtype=torch.float64) * 2 / config.head_width)
    return model
