"""A Mixtral-shaped bfloat16 checkpoint of random values, of any size, written one tensor at a time.

    python tests/bench/make_mixtral.py FOLDER [--layers 7] [--shard-bytes 5000000000]

Matrices are Mixtral 8x7B's; 7 layers are 20.9 GB, 1 layer is 3.4 GB. tests/bench/convert_speed.sh converts it.
"""
import argparse
import json
from pathlib import Path

import numpy as np

WIDTH, HEADS, KV_HEADS, HEAD, EXPERTS, FF, VOCABULARY = 4096, 32, 8, 128, 8, 14336, 32000


def shapes(layers):
    yield "model.embed_tokens.weight", (VOCABULARY, WIDTH)
    for n in range(layers):
        layer = f"model.layers.{n}."
        yield layer + "input_layernorm.weight", (WIDTH,)
        for name, rows in (("q", HEADS * HEAD), ("k", KV_HEADS * HEAD), ("v", KV_HEADS * HEAD)):
            yield f"{layer}self_attn.{name}_proj.weight", (rows, WIDTH)
        yield layer + "self_attn.o_proj.weight", (WIDTH, HEADS * HEAD)
        yield layer + "post_attention_layernorm.weight", (WIDTH,)
        yield layer + "block_sparse_moe.gate.weight", (EXPERTS, WIDTH)
        for e in range(EXPERTS):
            for matrix, shape in (("w1", (FF, WIDTH)), ("w2", (WIDTH, FF)), ("w3", (FF, WIDTH))):
                yield f"{layer}block_sparse_moe.experts.{e}.{matrix}.weight", shape
    yield "model.norm.weight", (WIDTH,)
    yield "lm_head.weight", (VOCABULARY, WIDTH)


def write_values(file, rng, count):
    """Magnitudes of 1/64 to 1/32 with random signs: drawing them is as fast as the disk."""
    for first in range(0, count, 1 << 22):
        bits = np.frombuffer(rng.bytes(2 * min(1 << 22, count - first)), np.uint16)
        file.write(((bits & 0x807F) | 0x3C80).tobytes())


def write_shard(path, tensors, rng):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, shape in tensors:
            count = int(np.prod(shape))
            if len(shape) == 1:
                file.write(np.full(count, 0x3F80, np.uint16).tobytes())  # ones
            else:
                write_values(file, rng, count)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=7)
    parser.add_argument("--shard-bytes", type=int, default=5_000_000_000)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    shards, filled = [[]], 0
    for name, shape in shapes(arguments.layers):
        size = 2 * int(np.prod(shape))
        if shards[-1] and filled + size > arguments.shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append((name, shape))
        filled += size
    rng, places, total = np.random.default_rng(1), {}, 0
    for i, tensors in enumerate(shards):
        name = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        write_shard(arguments.folder / name, tensors, rng)
        for tensor, shape in tensors:
            places[tensor] = name
            total += 2 * int(np.prod(shape))
    (arguments.folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": places}))
    (arguments.folder / "config.json").write_text(json.dumps({
        "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "torch_dtype": "bfloat16", "vocab_size": VOCABULARY,
        "hidden_size": WIDTH, "intermediate_size": FF, "num_hidden_layers": arguments.layers, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": HEAD, "num_local_experts": EXPERTS, "num_experts_per_tok": 2,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1e6, "hidden_act": "silu", "tie_word_embeddings": False,
        "sliding_window": None}))


if __name__ == "__main__":
    main()
