"""Holds the rewards of `limbeck eval MODEL --format pairs` against transformers', which computes them in float64.

    python tests/golden/check_rewards.py build/release/bin/limbeck [FAMILY...]      (PyPI: torch transformers safetensors)

Of each family of families/ with a class ForSequenceClassification: a folder that transformers wrote, of random weights, is read; and
what `limbeck convert` makes of it is read by transformers, without a tensor that is missing or too many. Then a Llama that predicts
tokens is trained by objective.reward, and its run judges as its folder does in transformers. Prints max |difference| / max |reward|;
exit 1 when one is above the tolerance. Phi-3.5-MoE is left out: transformers 5.24 takes other rotary factors for it (make_families.py).
"""
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import torch
import transformers

FOLDER = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))
from reference_transformers import in_float64  # noqa: E402

torch.set_num_threads(1)
TOLERANCE = 1e-4
BYTES, END = 256, 256  # Limbeck's tokenizer of bytes
FAMILIES = ("llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "olmo2", "gemma3", "phi3", "gpt2", "deepseek_v2",
            "deepseek_v3", "gpt_oss", "glm4")
JOB = """
model { source: "start" }
data { text: "pairs.jsonl" format: PAIRS tokenizer: "bytes" sequence_length: 64 held_out_fraction: 0.2 }
objective { reward { center: 0.01 } }
optimizer { rate: 1e-2 } schedule { warmup_steps: 0 } batch { sequences_per_step: 4 } train { steps: 6 threads: 1 }
"""


def make_pairs(path):
    draw = random.Random(1)

    def text(most):
        return "".join(draw.choice("abcdefgh ,.") for _ in range(draw.randint(1, most)))

    pairs = [{"prompt": text(12), "chosen": text(20), "rejected": text(20)} for _ in range(20)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return pairs


def rewards_of_transformers(model, pairs):
    found = []
    with torch.no_grad(), in_float64():
        for pair in pairs:
            for response in ("chosen", "rejected"):
                ids = list((pair["prompt"] + pair[response]).encode()) + [END]
                found.append(model(torch.tensor([ids])).logits.item())
    return torch.tensor(found, dtype=torch.float64)


def load(folder):
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager", experts_implementation="eager", output_loading_info=True)
    wrong = {name: keys for name, keys in info.items() if keys}
    if wrong:
        sys.exit(f"{folder}: {wrong}")
    return model.eval()


def main():
    limbeck, chosen = pathlib.Path(sys.argv[1]).resolve(), sys.argv[2:] or FAMILIES
    transformers.logging.set_verbosity_error()
    worst = 0
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name)
        pairs = make_pairs(place / "pairs.jsonl")

        def run(*arguments):
            done = subprocess.run([limbeck, *arguments], cwd=place, capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"limbeck {' '.join(arguments)}: {done.stderr}{done.stdout}")
            return done.stdout

        def rewards(model, *more):
            said = json.loads(run("eval", model, "--format", "pairs", "--text", "pairs.jsonl", "--json", "--quiet", *more))
            return torch.tensor([pair[f"{which}_reward"] for pair in said["pairs"] for which in ("chosen", "rejected")],
                                dtype=torch.float64)

        def compare(what, found, reference):
            nonlocal worst
            ratio = ((found - reference).abs().max() / reference.abs().max()).item()
            worst = max(worst, ratio if ratio == ratio else float("inf"))
            print(f"{what}: max |reward| {reference.abs().max():.4f}, ratio {ratio:.2e}")

        for family in chosen:
            config = transformers.AutoConfig.from_pretrained(FOLDER / "families" / family)
            config.update({"vocab_size": BYTES + 4, "pad_token_id": None, "initializer_range": 0.15})
            config.num_labels = 1
            torch.manual_seed(3)
            model = transformers.AutoModelForSequenceClassification.from_config(config, attn_implementation="eager").eval()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim() == 1:
                        parameter += 0.1 * torch.randn_like(parameter)
            model.save_pretrained(place / family)
            reference = rewards_of_transformers(load(place / family), pairs)
            compare(f"{family}, read", rewards(family, "--tokenizer", "bytes"), reference)
            run("convert", family, f"{family}_again", "--dtype", "float32", "--quiet")
            compare(f"{family}, written", rewards_of_transformers(load(place / f"{family}_again"), pairs), reference)

        config = transformers.AutoConfig.from_pretrained(FOLDER / "families" / "llama")
        config.update({"vocab_size": BYTES + 4, "max_position_embeddings": 64, "initializer_range": 0.15})
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(place / "start")
        (place / "job.textproto").write_text(JOB)
        run("train", "job.textproto", "--out", "run")
        run("convert", "run", "folder", "--dtype", "float32", "--verify")
        compare("trained", rewards("run"), rewards_of_transformers(load(place / "folder"), pairs))
    if not worst <= TOLERANCE:
        sys.exit(f"above the tolerance of {TOLERANCE:g}")


if __name__ == "__main__":
    main()
