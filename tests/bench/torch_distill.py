"""The peer of tests/bench/compare.sh's rows C and D: PyTorch's step of the main job, and its teacher's forward pass.

    python tests/bench/torch_distill.py step|teacher [--precision float32|autocast|bfloat16] [--steps 4] [--warm-up 2] [--threads 2]

It prints one line of JSON, as torch_step.py does, whose models these are: both take what was found fastest there.

step: the job of examples/distill_smollm2.textproto in one process. A student of 15 layers with 8 experts of width 384, of which a
token uses 4, learns from a dense teacher of SmolLM2-135M's shape that reads the same 2 sequences of 256 tokens: 0.9 KL + 0.1
cross-entropy over the whole vocabulary, the gradient's norm clipped, fused AdamW. The objective is one cross-entropy against the
targets 0.9 p + 0.1 (the next token): the same gradients in the fewest passes.

teacher: 8 sequences of 512 tokens to probabilities of the whole vocabulary, logits and softmax by 256 tokens.

Weights and tokens are random: neither changes what is computed. Precisions: those of torch_step.py; the teacher's weights are
bfloat16 in autocast too.
"""

import argparse
import json
import statistics
import time

import torch
from torch.nn import functional as F

from torch_step import Model, casts_of, peak_bytes, train

SHAPE = {"vocabulary": 49152, "width": 576, "num_heads": 9, "num_kv_heads": 3, "tied_head": 1}
TEACHER = SHAPE | {"num_layers": 30, "mlp_width": 1536}
STUDENT = SHAPE | {"num_layers": 15, "num_experts": 8, "experts_per_token": 4, "expert_width": 384}


def model_of(fields, length, precision):
    fields = fields | {"sequence_length": length}
    return Model(lambda name, default=0: fields.get(name, default)).to(torch.float32 if precision == "float32" else torch.bfloat16)


def teacher_times(options):
    """Seconds of each pass over 8 x 512 tokens."""
    teacher, times = model_of(TEACHER, 512, options.precision), []
    for _ in range(options.warm_up + options.steps):
        start = time.perf_counter()
        with torch.inference_mode():
            for rows in teacher.hidden(torch.randint(SHAPE["vocabulary"], (8, 512))).flatten(0, 1).split(256):
                F.linear(rows, teacher.head).softmax(-1, torch.float32)
        times.append(time.perf_counter() - start)
    return times, 8 * 512


def step_times(options):
    teacher = model_of(TEACHER, 256, options.precision)
    student = model_of(STUDENT, 256, "bfloat16" if options.precision == "bfloat16" else "float32")

    def loss_of(tokens, next_tokens):
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            targets = F.linear(teacher.hidden(tokens), teacher.head).flatten(0, 1).softmax(-1, torch.float32).mul_(0.9)
            targets[torch.arange(len(targets)), next_tokens.flatten()] += 0.1
        logits = student.logits(tokens).flatten(0, 1)
        return F.cross_entropy(logits.float(), targets)

    times, _ = train(student, casts_of(options.precision), lambda: torch.randint(SHAPE["vocabulary"], (2, 257)), loss_of, options)
    return times, 2 * 256


def main():
    parser = argparse.ArgumentParser(description="PyTorch's step of the main job, or its teacher's forward pass, timed.")
    parser.add_argument("what", choices=["step", "teacher"])
    parser.add_argument("--precision", choices=["float32", "autocast", "bfloat16"], default="float32")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()

    torch.manual_seed(1)
    torch.set_num_threads(options.threads)
    times, tokens = (step_times if options.what == "step" else teacher_times)(options)
    print(json.dumps({"tokens_per_s": tokens / statistics.median(times[options.warm_up:]), "peak_bytes": peak_bytes(),
                      "version": torch.__version__}))


main()
