"""Writes gpt_oss_mxfp4/: tiny gpt-oss models whose experts are in MXFP4, as a Hugging Face directory and as GGUF, and what they compute.

    /opt/torch/bin/python tests/golden/make_gpt_oss.py            (torch, transformers, gguf, safetensors, numpy, h5py; seconds)

Two models: `gate` has square gate_up matrices (2 F = C), `down` square down matrices (F = C), so that nothing but the values tells a
transposed one. Each folder NAME holds

    config.json, model.safetensors   as gpt-oss is published: experts as *_blocks and *_scales uint8, all else bfloat16
    model.gguf                       the same in llama.cpp's names: experts MXFP4, matrices BF16, vectors F32
    reference.h5                     tokens [1,20], logits [1,20,V] in float32 of transformers' model in float64 on the dequantised
                                     experts, and those of layer 1: gate_up [E,C,2F], down [E,F,C]

MXFP4 is dequantised here in numpy by the standard (OCP Microscaling Formats 1.0: E2M1 values times 2^(e - 127)); that transformers'
convert_moe_packed_tensors and the gguf package give the same is asserted.
"""
import json
import pathlib
import sys

import gguf
import h5py
import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))
from family_configs import heads, yarn  # noqa: E402
from make_families import build, in_double, randomise  # noqa: E402
from reference_model import create, write_array  # noqa: E402
from reference_transformers import in_float64  # noqa: E402

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
WINDOW, LENGTH, VOCABULARY, EXPERTS = 5, 20, 40, 4
MODELS = {"gate": dict(hidden_size=64, intermediate_size=32), "down": dict(hidden_size=32, intermediate_size=32)}


def random_experts(rng, outputs, inputs):
    """-> codes [E,N,K] of 4 bits, exponents [E,N,K/32]; values of about 0.2."""
    codes = rng.integers(0, 16, (EXPERTS, outputs, inputs), dtype=np.uint8)
    return codes, rng.integers(122, 126, (EXPERTS, outputs, inputs // 32)).astype(np.uint8)


def dequantised(codes, exponents):
    """-> [E,N,K]"""
    return E2M1[codes] * np.repeat(np.exp2(exponents.astype(np.float64) - 127), 32, axis=-1)


def packed(codes):
    """As transformers has it: [E,N,K/32,16], value 2 i in the low half of byte i."""
    pairs = codes.reshape(*codes.shape[:-1], -1, 16, 2)
    return pairs[..., 0] | pairs[..., 1] << 4


def ggml_blocks(codes, exponents):
    """As ggml has it: [E,N,17 K/32], the exponent, then value i in the low and value 16 + i in the high half of byte i."""
    halves = codes.reshape(*codes.shape[:-1], -1, 2, 16)
    blocks = np.concatenate([exponents[..., None], halves[..., 0, :] | halves[..., 1, :] << 4], axis=-1)
    return blocks.reshape(*blocks.shape[:-2], -1)


def check_dequantised(codes, exponents, values):
    theirs = convert_moe_packed_tensors(torch.tensor(packed(codes)), torch.tensor(exponents), dtype=torch.float32)
    assert np.array_equal(theirs.transpose(1, 2).numpy(), values)
    kind = gguf.GGMLQuantizationType.MXFP4
    assert np.array_equal(gguf.dequantize(ggml_blocks(codes, exponents), kind), values)


def write_gguf(path, config, tensors, experts):
    writer = gguf.GGUFWriter(str(path), "gpt-oss")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_expert_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_expert_count(config.num_local_experts)
    writer.add_expert_used_count(config.num_experts_per_tok)
    writer.add_sliding_window(config.sliding_window)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(rope["factor"])
    writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
    writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT_OSS, config.num_hidden_layers)

    def add(name, values):
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored, name
        stored += "" if stored.endswith((".weight", ".bias")) else ".weight"  # of sinks
        if values.ndim == 1 or stored.endswith((".bias", "ffn_gate_inp.weight")):
            writer.add_tensor(stored, values.astype(np.float32))
        else:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(stored, gguf.quantize(values.astype(np.float32), kind), raw_dtype=kind)

    for name, values in tensors.items():
        values = values.float().numpy()
        if name.endswith("gate_up_proj_bias"):
            for part, column in (("gate", 0), ("up", 1)):
                add(name.replace("gate_up_proj_bias", f"{part}_proj.bias"), values[:, column::2])
        else:
            add(name.replace("down_proj_bias", "down_proj.bias"), values)
    for name, (codes, exponents) in experts.items():
        parts = [("gate_", 0, 2), ("up_", 1, 2)] if "gate_up" in name else [("", 0, 1)]
        for part, first, step in parts:
            stored = names.get_name(name.replace("gate_up_", part) + ".weight", try_suffixes=(".weight",))
            writer.add_tensor(stored, ggml_blocks(codes[:, first::step], exponents[:, first::step]),
                              raw_dtype=gguf.GGMLQuantizationType.MXFP4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_model(name, seed):
    config = transformers.GptOssConfig(
        **heads(MODELS[name]["hidden_size"], 4, 2, 8), intermediate_size=MODELS[name]["intermediate_size"], vocab_size=VOCABULARY,
        num_hidden_layers=2, max_position_embeddings=40, num_local_experts=EXPERTS, num_experts_per_tok=2, sliding_window=WINDOW,
        layer_types=["sliding_attention", "full_attention"], pad_token_id=None, bos_token_id=1, eos_token_id=2,
        rope_parameters=yarn(40.0, factor=4.0, beta_fast=0.9, beta_slow=0.12, truncate=False) | {"original_max_position_embeddings": 10})
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    model = build(transformers.GptOssForCausalLM, config)
    randomise(model, generator)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    experts, stored = {}, {}
    for key in state:
        if key.endswith(("gate_up_proj", "down_proj")):
            codes, exponents = experts[key] = random_experts(rng, state[key].shape[2], state[key].shape[1])
            values = dequantised(codes, exponents)
            check_dequantised(codes, exponents, values)
            state[key] = torch.tensor(values).transpose(1, 2)
            stored[key + "_blocks"], stored[key + "_scales"] = torch.tensor(packed(codes)), torch.tensor(exponents)
        else:
            stored[key] = state[key].bfloat16()
    tokens = torch.randint(3, VOCABULARY, (1, LENGTH), generator=generator)
    with in_float64(), torch.no_grad():
        logits = in_double(transformers.GptOssForCausalLM, config, state)(tokens, use_cache=False).logits
    folder = FOLDER / "gpt_oss_mxfp4" / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in stored.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    settings = json.loads(config.to_json_string()) | {
        "architectures": ["GptOssForCausalLM"], "dtype": "bfloat16",
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router"]}}
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    write_gguf(folder / "model.gguf", config, {key: value for key, value in state.items() if key not in experts}, experts)
    with create(folder / "reference.h5") as file:
        file.attrs["generator"] = "tests/golden/make_gpt_oss.py"
        file.attrs["versions"] = f"torch {torch.__version__}, transformers {transformers.__version__}, numpy {np.__version__}, " \
                                 f"h5py {h5py.__version__}"
        write_array(file, "tokens", tokens.numpy(), "i4")
        write_array(file, "logits", logits.numpy(), "f4")
        for key in ("gate_up_proj", "down_proj"):
            write_array(file, key, state[f"model.layers.1.mlp.experts.{key}"].numpy(), "f4")
    print(f"{name}: {sum(f.stat().st_size for f in folder.iterdir()) / 1024:.0f} KiB, logits' deviation {logits.std().item():.2f}")


if __name__ == "__main__":
    for seed, name in enumerate(MODELS, 1):
        write_model(name, seed)
