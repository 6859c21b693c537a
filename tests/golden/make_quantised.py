"""Writes quantised/NAME/: tiny Llamas whose weights other programs' formats hold, and what they compute when dequantised.

    /opt/torch/bin/python tests/golden/make_quantised.py [PATH]    (torch, transformers, safetensors, numpy, h5py; seconds)

PATH: where `pip install --target PATH --no-deps bitsandbytes` put that package, whose dequantisation is then compared too
(0.50.2: equal, bit for bit; that of 8 bits to a unit in the last place).

    nf4, nf4_double, int8     bitsandbytes: 4 bits in blocks of 64, the same with double quantisation, 8 bits a row
    gptq, gptq_order          GPTQ in groups of 32: as checkpoint_format "gptq" has it (zeros less 1), with act-order in "gptq_v2"
    awq                       AWQ in groups of 32, packed for "gemm"

A folder holds config.json and model.safetensors as such checkpoints have them (embedding, head and norms in float16), and
reference.h5: tokens [1,16], logits [1,16,V] of transformers' model in float64 on the dequantised weights, and of layer 0 the
dequantised q_proj, which is square, and the last 8 rows of down_proj. All arithmetic of the formats is written out here, in numpy; quantising is rounding
to what is nearest, but for GPTQ's zeros and orders, which are random.
"""
import json
import pathlib
import sys

import h5py
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))
from family_configs import heads, rope  # noqa: E402
from make_families import build, in_double, randomise  # noqa: E402
from reference_model import create, write_array  # noqa: E402
from reference_transformers import in_float64  # noqa: E402

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()

VOCABULARY, LENGTH, GROUP, BLOCK, NESTED = 40, 16, 32, 64, 256
BITSANDBYTES = None

# Dettmers et al. 2023, "QLoRA", appendix E.
NF4 = np.array([-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
                -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
                0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0], dtype=np.float32)
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # the output that each 4 bits of a word are of, from the lowest


def bytes_of(text):
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def dynamic_table():
    """256 ascending values from -1 to 1, denser towards 0."""
    steps = np.linspace(-1, 1, 256)
    return (np.sign(steps) * np.abs(steps) ** 3).astype(np.float32)


def nf4(rng, weight, nested):
    blocks = weight.reshape(-1, BLOCK)
    absmax = np.abs(blocks).max(1).astype(np.float32)
    state = {"quant_type": "nf4", "blocksize": BLOCK, "dtype": "float16", "shape": list(weight.shape)}
    stored = {"quant_map": torch.tensor(NF4)}
    if nested:
        offset = absmax.mean(dtype=np.float32)
        table = dynamic_table()
        padded = np.zeros(-(-len(absmax) // NESTED) * NESTED, np.float32)
        padded[:len(absmax)] = absmax - offset
        nested_absmax = np.abs(padded.reshape(-1, NESTED)).max(1)
        codes = np.abs(padded.reshape(-1, NESTED)[..., None] / nested_absmax[:, None, None] - table).argmin(-1).astype(np.uint8)
        codes = codes.flatten()[:len(absmax)]
        absmax = (table[codes] * np.repeat(nested_absmax, NESTED)[:len(codes)] + offset).astype(np.float32)
        stored |= {"absmax": torch.tensor(codes), "nested_absmax": torch.tensor(nested_absmax),
                   "nested_quant_map": torch.tensor(table)}
        state |= {"nested_blocksize": NESTED, "nested_dtype": "float32", "nested_offset": float(offset)}
    else:
        stored["absmax"] = torch.tensor(absmax)
    codes = np.abs(blocks[..., None] / absmax[:, None, None] - NF4).argmin(-1).astype(np.uint8).reshape(-1, 2)
    values = (NF4[codes.reshape(-1, BLOCK)] * absmax[:, None]).reshape(weight.shape)
    stored[""] = torch.tensor(codes[:, 0] << 4 | codes[:, 1])[:, None]
    stored["quant_state.bitsandbytes__nf4"] = bytes_of(json.dumps(state))
    if BITSANDBYTES:
        functional = BITSANDBYTES.functional
        its = functional.QuantState.from_dict({key: value.clone() for key, value in stored.items() if key}, torch.device("cpu"))
        its.dtype = torch.float32
        found = functional.dequantize_4bit(stored[""].clone(), its).numpy()
        assert np.array_equal(found, values)
    return {f"weight.{key}".rstrip("."): value for key, value in stored.items()}, values


def int8(rng, weight):
    scale = np.abs(weight).max(1).astype(np.float32)
    codes = np.rint(weight * (127 / scale[:, None])).astype(np.int8)
    values = codes.astype(np.float64) * scale[:, None] / 127
    if BITSANDBYTES:
        its = BITSANDBYTES.functional.int8_vectorwise_dequant(torch.tensor(codes), torch.tensor(scale)).numpy()
        assert (np.abs(its - values) <= 2.0 ** -22 * np.abs(values)).all()
    stored = {"weight": torch.tensor(codes), "SCB": torch.tensor(scale), "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return stored, values


def whole_numbers(rng, weight, group_of):
    """-> q [out,in], zero [groups,out], scale [groups,out] float16"""
    groups = group_of.max() + 1
    zero = rng.integers(0, 16, (groups, weight.shape[0]))
    scale = np.stack([np.abs(weight[:, group_of == g]).max(1) / 9 for g in range(groups)]).astype(np.float16)
    q = np.clip(np.rint(weight / scale[group_of].T.astype(np.float32) + zero[group_of].T), 0, 15).astype(np.int64)
    values = scale[group_of].T.astype(np.float64) * (q - zero[group_of].T)
    return q, zero, scale, values


def words(nibbles):
    """[...,8] of 4 bits, the first the lowest -> [...] int32"""
    return torch.tensor((nibbles.astype(np.uint64) << (4 * np.arange(8, dtype=np.uint64))).sum(-1).astype(np.uint32).view(np.int32))


def gptq(rng, weight, ordered):
    outputs, inputs = weight.shape
    group_of = np.arange(inputs) // GROUP
    if ordered:
        rng.shuffle(group_of)
    q, zero, scale, values = whole_numbers(rng, weight, group_of)
    written = zero if ordered else (zero - 1) % 16
    stored = {"qweight": words(q.T.reshape(inputs // 8, 8, outputs).swapaxes(1, 2)),
              "qzeros": words(written.reshape(-1, outputs // 8, 8)),
              "scales": torch.tensor(scale), "g_idx": torch.tensor(group_of.astype(np.int32))}
    return stored, values


def awq(rng, weight):
    outputs, inputs = weight.shape
    q, zero, scale, values = whole_numbers(rng, weight, np.arange(inputs) // GROUP)
    return {"qweight": words(q.T.reshape(inputs, outputs // 8, 8)[..., AWQ_ORDER]),
            "qzeros": words(zero.reshape(-1, outputs // 8, 8)[..., AWQ_ORDER]), "scales": torch.tensor(scale)}, values


KINDS = {
    "nf4": (lambda rng, w: nf4(rng, w, False), {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
                                                "bnb_4bit_use_double_quant": False, "bnb_4bit_compute_dtype": "float16"}),
    "nf4_double": (lambda rng, w: nf4(rng, w, True), {"quant_method": "bitsandbytes", "load_in_4bit": True,
                                                      "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True,
                                                      "bnb_4bit_compute_dtype": "float16"}),
    "int8": (int8, {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_threshold": 6.0}),
    "gptq": (lambda rng, w: gptq(rng, w, False), {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False,
                                                  "sym": False, "checkpoint_format": "gptq"}),
    "gptq_order": (lambda rng, w: gptq(rng, w, True), {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": True,
                                                       "sym": False, "checkpoint_format": "gptq_v2"}),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm",
                  "modules_to_not_convert": None}),
}


def write_model(name, seed):
    quantise, settings = KINDS[name]
    # Of 4 bits, rows of whole blocks, which its processor kernels take for granted, and more blocks than a nested one has.
    config = transformers.LlamaConfig(**heads(64, 4, 2, 16), intermediate_size={"nf4": 128, "nf4_double": 320}.get(name, 96),
                                      vocab_size=VOCABULARY, num_hidden_layers=1, max_position_embeddings=40,
                                      bos_token_id=1, eos_token_id=2, rope_parameters=rope(50.0))
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    model = build(transformers.LlamaForCausalLM, config)
    randomise(model, generator)
    stored, state = {}, {}
    for key, value in model.state_dict().items():
        if key.endswith("_proj.weight"):
            parts, values = quantise(rng, value.numpy())
            stored |= {key.removesuffix("weight") + part: tensor for part, tensor in parts.items()}
            state[key] = torch.tensor(values)
        else:
            stored[key] = value.half()
            state[key] = stored[key].double()
    tokens = torch.randint(3, VOCABULARY, (1, LENGTH), generator=generator)
    with in_float64(), torch.no_grad():
        logits = in_double(transformers.LlamaForCausalLM, config, state)(tokens, use_cache=False).logits
    folder = FOLDER / "quantised" / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in stored.items()}, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    config_json = json.loads(config.to_json_string()) | {"architectures": ["LlamaForCausalLM"], "dtype": "float16",
                                                         "quantization_config": settings}
    (folder / "config.json").write_text(json.dumps(config_json, indent=2) + "\n")
    with create(folder / "reference.h5") as file:
        file.attrs["generator"] = "tests/golden/make_quantised.py"
        file.attrs["versions"] = f"torch {torch.__version__}, transformers {transformers.__version__}, numpy {np.__version__}, " \
                                 f"h5py {h5py.__version__}"
        write_array(file, "tokens", tokens.numpy(), "i4")
        write_array(file, "logits", logits.numpy(), "f4")
        write_array(file, "q_proj", state["model.layers.0.self_attn.q_proj.weight"].numpy(), "f4")
        write_array(file, "down_proj_end", state["model.layers.0.mlp.down_proj.weight"][-8:].numpy(), "f4")
    print(f"{name}: {sum(f.stat().st_size for f in folder.iterdir()) / 1024:.0f} KiB, logits' deviation {logits.std().item():.2f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.path.append(sys.argv[1])
        import bitsandbytes as BITSANDBYTES
    for seed, name in enumerate(KINDS, 1):
        write_model(name, seed)
