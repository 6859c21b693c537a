#!/usr/bin/env python3
"""The seconds of a step beside what `limbeck plan` plans by what `plan --calibrate` measured of this machine: of two ranks of a thread
each, or of a GPU.

    tests/bench/plan_times.py [--limbeck build/release/bin/limbeck] [--gpu] [--rounds 5] [--only PART-OF-A-ROW'S-NAME]

Calibrates first. A row's number is the median over rounds of a run's median step, all rows by turns, so that what else the machine does
meets them alike. Exit code 1: a row is planned more than 25 % off. Needs an idle machine, without --gpu MPI; Python 3.9 without packages.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from layout_times import ROOT, make_text

WARM_UP = 3
DENSE = "width: 192 num_layers: 6 num_heads: 6 num_kv_heads: 3 mlp_width: 512 max_positions: 256"
EXPERTS = "width: 192 num_layers: 4 num_heads: 6 num_kv_heads: 3 mlp_width: 384 max_positions: 256 moe { num_experts: 8 experts_per_token: 2 expert_width: 192 }"
WIDE = "width: 384 num_layers: 3 num_heads: 6 mlp_width: 1024 max_positions: 256"
# name: model, tokens of a sequence, layout, fields that are set. None of these models is one that is calibrated with.
ROWS = {
    "dense, dp2": (DENSE, 192, "dp2", None),
    "dense, dp2, bfloat16": (DENSE, 192, "dp2", "precision.compute=BFLOAT16"),
    "dense, dp2, PARAMETERS": (DENSE, 192, "dp2", "parallel.shard=PARAMETERS"),
    "dense, tp2, sequence parallelism": (DENSE, 192, "tp2", "parallel.sequence_parallel=true"),
    "dense, tp2, bfloat16": (DENSE, 192, "tp2", "precision.compute=BFLOAT16"),
    "dense, cp2": (DENSE, 192, "cp2", None),
    "dense, pp2, 4 micro-batches": (DENSE, 192, "pp2", "batch.micro_batches=4"),
    "experts, ep2": (EXPERTS, 192, "ep2", None),
    "experts, ep2, bfloat16": (EXPERTS, 192, "ep2", "precision.compute=BFLOAT16"),
    "experts, dp2": (EXPERTS, 192, "dp2", None),
    "experts, tp2ep2": (EXPERTS, 192, "tp2ep2", None),
    "wide, dp2": (WIDE, 128, "dp2", None),
    "wide, tp2": (WIDE, 128, "tp2", None),
    "wide, dp2, bfloat16": (WIDE, 128, "dp2", "precision.compute=BFLOAT16"),
}
LARGE = "width: 1024 num_layers: 8 num_heads: 16 num_kv_heads: 8 mlp_width: 2816 max_positions: 1024"
LARGE_EXPERTS = "width: 1024 num_layers: 4 num_heads: 16 num_kv_heads: 8 max_positions: 1024 moe { num_experts: 16 experts_per_token: 2 expert_width: 1024 }"
GPU_ROWS = {
    "dense, bfloat16": (LARGE, 1024, "dp1", "precision.compute=BFLOAT16"),
    "dense, bfloat16, recomputed": (LARGE, 1024, "dp1", "precision.compute=BFLOAT16 train.recompute=true"),
    "experts, bfloat16": (LARGE_EXPERTS, 1024, "dp1", "precision.compute=BFLOAT16"),
    "dense, float32": (LARGE, 512, "dp1", None),
}
CONFIG = """
model {{ {model} }}
data {{ text: "text" tokenizer: "bytes" sequence_length: {tokens} cache_dir: "cache" }}
optimizer {{ rate: 1e-4 }}
batch {{ sequences_per_step: 8 }}
train {{ steps: {steps} eval_tokens: 64 checkpoint_every_steps: 0 {train} }}
parallel {{ layout: "{layout}" }}
generation {{ max_tokens: 1 }}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limbeck", type=os.path.abspath, default=str(ROOT / "build/release/bin/limbeck"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=9, help="behind a warm-up of 3 [9]")
    parser.add_argument("--only", default="")
    parser.add_argument("--gpu", action="store_true")
    args = parser.parse_args()
    if not args.gpu:  # a machine is calibrated with all its cores, which have to be a thread a rank, as in the rows
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_text(work / "text")
        environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMP_NUM_THREADS="1", XDG_CACHE_HOME=str(work / "rates"))

        def run(*command):
            done = subprocess.run(command, cwd=work, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode != 0:
                sys.exit(f"plan_times.py: error: {' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
            return done.stdout

        ranks, of_all, train = (1, GPU_ROWS, "device: CUDA") if args.gpu else (2, ROWS, "threads: 1")
        start = [args.limbeck] if args.gpu else ["mpirun", "--bind-to", "none", "--oversubscribe", "-n", str(ranks), args.limbeck]
        print(run(*start, "plan", "--calibrate"), flush=True)
        rows = {name: row for name, row in of_all.items() if args.only in name}
        configs, planned, measured = {}, {}, {name: [] for name in rows}
        for name, (model, tokens, layout, fields) in rows.items():
            (work / f"{name}.textproto").write_text(CONFIG.format(model=model, tokens=tokens, layout=layout, steps=WARM_UP + args.steps, train=train))
            configs[name] = [f"{name}.textproto", *(word for field in (fields or "").split() for word in ("--set", field))]
            planned[name] = json.loads(run(args.limbeck, "plan", *configs[name], "--ranks", str(ranks), "--json"))["step"]["seconds"]
        for _ in range(args.rounds):
            for name, (_, tokens, _, _) in rows.items():
                shutil.rmtree(work / "run", ignore_errors=True)
                run(*start, "train", *configs[name], "--out", "run", "--quiet")
                lines = [json.loads(line) for line in open(work / "run/metrics.jsonl")][WARM_UP:]
                measured[name].append(statistics.median(8 * tokens / line["tokens_per_s"] for line in lines))
        print(f"| {'a GPU' if args.gpu else 'two ranks'} | measured, ms | planned, ms | |\n|---|---|---|---|")
        off = 0
        for name in rows:
            seconds = statistics.median(measured[name])
            off = max(off, abs(planned[name] / seconds - 1))
            print(f"| {name} | {1e3 * seconds:.1f} | {1e3 * planned[name]:.1f} | {100 * (planned[name] / seconds - 1):+.0f} % |")
        sys.exit(off > 0.25)


if __name__ == "__main__":
    main()
