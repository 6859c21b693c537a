"""families/glm4_moe as GGUF, with the names and keys of llama.cpp's conversion/glm.py, by PyPI's `gguf` (0.19.0).

    /opt/torch/bin/python tests/golden/gguf/make_glm.py

As published files it has a layer behind the last, which predicts a further token (nextn_predict_layers) and counts in block_count;
folder glm4_moe has the same as config.json and weights.txt. All is float32. With the folder of llama.cpp's sources as an argument, its
own converter is held against the file.
"""
import json
import pathlib
import sys
import tempfile

import gguf
import numpy as np
from safetensors.numpy import save_file

from mixture_file import PREDICTING, begin, expert_tensors, finish, outer_tensors, with_layer_behind

HERE = pathlib.Path(__file__).resolve().parent
SOURCE = HERE.parent / "families" / "glm4_moe"
NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "post_attention_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp", "mlp.shared_experts.gate_proj": "ffn_gate_shexp", "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp", **PREDICTING}


def tensors(weights, config):
    yield from outer_tensors(weights)
    for layer in range(config["num_hidden_layers"] + config["num_nextn_predict_layers"]):
        theirs, ours = f"model.layers.{layer}.", f"blk.{layer}."
        for name, to in NAMES.items():
            for kind in ("weight", "bias"):
                if f"{theirs}{name}.{kind}" in weights:
                    yield f"{ours}{to}.{kind}", weights[f"{theirs}{name}.{kind}"]
        yield from expert_tensors(weights, config, layer)


def write(path, weights, config):
    w = begin(path, "glm4moe", config, config["num_hidden_layers"] + config["num_nextn_predict_layers"], config["num_key_value_heads"])
    w.add_key_length(config["head_dim"])
    w.add_value_length(config["head_dim"])
    w.add_rope_dimension_count(int(config["head_dim"] * config["rope_parameters"]["partial_rotary_factor"]))
    w.add_nextn_predict_layers(config["num_nextn_predict_layers"])
    finish(w, tensors(weights, config))


def converted(sources, weights, folder):
    """By llama.cpp's converter, without a tokenizer."""
    sys.path.insert(0, str(pathlib.Path(sources).resolve()))
    from conversion.glm import Glm4MoeModel

    (folder / "config.json").write_text((HERE / "glm4_moe" / "config.json").read_text())
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    Glm4MoeModel.set_vocab = lambda self: self.gguf_writer.add_vocab_size(self.hparams["vocab_size"])
    path = folder / "converted.gguf"
    Glm4MoeModel(folder, gguf.LlamaFileType.ALL_F32, path).write()
    return path


def differences(path, reference):
    """What the two files do not share, but for what describes a file."""
    of = [gguf.GGUFReader(p) for p in (path, reference)]
    values = [{name: field.contents() for name, field in reader.fields.items() if not name.startswith(("GGUF.", "general.", "tokenizer."))}
              for reader in of]
    arrays = [{t.name: np.array(t.data) for t in reader.tensors} for reader in of]
    found = [f"{name}: {values[0].get(name)}, {values[1].get(name)}" for name in sorted(values[0].keys() | values[1].keys())
             if values[0].get(name) != values[1].get(name)]
    return found + [name for name in sorted(arrays[0].keys() | arrays[1].keys())
                    if name not in arrays[0] or name not in arrays[1] or not np.array_equal(arrays[0][name], arrays[1][name])]


def main():
    config, weights = with_layer_behind(SOURCE, HERE / "glm4_moe")
    path = HERE / "glm4_moe.gguf"
    write(path, weights, config)
    for sources in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            print(differences(path, converted(sources, weights, pathlib.Path(folder))) or "the converter's file holds the same")


if __name__ == "__main__":
    main()
