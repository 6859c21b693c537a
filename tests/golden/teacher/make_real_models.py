"""Writes gemma3_logits.h5 and qwen_coder_logits.h5: what two real models compute, of dequantised weights, on three texts and
two greedy continuations.

    python3 -m venv /opt/torch && /opt/torch/bin/pip install torch transformers accelerate gguf sentencepiece h5py
    launch/fetch_teacher.sh gemma3 && launch/fetch_teacher.sh qwen-coder
    /opt/torch/bin/python tests/golden/teacher/make_real_models.py           (minutes; 6 GiB)

transformers reads the GGUF files themselves, dequantised by the `gguf` package, and computes in float64 throughout. The layout of
the files is make_teacher.py's, with 64 columns.
"""
import importlib.metadata
import pathlib
import sys

import numpy as np
import torch
import transformers

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))
from reference_model import create, write_array  # noqa: E402
from reference_transformers import in_float64  # noqa: E402

DOWNLOADS = FOLDER.parents[2] / "downloads"
FILES = {"gemma3": "gemma-3-270m.Q4_K_M.gguf", "qwen_coder": "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf"}
TEXTS = {
    "prose": "The still had stood in the cellar for as long as anyone could remember, its copper neck bent like a heron's over the "
             "stone basin. \u201cNothing is lost,\u201d she used to say, \u201cit only rises, cools, and comes back clearer.\u201d",
    "code": "```python\ndef gcd(a: int, b: int) -> int:\n    while b != 0:\n        a, b = b, a % b\n    return a\n\n\n"
            "assert gcd(1071, 462) == 21  # \u2705 na\u00efve caf\u00e9\n```\n",
    "mixed": "Merci ! \u4f60\u597d, \u0441\u043f\u0430\u0441\u0438\u0431\u043e \U0001f600\n\n| run | loss |\n|----:|-----:|\n| 1 | 3.14159 |\n",
}
PROMPTS = ["The capital of France is", "def fibonacci(n):\n", "Once upon a time there was", "The three laws of motion are",
           "for i in range(10):\n", "Water boils at a temperature of"]
NUM_GENERATED = 32
SMALLEST_GAP = 0.01  # between the best two logits on a greedy path


@torch.no_grad()
def logits_of(model, ids):
    with in_float64():
        return model(torch.tensor(ids)[None]).logits[0]


def write_model(name):
    path = DOWNLOADS / FILES[name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(DOWNLOADS, gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(DOWNLOADS, gguf_file=path.name, dtype=torch.float32,
                                                              attn_implementation="eager").double().eval()
    ends = set(np.atleast_1d(model.generation_config.eos_token_id or model.config.eos_token_id).tolist())
    chosen = np.round(np.linspace(0, model.config.vocab_size - 1, 64)).astype(np.int64)
    with create(FOLDER / f"{name}_logits.h5") as file:
        file.attrs.update(generator="teacher/make_real_models.py", model=path.name, transformers=transformers.__version__,
                          gguf=importlib.metadata.version("gguf"), precision="float64 arithmetic on float32 weights")
        write_array(file, "columns", chosen)
        for text, content in TEXTS.items():
            ids = tokenizer(content).input_ids
            logits = logits_of(model, ids)
            best = logits.topk(2).values
            print(f"{name} {text}: {len(ids)} tokens, max |logit| {logits.abs().max():.1f}", flush=True)
            group = f"texts/{text}"
            write_array(file, f"{group}/text", np.frombuffer(content.encode(), dtype=np.uint8))
            write_array(file, f"{group}/tokens", ids, np.int64)
            write_array(file, f"{group}/argmax", logits.argmax(-1).numpy())
            write_array(file, f"{group}/gap", (best[:, 0] - best[:, 1]).numpy(), np.float64)
            write_array(file, f"{group}/logsumexp", logits.logsumexp(-1).numpy())
            write_array(file, f"{group}/logits", logits[:, chosen].numpy(), np.float32)
        kept = 0
        for prompt in PROMPTS:
            ids = tokenizer(prompt).input_ids
            prompt_length, gap = len(ids), np.inf
            for _ in range(NUM_GENERATED):  # without a cache: each token by a pass over all before it
                best = logits_of(model, ids)[-1].topk(2)
                gap = min(gap, (best.values[0] - best.values[1]).item())
                ids = ids + [best.indices[0].item()]
            generated = ids[prompt_length:]
            print(f"{name} {prompt!r}: gap {gap:.4f}: {tokenizer.decode(generated)!r}", flush=True)
            if gap <= SMALLEST_GAP or set(generated) & ends:
                continue
            write_array(file, f"greedy/{kept}/prompt", ids[:prompt_length], np.int64)
            write_array(file, f"greedy/{kept}/generated", generated, np.int64)
            kept += 1
            if kept == 2:
                break
        assert kept == 2, "no two prompts have a clear greedy path"


if __name__ == "__main__":
    for each in sys.argv[1:] or FILES:
        write_model(each)
