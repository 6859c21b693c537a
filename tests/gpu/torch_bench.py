"""PyTorch beside Limbeck on the same GPU: the shapes are those of `bench_gpu --floors` and `bench_gpu_step NAME --floors`.

    bench_gpu --floors >cases.jsonl; bench_gpu_step mixture --floors >>cases.jsonl
    python3 tests/gpu/torch_bench.py cases.jsonl [--kinds memory,small] [--modes default] [--seconds 120] [--json FILE]

A line of JSON for the fastest way of a case and which that was, another wherever a later way was faster; with the bytes that it works
in. A case that PyTorch has nothing for is left out, one that fails or that there is no time for has an `error`. Times are taken as bench_gpu
takes them: medians of runs queued behind each other, the second cache overwritten before each.
"""

import argparse
import json
import signal
import statistics
import sys
import time

import torch

from torch_cases import Makers, ways_of
from torch_models import time_steps


class Stopwatch:
    def __init__(self, device):
        self.on_gpu = device == "cuda"
        self.flushed = torch.zeros(1 << 28 if self.on_gpu else 64, dtype=torch.uint8, device=device)

    def milliseconds(self, run, count):
        if not self.on_gpu:
            times = []
            for _ in range(count):
                start = time.perf_counter()
                run()
                times.append(1e3 * (time.perf_counter() - start))
            return statistics.median(times)
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
        for begin, end in events:
            self.flushed.zero_()
            begin.record()
            run()
            end.record()
        torch.cuda.synchronize()
        return statistics.median(begin.elapsed_time(end) for begin, end in events)

    def seconds(self, run):
        self.milliseconds(run, 1)  # libraries choose their kernels, compilers compile
        about = self.milliseconds(run, 1)
        return self.milliseconds(run, int(min(100, max(5, 100 / max(about, 1e-3)))) if self.on_gpu else 2) / 1e3

    def working_bytes(self, run):
        """Most bytes that were allocated in a run beyond those that are there behind it."""
        if not self.on_gpu:
            return 0
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - torch.cuda.memory_allocated()


def short(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def kernel_figures(case, options, stopwatch):
    """The fastest way so far, each time that one is faster; where none runs, why."""
    ways = ways_of(case, Makers(options.device), options.modes)
    best, errors = None, {}
    for label, run in ways.items():
        try:
            seconds = stopwatch.seconds(run)
            if best is None or seconds < best:
                best = seconds
                yield {"seconds": seconds, "way": label, "working_bytes": stopwatch.working_bytes(run)}
        except Exception as error:  # a backend that refuses the shape, a kernel that is not there, the time
            errors[label] = short(error)
    if ways and best is None:
        yield {"error": "; ".join(f"{label}: {text}" for label, text in errors.items())}


def step_figures(case, options):
    """The same of whole steps."""
    best, errors = None, {}
    for mode in options.modes:
        if options.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            seconds, peak, loss = time_steps(case, options.device, mode, steps=options.steps)
            if best is None or seconds < best:
                best = seconds
                tokens = case["of"]["N"] * case["of"]["S"]
                yield {"seconds": seconds, "tokens_per_s": tokens / seconds, "peak_bytes": peak, "loss": loss, "way": f"compiled, {mode}"}
        except Exception as error:
            errors[mode] = short(error)
        torch._dynamo.reset()
    if best is None:
        yield {"error": "; ".join(f"{mode}: {text}" for mode, text in errors.items())}


def time_is_up(*_):
    raise TimeoutError("there was no time left for it")


def main():
    parser = argparse.ArgumentParser(description="PyTorch's times of the cases of bench_gpu.")
    parser.add_argument("cases")
    parser.add_argument("--kinds", default="memory,small,product,grouped,attention,head,step", type=lambda text: text.split(","))
    parser.add_argument("--names", default=None, type=lambda text: text.split(","))
    parser.add_argument("--modes", default="default", type=lambda text: text.split(","))
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--json")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    signal.signal(signal.SIGALRM, time_is_up)
    if options.seconds < 1e6:
        signal.setitimer(signal.ITIMER_REAL, options.seconds)

    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch_bench.py: error: PyTorch sees no GPU (--device cpu)")
    torch.manual_seed(1)
    stopwatch = Stopwatch(options.device)
    out = open(options.json, "a") if options.json else sys.stdout
    with open(options.cases) as file:
        cases = [json.loads(line) for line in file]
    for case in cases:
        if case["kind"] not in options.kinds or (options.names and case["name"] not in options.names):
            continue
        line = {"kind": case["kind"], "name": case["name"], "of": case["of"], "side": "torch", "version": torch.__version__}
        try:
            if time.monotonic() > end:
                time_is_up()
            for found in step_figures(case, options) if case["kind"] == "step" else kernel_figures(case, options, stopwatch):
                print(json.dumps(line | found), file=out, flush=True)
        except Exception as error:
            print(json.dumps(line | {"error": short(error)}), file=out, flush=True)


main()
