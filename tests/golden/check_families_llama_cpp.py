"""Checks that llama.cpp computes what `limbeck convert` writes, for every family that GGUF has.

    python tests/golden/check_families_llama_cpp.py build/release/bin/limbeck [NAME...] [--keep FOLDER]
                                    (PyPI: llama-cpp-python gguf h5py numpy torch transformers; 0.3.36, 0.19.0)

The models are the tiny ones of families/ and, as most rows of these are no whole blocks and some say what GGUF does not, wider ones
that transformers makes here, of random values: longer than every window, and than every original context but where it says so. Each is
written as GGUF; `limbeck eval` of that file is held against llama.cpp on the same file, and against transformers in float64 on the
model that it was made of. Columns, max |difference| / max |reference|:

    F32         Limbeck and llama.cpp, weights in float32                                   (at most 1e-4)
    truth       Limbeck and transformers, of the same                                       (at most 1e-4)
    Q8_0        Limbeck and llama.cpp, which has the file's values in float32               (at most 1e-4)
    as stored   Limbeck and llama.cpp on the Q8_0 file itself, whose activations llama.cpp rounds to 8 bits in blocks (information:
                a few per cent where a model is random, and more where a token is routed to another expert for it)

What llama.cpp does otherwise than the file says is made up for here, and told behind the row: it takes YaRN's borders to be 32 and 1
whatever the file has (they are options of its programs, as here), and it has GELU in a table of float16 (at most 2e-3). It leaves out
a window of Phi-3, and rounds the borders of gpt-oss's YaRN to whole channels: those rows have no bound but that of the truth. Exit 1 where
a bound is passed.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

import h5py
import llama_cpp
import numpy as np
import torch

from check_llama_cpp import read_logits, relative_difference, yarn_borders
from family_configs import FAMILIES, heads, longrope, rope
from made_weights import write_model
from make_families import FOLDER, Routers, build, classes, in_double, randomise
from reference_transformers import in_float64

NUM_TOKENS, WINDOW, ORIGINAL = 80, 24, 16
TOLERANCE, OF_GELU = 1e-4, 2e-3
COMMON = dict(vocab_size=96, num_hidden_layers=3, max_position_embeddings=256, bos_token_id=1, eos_token_id=2)
ATTENTION = heads(64, 4, 2, 32)
EXPERTS = dict(num_experts=6, num_experts_per_tok=3, moe_intermediate_size=32)
LATENTS = dict(**heads(64, 4, 4), kv_lora_rank=32, qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=32, intermediate_size=96,
               moe_intermediate_size=32, first_k_dense_replace=1, num_experts_per_tok=3)
PHI = dict(**heads(96, 3, 1), intermediate_size=64, pad_token_id=0, sliding_window=None)
OF_GPT_OSS = dict(intermediate_size=32, num_local_experts=6, num_experts_per_tok=3, sliding_window=WINDOW, swiglu_limit=7.0,
                  layer_types=["sliding_attention", "full_attention", "sliding_attention"])


def yarn(theta, factor=4.0, **others):
    """Borders of 32 and 1 turns, which llama.cpp takes for granted."""
    return rope(theta, "yarn", factor=factor, original_max_position_embeddings=ORIGINAL, **others)


def factors(count, largest):
    return np.linspace(1.0, largest, count).round(3).tolist()


WIDE = {
    "llama": ("Llama", dict(**ATTENTION, intermediate_size=96, rope_parameters=rope(
        10000.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192))),
    "llama, linear": ("Llama", dict(**ATTENTION, intermediate_size=96, rope_parameters=rope(50.0, "linear", factor=4.0))),
    "llama, YaRN": ("Llama", dict(**ATTENTION, intermediate_size=96, tie_word_embeddings=True, rope_parameters=yarn(10000.0))),
    "mamba2": ("Mamba2", dict(hidden_size=64, num_heads=8, head_dim=16, n_groups=2, state_size=16, chunk_size=16)),
    "granite_hybrid": ("GraniteMoeHybrid", dict(
        **heads(64, 4, 2), intermediate_size=32, shared_intermediate_size=64, num_local_experts=6, num_experts_per_tok=3,
        layer_types=["linear_attention", "full_attention", "linear_attention"], mamba_n_heads=8, mamba_d_state=16, mamba_chunk_size=16,
        embedding_multiplier=2.0, attention_multiplier=0.25, residual_multiplier=0.5, logits_scaling=4.0, rope_parameters=rope(50.0))),
    "bamba": ("Bamba", dict(**heads(64, 4, 2), intermediate_size=96, attn_layer_indices=[1], mamba_n_heads=8, mamba_d_state=16,
                            mamba_chunk_size=16, rope_parameters=rope(50.0))),
    "mistral": ("Mistral", dict(**ATTENTION, intermediate_size=96, sliding_window=None, rope_parameters=rope(50.0))),
    "mixtral": ("Mixtral", dict(**ATTENTION, intermediate_size=32, num_local_experts=6, num_experts_per_tok=3, sliding_window=None,
                                rope_parameters=rope(50.0))),
    "qwen2": ("Qwen2", dict(**heads(64, 2, 1), intermediate_size=96, rope_parameters=yarn(1000.0))),
    "qwen2_moe": ("Qwen2Moe", dict(**heads(64, 2, 1), **EXPERTS, intermediate_size=96, shared_expert_intermediate_size=64,
                                   norm_topk_prob=False, rope_parameters=rope(50.0))),
    "qwen3": ("Qwen3", dict(**ATTENTION, intermediate_size=96, rope_parameters=yarn(1000.0))),
    "qwen3_moe": ("Qwen3Moe", dict(**ATTENTION, **EXPERTS, intermediate_size=96, norm_topk_prob=True, rope_parameters=rope(50.0))),
    "olmo2": ("Olmo2", dict(**heads(64, 4, 2), intermediate_size=96, pad_token_id=0, rope_parameters=rope(50.0))),
    "olmoe": ("Olmoe", dict(**heads(64, 4, 4), intermediate_size=32, num_experts=6, num_experts_per_tok=3, norm_topk_prob=False,
                            pad_token_id=0, rope_parameters=rope(50.0))),
    "gemma3": ("Gemma3", dict(
        **ATTENTION, intermediate_size=96, num_hidden_layers=7, sliding_window=WINDOW, query_pre_attn_scalar=32, pad_token_id=0,
        layer_types=["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(7)],
        rope_parameters={"sliding_attention": rope(10000.0), "full_attention": rope(60.0, "linear", factor=4.0)})),
    "phi3": ("Phi3", dict(**PHI, original_max_position_embeddings=ORIGINAL,
                          rope_parameters=longrope(50.0, factors(16, 1.4), factors(16, 3.7)))),
    "phi3, short": ("Phi3", dict(**PHI | dict(sliding_window=NUM_TOKENS), max_position_embeddings=1024,
                                 original_max_position_embeddings=512,
                                 rope_parameters=longrope(50.0, factors(16, 1.4), factors(16, 3.7)))),
    "phi4_mini": ("Phi3", dict(**PHI, original_max_position_embeddings=ORIGINAL, partial_rotary_factor=0.75, tie_word_embeddings=True,
                               rope_parameters=longrope(50.0, factors(12, 1.4), factors(12, 3.7)))),
    "gpt2": ("GPT2", dict(vocab_size=96, n_embd=64, n_head=4, n_layer=3, n_positions=128, bos_token_id=1, eos_token_id=2)),
    "deepseek_v2": ("DeepseekV2", dict(
        **LATENTS, q_lora_rank=64, n_routed_experts=6, n_shared_experts=2, topk_method="greedy", n_group=1, topk_group=1,
        routed_scaling_factor=1.3, norm_topk_prob=False, rope_parameters=yarn(1000.0, mscale=0.7, mscale_all_dim=0.7))),
    "deepseek_v2, lite": ("DeepseekV2", dict(
        **LATENTS, q_lora_rank=None, n_routed_experts=6, n_shared_experts=2, topk_method="greedy", n_group=1, topk_group=1,
        norm_topk_prob=False, rope_parameters=yarn(1000.0, mscale=0.7, mscale_all_dim=0.7))),
    "deepseek_v3": ("DeepseekV3", dict(
        **LATENTS, q_lora_rank=64, n_routed_experts=9, n_shared_experts=1, n_group=3, topk_group=2, routed_scaling_factor=1.7,
        norm_topk_prob=True, rope_parameters=yarn(1000.0, mscale=1.0, mscale_all_dim=1.0))),
    "kimi_k2": ("DeepseekV3", dict(
        **LATENTS, q_lora_rank=64, n_routed_experts=8, n_shared_experts=1, n_group=1, topk_group=1, routed_scaling_factor=2.827,
        norm_topk_prob=True, rope_parameters=yarn(50000.0, 32.0, beta_fast=1.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=1.0))),
    "gpt_oss": ("GptOss", dict(**ATTENTION, **OF_GPT_OSS, rope_parameters=rope(1000.0))),
    "gpt_oss, YaRN": ("GptOss", dict(**heads(64, 4, 2, 64), **OF_GPT_OSS, rope_parameters=rope(  # gpt-oss's own numbers
        150000.0, "yarn", factor=32.0, original_max_position_embeddings=4096, beta_fast=32.0, beta_slow=1.0, truncate=False))),
    "glm4": ("Glm4", dict(**ATTENTION, attention_bias=True, intermediate_size=96, pad_token_id=0, rope_parameters=yarn(1000.0))),
    "glm4_moe": ("Glm4Moe", dict(
        **ATTENTION, attention_bias=True, use_qk_norm=True, intermediate_size=96, moe_intermediate_size=32, n_routed_experts=9,
        n_shared_experts=2, num_experts_per_tok=4, n_group=3, topk_group=2, routed_scaling_factor=1.7, norm_topk_prob=True,
        rope_parameters=yarn(1000.0))),
    "glm4_moe_air": ("Glm4Moe", dict(
        **ATTENTION, attention_bias=True, intermediate_size=96, moe_intermediate_size=32, n_routed_experts=6, n_shared_experts=1,
        num_experts_per_tok=4, routed_scaling_factor=1.3, rope_parameters=rope(50.0))),
}


class Check:
    def __init__(self, limbeck, folder):
        self.limbeck, self.folder, self.failed = limbeck, folder, []
        print(f"{'':<22} {'F32':>8} {'truth':>8} {'Q8_0':>8} {'as stored':>10}")

    def run(self, *command):
        """-> what it says last where it fails, else nothing."""
        done = subprocess.run([str(part) for part in command], cwd=self.folder, capture_output=True, text=True)
        lines = (done.stdout + done.stderr).strip().splitlines()
        return "" if done.returncode == 0 else lines[-1].removeprefix("limbeck: error: ") if lines else f"exit {done.returncode}"

    def of_limbeck(self, model):
        if error := self.run(self.limbeck, "eval", model, "--tokens", "ids.txt", "--logits", "logits.h5", "--force"):
            raise RuntimeError(error)
        return read_logits(self.folder / "logits.h5")[1]

    def of_llama_cpp(self, model):
        """In a process of its own, which llama.cpp ends where it does not take a file."""
        if error := self.run(sys.executable, FOLDER / "check_llama_cpp.py", model, "logits.h5", "--write", "llama_cpp.npy"):
            raise RuntimeError(f"llama.cpp: {error}")
        return np.load(self.folder / "llama_cpp.npy")

    def convert(self, source, target, dtype):
        if error := self.run(self.limbeck, "convert", source, target, "--dtype", dtype, "--force"):
            raise RuntimeError(error)

    def row(self, name, source, tokens, truth, quantise):
        (self.folder / "ids.txt").write_text(" ".join(map(str, tokens)))
        config = json.loads((source / "config.json").read_text())
        has_gelu = config["model_type"] in ("gpt2", "gemma3_text")
        has_window = config["model_type"] == "phi3" and (config["sliding_window"] or NUM_TOKENS) < len(tokens)
        has_borders = config["model_type"] == "gpt_oss" and config["rope_parameters"]["rope_type"] == "yarn"
        notes = ["GELU of a table"] * has_gelu + ["its window is left out by llama.cpp"] * has_window
        notes += ["llama.cpp has YaRN's borders at whole channels"] * has_borders
        text = f"{name:<22}"
        try:
            self.convert(source, "f32.gguf", "float32")
            found = self.of_limbeck("f32.gguf")
            values = [relative_difference(found, self.of_llama_cpp("f32.gguf")), relative_difference(found, truth)]
            text += f" {values[0]:>8.1e} {values[1]:>8.1e}"
            if quantise:
                self.convert(source, "q8.gguf", "Q8_0")
                self.convert("q8.gguf", "values.gguf", "float32")
                found = self.of_limbeck("q8.gguf")
                values.append(relative_difference(found, self.of_llama_cpp("values.gguf")))
                as_stored = relative_difference(found, self.of_llama_cpp("q8.gguf"))
                text += f" {values[2]:>8.1e} {as_stored:>10.1e}"
            of_llama_cpp = np.inf if has_window or has_borders else OF_GELU if has_gelu else TOLERANCE
            bounds = [of_llama_cpp, TOLERANCE, of_llama_cpp]
            if not all(value <= bound for value, bound in zip(values, bounds)):
                self.failed.append(name)
                notes.append("ABOVE THE BOUND")
            if sorted(yarn_borders(self.folder / "f32.gguf").values()) not in ([], [1, 32]):
                notes.append("YaRN's borders given as options")
        except RuntimeError as error:
            notes.append(str(error))
            if "llama.cpp" in str(error):
                self.failed.append(name)
        print(f"{text}  {'; '.join(notes)}".rstrip(), flush=True)

    def golden(self, name):
        folder = FOLDER / "families" / name
        with h5py.File(folder / "reference.h5") as file:
            source = self.folder / f"families_{name}"
            source.mkdir(exist_ok=True)
            write_model(folder, source, int(file.attrs["seed"]))
            self.row(f"families/{name}", source, file["tokens"][0].tolist(), file["logits"][0].astype(np.float64), False)

    def wide(self, name):
        """A seed that keeps every router clear of near-ties."""
        kind, values = WIDE[name]
        config_class, architecture = classes(kind)
        common = {key: value for key, value in COMMON.items() if kind != "Mamba2" or key != "max_position_embeddings"}
        config = config_class(**({} if kind == "GPT2" else common) | values)
        for seed in range(1, 200):
            generator = torch.Generator().manual_seed(seed)
            model = build(architecture, config)
            randomise(model, generator)
            tokens = torch.randint(3, config.vocab_size, (NUM_TOKENS,), generator=generator)
            with in_float64(), torch.no_grad():
                precise = in_double(architecture, config, model.state_dict())
                routers = Routers(precise)
                truth = precise(tokens[None], use_cache=False).logits[0].numpy()
            if routers.gap >= 3e-4:
                break
        source = self.folder / name.replace(", ", "_")
        model.save_pretrained(source)
        self.row(name, source, tokens.tolist(), truth, True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("limbeck", type=lambda path: str(pathlib.Path(path).resolve()))
    parser.add_argument("names", nargs="*", help="these models alone")
    parser.add_argument("--keep", help="work here, and leave the files", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep = tempfile.TemporaryDirectory() if arguments.keep is None else None
    folder = pathlib.Path(keep.name) if keep else arguments.keep.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"llama-cpp-python {llama_cpp.__version__}")
    check = Check(arguments.limbeck, folder)
    for name in FAMILIES:
        if not arguments.names or f"families/{name}" in arguments.names:
            check.golden(name)
    for name in WIDE:
        if not arguments.names or name in arguments.names:
            check.wide(name)
    if check.failed:
        sys.exit(f"llama.cpp and Limbeck do not agree on {', '.join(check.failed)}")


if __name__ == "__main__":
    main()
