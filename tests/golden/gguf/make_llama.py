"""Two tiny llama-architecture files by the `gguf` package (0.19.0): llama_moe.gguf (experts, head of its own), the same in parts
(llama_parts-0000N-of-00004.gguf, the first without tensors) and llama_dense.gguf (tied head). Value number i of the n-th tensor (order below, Hugging Face's layout) is n + i / 1000; q and k are
permuted as llama.cpp's converter does it (convert_hf_to_gguf.py, LlamaModel.permute).

    python make_llama.py
"""
import os

import gguf
import numpy as np

C, H, G, D, F, E, V, L = 8, 2, 1, 4, 6, 3, 10, 2
HERE = os.path.dirname(os.path.abspath(__file__))


def permute(w, heads):
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def write(name, moe, **split):
    w = gguf.GGUFWriter(os.path.join(HERE, name), "llama", **split)
    w.add_block_count(L); w.add_context_length(32); w.add_embedding_length(C); w.add_feed_forward_length(F)
    w.add_head_count(H); w.add_head_count_kv(G); w.add_layer_norm_rms_eps(1e-5); w.add_rope_freq_base(5000.0)
    w.add_rope_dimension_count(D); w.add_vocab_size(V)
    if moe:
        w.add_expert_count(E); w.add_expert_used_count(2)
    number = 0

    def add(name, shape, heads=0):
        nonlocal number
        value = (number + np.arange(np.prod(shape)) / 1000).astype(np.float32).reshape(shape)
        w.add_tensor(name + ".weight", permute(value, heads) if heads else value)
        number += 1

    add("token_embd", (V, C)); add("output_norm", (C,))
    if moe:
        add("output", (V, C))
    for i in range(L):
        b = f"blk.{i}."
        add(b + "attn_norm", (C,)); add(b + "attn_q", (H * D, C), H); add(b + "attn_k", (G * D, C), G); add(b + "attn_v", (G * D, C))
        add(b + "attn_output", (C, H * D)); add(b + "ffn_norm", (C,))
        if moe:
            add(b + "ffn_gate_inp", (E, C)); add(b + "ffn_gate_exps", (E, F, C)); add(b + "ffn_up_exps", (E, F, C))
            add(b + "ffn_down_exps", (E, C, F))
        else:
            add(b + "ffn_gate", (F, C)); add(b + "ffn_up", (F, C)); add(b + "ffn_down", (C, F))
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


write("llama_moe.gguf", True)
write("llama_parts.gguf", True, split_max_tensors=9, small_first_shard=True)
write("llama_dense.gguf", False)
