"""What GGUF files of DeepSeek-V3 and GLM-4.5 have alike, with the names and keys of llama.cpp's converters, by PyPI's `gguf`."""
import json
import pathlib
import sys

import gguf
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from made_weights import first_seed, first_weights, made_weights, read_list, write_list  # noqa: E402, F401

PREDICTING = {"eh_proj": "nextn.eh_proj", "enorm": "nextn.enorm", "hnorm": "nextn.hnorm", "shared_head.norm": "nextn.shared_head_norm",
              "embed_tokens": "nextn.embed_tokens", "shared_head.head": "nextn.shared_head_head"}


def with_layer_behind(source, target):
    """A family's first model, and behind its last layer that layer once more, of other values, which predicts a further token: its
    config.json and weights.txt, without copies of embedding and head, in folder `target`. -> the config, the weights with copies"""
    config, entries = json.loads((source / "config.json").read_text()), read_list(source / "weights.txt")
    config["num_nextn_predict_layers"] = 1
    last, width = config["num_hidden_layers"] - 1, config["hidden_size"]
    theirs, behind = f"model.layers.{last}.", f"model.layers.{last + 1}."
    entries += [(behind + name.removeprefix(theirs), *rest) for name, *rest in entries if name.startswith(theirs)]
    entries += [(f"{behind}{name}.weight", [width], 1.0, 0.3) for name in ("enorm", "hnorm", "shared_head.norm")]
    entries.append((f"{behind}eh_proj.weight", [width, 2 * width], 0.0, 0.25))
    target.mkdir(exist_ok=True)
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    write_list(target / "weights.txt", entries)
    weights = made_weights(entries, first_seed(source))
    weights[f"{behind}embed_tokens.weight"] = weights["model.embed_tokens.weight"]
    weights[f"{behind}shared_head.head.weight"] = weights["lm_head.weight"]
    return config, weights


def begin(path, architecture, config, num_layers, num_kv_heads):
    """A writer with the sizes, the rotary numbers and the mixture."""
    rope = config["rope_parameters"]
    w = gguf.GGUFWriter(path, architecture)
    w.add_vocab_size(config["vocab_size"])
    w.add_context_length(config["max_position_embeddings"])
    w.add_embedding_length(config["hidden_size"])
    w.add_block_count(num_layers)
    w.add_feed_forward_length(config["intermediate_size"])
    w.add_head_count(config["num_attention_heads"])
    w.add_head_count_kv(num_kv_heads)
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    w.add_rope_freq_base(rope["rope_theta"])
    w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    w.add_rope_scaling_factor(rope["factor"])
    w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    w.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
    w.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    w.add_leading_dense_block_count(config["first_k_dense_replace"])
    w.add_expert_feed_forward_length(config["moe_intermediate_size"])
    w.add_expert_count(config["n_routed_experts"])
    w.add_expert_used_count(config["num_experts_per_tok"])
    w.add_expert_shared_count(config["n_shared_experts"])
    w.add_expert_weights_scale(config["routed_scaling_factor"])
    w.add_expert_weights_norm(config["norm_topk_prob"])
    w.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    w.add_expert_group_count(config["n_group"])
    w.add_expert_group_used_count(config["topk_group"])
    w.add_tokenizer_model("none")
    return w


def outer_tensors(weights):
    """(name, array) of those that are of no layer."""
    yield "token_embd.weight", weights["model.embed_tokens.weight"]
    yield "output_norm.weight", weights["model.norm.weight"]
    yield "output.weight", weights["lm_head.weight"]


def expert_tensors(weights, config, layer):
    """(name, array) of the bias that experts are chosen by and their matrices; nothing of a dense layer."""
    theirs, ours = f"model.layers.{layer}.mlp.", f"blk.{layer}."
    if f"{theirs}gate.weight" not in weights:
        return
    yield f"{ours}exp_probs_b.bias", weights[f"{theirs}gate.e_score_correction_bias"]
    for part in ("gate", "up", "down"):
        yield f"{ours}ffn_{part}_exps.weight", np.stack(
            [weights[f"{theirs}experts.{e}.{part}_proj.weight"] for e in range(config["n_routed_experts"])])


def finish(w, tensors):
    """Writes the file."""
    for name, tensor in tensors:
        w.add_tensor(name, np.ascontiguousarray(tensor))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
