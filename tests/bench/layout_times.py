#!/usr/bin/env python3
"""What dealing optimizer state, gradients and parameters costs a step, and whether a pipeline's stages wait as long as their
schedule says: two ranks of a thread each, all rows by turns, so that what else the machine does meets them alike.

    tests/bench/layout_times.py [--rounds 5] [--steps 8] [--only shards|pipelines] [--models even,head,recompute] [--sequences 8]

A row's number is the median over rounds of a run's median step. Of pipelines what the rank that waits longest waited stands beside
what its stage waits by the schedule, that is by what the stages' layers cost: of a model of layers alone, of one whose last stage has a
large head, and of one that computes its layers again. Needs the release build, MPI and two idle cores; Python 3.9
without packages.
"""
import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WARM_UP = 2
CONFIG = """
model {{ width: 512 num_layers: 8 num_heads: 8 mlp_width: 1536 max_positions: 512 {model} }}
data {{ text: "text" tokenizer: "bytes" sequence_length: {tokens} cache_dir: "cache" }}
optimizer {{ rate: 1e-4 }}
batch {{ sequences_per_step: {sequences} micro_batches: {micro_batches} }}
train {{ steps: {steps} eval_tokens: 64 checkpoint_every_steps: 0 threads: 1 {train} }}
parallel {{ layout: "{layout}" bucket_mib: 4 {parallel} }}
generation {{ max_tokens: 1 }}
"""
# name: layout, fields of `parallel`. The first is what the others are held against.
SHARDS = {
    "NOTHING": ("dp2", ""),
    "OPTIMIZER": ("dp2", "shard: OPTIMIZER"),
    "GRADIENTS": ("dp2", "shard: GRADIENTS"),
    "PARAMETERS": ("dp2", "shard: PARAMETERS"),
}
PIPELINES = {
    "one rank": ("dp1", ""),
    "1F1B": ("pp2", "schedule: ONE_F_ONE_B"),
    "interleaved, 2 chunks": ("pp2", "schedule: INTERLEAVED chunks: 2"),
    "zero bubble": ("pp2", "schedule: ZERO_BUBBLE"),
}

# name: fields of `model`, of `train`
MODELS = {
    "even": ("", ""),
    "head": ("vocabulary: 16384", ""),
    "recompute": ("", "recompute: true"),
}


def make_text(folder):
    draw = random.Random(1)
    folder.mkdir()
    for document in range(12):
        (folder / f"{document}.txt").write_text(" ".join(str(draw.randrange(10000)) for _ in range(8000)))


def run(limbeck, work, layout, config):
    """Of the steps behind the warm-up: the lines of metrics.jsonl; and what the run said."""
    (work / "config.textproto").write_text(config)
    shutil.rmtree(work / "run", ignore_errors=True)
    ranks = 1 if layout == "dp1" else 2
    command = ["mpirun", "--bind-to", "none", "--oversubscribe", "-n", str(ranks), limbeck, "train", "config.textproto", "--out", "run", "--verbose"]
    environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    done = subprocess.run(command, cwd=work, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"layout_times.py: error: {' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in open(work / "run/metrics.jsonl")][WARM_UP:], done.stdout + done.stderr


def measure(args, work, rows, tokens, sequences, micro_batches, model="", train=""):
    """Of each row: medians a round of a step's seconds, of the seconds that a rank waited along pp at most, the share of its
    time that each stage waits by the schedule, and of what parts its passes are by that, and the peak of rank 0's memory."""
    found = {name: {"seconds": [], "waits": [], "planned": [], "parts": [], "bytes": []} for name in rows}
    for _ in range(args.rounds):
        for name, (layout, parallel) in rows.items():
            lines, said = run(args.limbeck, work, layout, CONFIG.format(
                tokens=tokens, sequences=sequences, micro_batches=micro_batches, steps=WARM_UP + args.steps, layout=layout, parallel=parallel, model=model, train=train))
            seconds = statistics.median(sequences * tokens / line["tokens_per_s"] for line in lines)
            found[name]["seconds"].append(seconds)
            found[name]["waits"].append(statistics.median(line.get("exposed_s", {}).get("pp", 0) for line in lines))
            found[name]["planned"].append([float(share) for share in re.findall(r"waits ([\d.]+) % of a step", said)])
            found[name]["parts"].append(re.findall(r"cost: (\d+) % forward, (\d+) % for gradients of inputs, (\d+) % of weights", said))
            found[name]["bytes"].append(lines[-1]["rss_bytes"])
    return found


def print_pipelines(model, found):
    """Waited beside counted; of the rounds the median, and the least and the most."""
    print(f"\n{model}\n\n| schedule | seconds a step | waited by the rank that waits longest, % of the step | least, most | counted, each stage, % | waited / counted | forward, inputs, weights of each stage, % |")
    print("|---|---|---|---|---|---|---|")
    for name, row in found.items():
        shares = [100 * waited / seconds for waited, seconds in zip(row["waits"], row["seconds"])]
        waited, counted = statistics.median(shares), row["planned"][0]
        ratio = f"{waited / max(counted):.2f}" if counted and max(counted) > 0 else ""
        parts = "; ".join(", ".join(stage) for stage in row["parts"][0])
        print(f"| {name} | {statistics.median(row['seconds']):.3f} | {waited:.1f} | {min(shares):.1f}, {max(shares):.1f} | {', '.join(f'{share:g}' for share in counted)} | {ratio} | {parts} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limbeck", type=os.path.abspath, default=str(ROOT / "build/release/bin/limbeck"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="behind a warm-up of 2 [8]")
    parser.add_argument("--only", choices=["shards", "pipelines"])
    parser.add_argument("--models", type=lambda text: text.split(","), default=["even"], help=f"of pipelines, of {', '.join(MODELS)} [even]")
    parser.add_argument("--sequences", type=int, default=8, help="a step of pipelines, in 4 micro-batches [8]")
    args = parser.parse_args()
    if unknown := set(args.models) - set(MODELS):
        parser.error(f"--models: {', '.join(sorted(unknown))}, expected of {', '.join(MODELS)}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_text(work / "text")
        if args.only != "pipelines":
            found = measure(args, work, SHARDS, tokens=256, sequences=8, micro_batches=1)
            plain = found["NOTHING"]["seconds"]
            print("| parallel.shard | seconds a step | of NOTHING's | rank 0's peak, MB |\n|---|---|---|---|")
            for name, row in found.items():
                ratio = statistics.median(own / first for own, first in zip(row["seconds"], plain))
                print(f"| {name} | {statistics.median(row['seconds']):.3f} | {ratio:.2f} | {statistics.median(row['bytes']) / 1e6:.0f} |")
        if args.only != "shards":
            for model in args.models:
                of_model, of_train = MODELS[model]
                found = measure(args, work, PIPELINES, tokens=256, sequences=args.sequences, micro_batches=4, model=of_model, train=of_train)
                print_pipelines(model, found)


if __name__ == "__main__":
    main()
