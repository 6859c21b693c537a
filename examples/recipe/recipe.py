#!/usr/bin/env python3
"""From a teacher to a 4-bit mixture of experts that llama.cpp runs, with every figure on the way.

    examples/recipe/recipe.py                   # all of it, and the tables; goes on where it was stopped
    examples/recipe/recipe.py --tables          # of what is there, in Markdown

SmolLM2-135M-Instruct (launch/fetch_teacher.sh) is cut to half its layers, these become mixtures of experts (how far either moves the
logits is measured), the student learns from the teacher beside it, is measured and written as bfloat16, Q8_0, Q4_K_M and Q4_0, and learns
on with its weights in the blocks of Q4_0. Teacher and students then decode in turn. Text: Debian package anarchism. Needs the release
build; Python 3.9 without packages. Where PyPI's llama-cpp-python, gguf and h5py are there, llama.cpp's logits are held against
Limbeck's, and it decodes in turn with it.

Joules are RAPL's where it can be read, else those of the power that MACHINE, a cluster file (docs/plan.md), declares; costs are by its
price. Every result lies in OUT/results, a file a step: whoever removes one has that step made again.
"""
import argparse
import gzip
import importlib.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Path(__file__).resolve().parent
STUDENT = RECIPE / "student.textproto"
PRECISIONS = ("bfloat16", "Q8_0", "Q4_K_M", "Q4_0")  # of the student, as `convert --dtype` has them
PROMPT = "The idea of freedom means that"


class Recipe:
    def __init__(self, args):
        self.args = args
        self.out = Path(args.out).resolve()
        self.log = self.out / "recipe.log"
        self.teacher = Path(args.teacher).resolve() if args.teacher else ROOT / "downloads/SmolLM2-135M-Instruct.Q4_1.gguf"
        for folder in ("results", "models", "runs"):
            (self.out / folder).mkdir(parents=True, exist_ok=True)

    def run(self, command):
        """What it prints, and its messages; all of it also goes to OUT/recipe.log."""
        done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with open(self.log, "a") as log:
            log.write(f"$ {' '.join(map(str, command))}\n{done.stderr}{done.stdout}\n")
        if done.returncode != 0:
            sys.exit(f"recipe.py: error: {' '.join(map(str, command))} ended with {done.returncode}: see {self.log}")
        return done.stdout, done.stderr

    def limbeck(self, *words):
        return self.run([self.args.limbeck, *words])

    def step(self, name, make):
        """The result of a step, which is made once."""
        file = self.out / "results" / f"{name}.json"
        if not file.exists():
            print(f"== {name}", file=sys.stderr, flush=True)
            begun = time.time()
            result = {**make(), "seconds": round(time.time() - begun, 1)}
            file.with_suffix(".new").write_text(json.dumps(result) + "\n")
            file.with_suffix(".new").replace(file)
        return json.loads(file.read_text())

    def sets(self, *more):
        values = [f"teacher.source={self.teacher}", f"data.text={self.out}/texts/train", f"data.cache_dir={self.out}/tokens", *self.args.set, *more]
        return [word for value in values for word in ("--set", value)]

    # The steps.

    def make_texts(self):
        """All documents but sixteen, of which the beginnings are held out; the file names of both."""
        documents = sorted(path for path in Path(self.args.text).iterdir() if path.is_file()) if Path(self.args.text).is_dir() else []
        if len(documents) < 2:
            sys.exit(f"recipe.py: error: {self.args.text} has {len(documents)} documents, expected two or more (Debian package anarchism)")
        shutil.rmtree(self.out / "texts", ignore_errors=True)
        texts = {}
        for path in documents:
            texts[path.name[:-3] if path.suffix == ".gz" else path.name] = (gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()).decode(
                "utf-8", "ignore")
        long = [name for name in texts if len(texts[name]) > 4000]
        held_out = long[::max(1, len(long) // 16)][:16] or list(texts)[:1]
        for folder in ("train", "held_out"):
            (self.out / "texts" / folder).mkdir(parents=True)
        for name, text in texts.items():
            is_held_out = name in held_out
            (self.out / "texts" / ("held_out" if is_held_out else "train") / name).write_text(text[1000:1800] if is_held_out else text)
        return {"documents": len(texts), "held_out": held_out}

    def start(self, name, *sets):
        """Cuts a student as it stands before it learns."""
        self.limbeck("convert", self.teacher, self.model(name), "--force", "--dtype", "bfloat16", "--init", STUDENT, *self.sets(*sets))
        return self.figures(self.model(name))

    def distil(self, name, configs, *sets):
        run = self.out / "runs" / name
        compute = [] if has_bfloat16() else ["precision.compute=FLOAT32"]
        # --resume also begins a run of which there is nothing yet.
        self.limbeck("distill", *configs, "--out", run, "--resume", *self.sets(*compute, *sets))
        lines = [json.loads(line) for line in open(run / "metrics.jsonl")]
        return {"tokens": lines[-1]["tokens"], "seconds_in_steps": lines[-1]["seconds"], "parameters": json.loads((run / "start.json").read_text())["parameters"]}

    def export(self, run, name, dtype):
        """A run's student, or the teacher, in a format, and its figures."""
        source = self.teacher if run is None else self.out / "runs" / run
        self.limbeck("convert", source, self.model(name), "--force", "--dtype", dtype)
        return self.figures(self.model(name))

    def figures(self, file):
        said, _ = self.limbeck("eval", file, "--text", self.out / "texts/held_out", "--teacher", self.teacher, "--window", self.args.window, "--json")
        figures = json.loads(said)["all"]
        return {"bytes": file.stat().st_size, **{name: figures[name] for name in ("tokens", "ce", "perplexity", "kl", "top1_agreement", "sum_min")}}

    def check_by_llama_cpp(self, source, name, of=None):
        """What Limbeck's logits, of a file of blocks or else of the same file, are from llama.cpp's of the source in float32, to rounding. On
        blocks themselves llama.cpp rounds activations to 8 bits too, so that a token may go to another expert: no bound holds there
        (docs/models.md, 8 to 58 % of mixtures)."""
        file, tokens, logits = self.model(name), self.out / "tokens.txt", self.out / f"{name}.h5"
        if not file.exists():
            self.limbeck("convert", source, file, "--dtype", "float32")
        tokens.write_text(" ".join(str(7 + i * 7919 % 40000) for i in range(96)))
        self.limbeck("eval", of or file, "--tokens", tokens, "--logits", logits)
        said, _ = self.run([sys.executable, ROOT / "tests/golden/check_llama_cpp.py", file, logits, "--tolerance", 1e-3])
        return {"said": said.splitlines()[-1]}

    def decode(self, names):
        """Rates of all models, in turn, so that what else the machine does meets all of them; medians of the rounds."""
        rounds = {name: [] for name in names}
        for _ in range(self.args.rounds):
            for name, file in names.items():
                _, said = self.limbeck("generate", file, "--prompt", PROMPT, "--max-tokens", self.args.tokens, "--temperature", 0.7, "--seed", 1,
                                       "--cluster", self.args.machine)
                one = {"tokens_per_s": float(re.search(r"decode \d+ tokens? at ([\d.]+) tokens/s", said)[1])}
                energy = re.search(r"([\d.e+-]+) J a token \((.*?)\)(?:, ([\d.e+-]+) (\S+) a million tokens)?", said)
                if energy:
                    one.update(joules=float(energy[1]), energy_by=energy[2])
                    if energy[3]:
                        one.update(cost=float(energy[3]), currency=energy[4])
                if self.has_llama_cpp():
                    said, _ = self.run([sys.executable, ROOT / "tests/bench/llama_speed.py", file, "--as-stored", "--threads", len(os.sched_getaffinity(0)),
                                        "--prefill", 64, "--decode", self.args.tokens])
                    one["llama_cpp_tokens_per_s"] = json.loads(said)["decode"]
                rounds[name].append(one)
        return {"processor": processor(), "load": os.getloadavg()[0], "models": {name: middle(each) for name, each in rounds.items()}}

    # All of it.

    def model(self, name):
        return self.out / "models" / f"{name}.gguf"

    def has_llama_cpp(self):
        return not self.args.without_llama_cpp and all(importlib.util.find_spec(name) for name in ("llama_cpp", "gguf", "h5py"))

    def make(self):
        if not self.teacher.exists():
            self.run(["sh", "-c", f"cd '{ROOT}' && launch/fetch_teacher.sh"])
        self.step("texts", self.make_texts)
        # Experts that start as the dense feed-forward was (docs/distillation.md): the second start is the first one's function.
        self.step("start_half", lambda: self.start("start_half", "student_init.upcycle="))
        self.step("start_experts", lambda: self.start("start_experts"))
        self.step("distilled", lambda: self.distil("distilled", [STUDENT], f"train.steps={self.args.steps}"))
        self.step("quantised", lambda: self.distil("quantised", [STUDENT, RECIPE / "quantised.textproto"], "student_init=", f"model.source={self.out}/runs/distilled",
                                                   f"train.steps={self.args.quantised_steps}"))
        names = {}
        for dtype in PRECISIONS:
            names[f"student_{dtype}"] = self.step(f"student_{dtype}", lambda: self.export("distilled", f"student_{dtype}", dtype))
        names["quantised_Q4_0"] = self.step("quantised_Q4_0", lambda: self.export("quantised", "quantised_Q4_0", "Q4_0"))
        names["teacher"] = self.step("teacher", lambda: self.figures(self.teacher))
        for dtype in ("Q8_0", "bfloat16"):
            names[f"teacher_{dtype}"] = self.step(f"teacher_{dtype}", lambda: self.export(None, f"teacher_{dtype}", dtype))
        if self.has_llama_cpp():
            blocks = self.model("quantised_Q4_0")
            self.step("llama_cpp_float32", lambda: self.check_by_llama_cpp(self.out / "runs/quantised", "quantised_float32"))
            self.step("llama_cpp_Q4_0", lambda: self.check_by_llama_cpp(blocks, "values_of_Q4_0", of=blocks))
        self.step("decode", lambda: self.decode({name: self.teacher if name == "teacher" else self.model(name) for name in names}))

    def result(self, name):
        file = self.out / "results" / f"{name}.json"
        return json.loads(file.read_text()) if file.exists() else None

    def tables(self):
        """In Markdown, of what is there."""
        distilled, quantised = self.result("distilled"), self.result("quantised")
        tokens_of = lambda run: f", {run['tokens']:,} tokens" if run else ""
        print("| on the way | KL to the teacher | agreement | perplexity |\n|---|---|---|---|")
        for name, title in (("start_half", "half the layers, nothing learnt"), ("start_experts", "these as experts"),
                            ("student_bfloat16", f"distilled{tokens_of(distilled)}"), ("student_Q8_0", "in Q8_0"), ("student_Q4_K_M", "in Q4_K_M"),
                            ("student_Q4_0", "in Q4_0"), ("quantised_Q4_0", f"in Q4_0, quantisation-aware{tokens_of(quantised)} more")):
            if found := self.result(name):
                print(f"| {title} | {found['kl']:.3f} | {found['top1_agreement']:.3f} | {found['perplexity']:.2f} |")
        decode = self.result("decode")
        rates = decode["models"] if decode else {}
        has_llama_cpp = any("llama_cpp_tokens_per_s" in r for r in rates.values())
        currency = next((r["currency"] for r in rates.values() if "currency" in r), "cost")
        print(f"\n| | KL | agreement | perplexity | MiB | tokens/s |{' llama.cpp, tokens/s |' if has_llama_cpp else ''} J a token | {currency} a million tokens |\n|---|"
              + "---|" * (8 if has_llama_cpp else 7))
        rows = [("teacher_bfloat16", "teacher, bfloat16"), ("teacher_Q8_0", "teacher, Q8_0"), ("teacher", "teacher, its own file"),
                *((f"student_{dtype}", f"student, {dtype}") for dtype in PRECISIONS), ("quantised_Q4_0", "student, Q4_0, quantisation-aware")]
        for name, title in rows:
            found = self.result(name)
            if not found:
                continue
            rate = rates.get(name, {})
            cells = [f"{found['kl']:.3f}", f"{found['top1_agreement']:.3f}", f"{found['perplexity']:.2f}", f"{found['bytes'] / 2**20:.0f}",
                     cell(rate, "tokens_per_s", "{:.1f}"), *([cell(rate, "llama_cpp_tokens_per_s", "{:.1f}")] if has_llama_cpp else []),
                     cell(rate, "joules", "{:.3g}"), cell(rate, "cost", "{:.3g}")]
            print(f"| {title} | {' | '.join(cells)} |")
        print()
        if distilled:
            parameters = distilled["parameters"]
            print(f"The student has {parameters['total'] / 1e6:.1f}M parameters, of which a token uses {parameters['active'] / 1e6:.1f}M.", end=" ")
        if decode:
            energy = next((r["energy_by"] for r in rates.values() if "energy_by" in r), None)
            print(f"Decode: medians of {self.args.rounds} in turn, one text of {self.args.tokens} tokens at a time, {decode['processor']}; load before it "
                  f"ended {decode['load']:.1f}." + (f" Energy: {energy}." if energy else ""), end=" ")
        for name in ("llama_cpp_float32", "llama_cpp_Q4_0"):
            if found := self.result(name):
                print(f"{name}: {found['said']}.", end=" ")
        seconds = sum(json.loads(file.read_text())["seconds"] for file in (self.out / "results").glob("*.json"))
        print(f"All of it took {seconds / 60:.1f} minutes.")


def cell(values, name, form):
    return form.format(values[name]) if name in values else "-"


def middle(rounds):
    """Of each number the median of the rounds; of texts the last."""
    return {name: statistics.median(r[name] for r in rounds) if isinstance(value, float) else value for name, value in rounds[-1].items()}


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "a processor")
    return f"{len(os.sched_getaffinity(0))} cores of {name}"


def has_bfloat16():
    return any(flag in Path("/proc/cpuinfo").read_text() for flag in ("avx512_bf16", "amx_bf16"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=str(ROOT / "runs/recipe"), help="folder of texts, runs, models and results [runs/recipe]")
    parser.add_argument("--limbeck", default=str(ROOT / "build/release/bin/limbeck"))
    parser.add_argument("--teacher", help="another GGUF file than SmolLM2-135M-Instruct")
    parser.add_argument("--text", default="/usr/share/doc/anarchism/markdown", help="a folder of documents")
    parser.add_argument("--machine", default=str(RECIPE / "machine.textproto"), help="a cluster file, for power and price")
    parser.add_argument("--steps", type=int, default=104, help="of 512 tokens [104]")
    parser.add_argument("--quantised-steps", type=int, default=26, help="of the quantisation-aware ones behind them [26]")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of the student's config, as limbeck takes it")
    parser.add_argument("--window", type=int, default=256, help="tokens, of what is measured on held-out text [256]")
    parser.add_argument("--tokens", type=int, default=64, help="that are decoded [64]")
    parser.add_argument("--rounds", type=int, default=3, help="of decoding [3]")
    parser.add_argument("--without-llama-cpp", action="store_true", help="also where it is there")
    parser.add_argument("--tables", action="store_true", help="print the tables of what is there")
    args = parser.parse_args()
    recipe = Recipe(args)
    if not args.tables:
        recipe.make()
    recipe.tables()


if __name__ == "__main__":
    main()
