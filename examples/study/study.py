#!/usr/bin/env python3
"""What makes a distilled student good: objectives, starts, caches and controls, side by side on one teacher and text.

    examples/study/study.py                     # all of it, and the tables; goes on where it was stopped
    examples/study/study.py --only kd ce        # some arms
    examples/study/study.py --tables            # of what is there, in Markdown and OUT/study.svg

What was measured already lies in examples/study/results, a file a run: those runs are not made again, and the tables have them, where
they are of the settings, the cache and the steps asked for. A new result goes to OUT/results, from where it may be moved there.

Needs the release build, the teacher (launch/fetch_teacher.sh) and the text (Debian package anarchism); Python 3.9 without
packages.
"""
import argparse
import gzip
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STUDY = Path(__file__).resolve().parent
KNOWN = STUDY / "results"
TEACHER = "downloads/SmolLM2-135M-Instruct.Q4_1.gguf"
VOCABULARY = 49152  # its tokens
WINDOW = 256  # that it reads at once
TEXT = Path("/usr/share/doc/anarchism/markdown")
FIGURES = {"kl": "KL", "top1_agreement": "agreement", "sum_min": "sum min(p,q)", "ce": "cross-entropy"}


def cached(kind, tokens=64, *more):
    """An arm that learns from a cache: the cache's name, how it is made, and what it then says of itself."""
    says = {"teacher": Path(TEACHER).name, "window": WINDOW, "kind": kind, "tokens": tokens, "temperatures": [1], "quantised": True}
    return {"cache": (f"{kind.lower()}_{tokens}", [f"teacher.cache_kind={kind}", f"teacher.cache_tokens={tokens}"], says), "sets": list(more)}


def said_by(cache):
    """Of a cache's folder: what it holds of whose distributions (docs/teacher_cache.md)."""
    about = json.loads((cache / "cache.json").read_text())["cache"]
    contents = about["contents"]
    return {"teacher": Path(about["teacher"]["source"]).name, "window": about["windows"]["length"], "kind": contents["kind"], "tokens": contents["kept"],
            "temperatures": contents["temperatures"], "quantised": contents["quantised"]}


def words_of(values):
    return [word for value in values for word in ("--set", value)]


NO_ROUTERS = 'optimizer.groups={ pattern: "embed.weight" rate_factor: 0.1 }'  # in the place of both groups
DENSE = {"start": ["student_init.upcycle=", NO_ROUTERS]}
RANDOM = {"configs": ["student.textproto", "random.textproto"], "start": ["student_init=", "optimizer.groups="]}  # all at one rate
CE = {"sets": ["objective.cross_entropy_weight=1"]}

# name: what it says in the tables, and what differs from student.textproto.
ARMS = {
    "kd": ("MoE, KD: the reference", {}),
    "ce": ("MoE, CE", CE),
    "ce_time": ("MoE, CE, as long as KD by the clock", {**CE, "as_long": True}),
    "skip_kd": ("layer skip, dense, KD", DENSE),
    "skip_ce": ("layer skip, dense, CE", {**DENSE, **CE}),
    "random_kd": ("random weights, KD", RANDOM),
    "random_ce": ("random weights, CE", {**RANDOM, **CE}),
    "smoothed": ("control: smoothed labels", {"sets": ["objective.control=SMOOTHED_LABELS", "objective.smoothing={smoothing}"]}),
    "shuffled": ("control: the teacher's distributions elsewhere", {"sets": ["objective.control=SHUFFLED_POSITIONS"]}),
    "untrained": ("control: an untrained teacher", {"sets": ["objective.control=UNTRAINED"]}),
    "top_8": ("cache of the 8 likeliest, ghost bucket", cached("TOP_K", 8)),
    "top_8_renormalised": ("8, renormalised", cached("TOP_K", 8, "objective.renormalised=true")),
    "top_32": ("32, ghost bucket", cached("TOP_K", 32)),
    "top_32_renormalised": ("32, renormalised", cached("TOP_K", 32, "objective.renormalised=true")),
    "top_128": ("128, ghost bucket", cached("TOP_K", 128)),
    "top_128_renormalised": ("128, renormalised", cached("TOP_K", 128, "objective.renormalised=true")),
    "sampled_12": ("12 draws", cached("SAMPLED", 12)),
    "full": ("cache of all tokens", cached("FULL")),
    "reverse": ("reverse KL", {"sets": ["objective.divergence=REVERSE_KL"]}),
    "jensen_shannon": ("Jensen-Shannon", {"sets": ["objective.divergence=JENSEN_SHANNON"]}),
    "hidden": ("KD and hidden states", {"sets": ["objective.hidden_states.weight=1"]}),
    "on_policy": ("the last third half on-policy", {"sets": ["objective.sampled_text.fraction=0.5", "objective.sampled_text.first_step={third}"]}),
    "on_policy_16": ("the same, texts of 16 steps said together",
                     {"sets": ["objective.sampled_text.fraction=0.5", "objective.sampled_text.first_step={third}", "objective.sampled_text.steps_at_once=16"]}),
    "teacher_q4_0": ("the teacher rounded to Q4_0 once more", {"teacher": "Q4_0"}),
}


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    field = lambda name: next((line.split(":", 1)[1].split() for line in lines if line.startswith(name)), [])
    return " ".join(field("model name") + [flag for flag in ("avx2", "avx512_bf16", "amx_bf16") if flag in field("flags")])


class Study:
    def __init__(self, args):
        self.args = args
        self.out = Path(args.out)
        self.environment = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")

    def limbeck(self, *words, ranks=2, log=None):
        """What it prints; its messages go to the end of `log`."""
        command = [str(self.args.limbeck), *map(str, words)]
        if ranks > 1:
            command = ["mpirun", "--bind-to", "none", "--oversubscribe", "-n", str(ranks), *command]
        with open(log or os.devnull, "a") as messages:
            done = subprocess.run(command, cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages, text=True)
        if done.returncode != 0:
            sys.exit(f"study.py: error: {' '.join(command)} ended with {done.returncode}: see {log}")
        return done.stdout

    def make_texts(self):
        """An eighteenth of the documents to learn from, and the beginnings of sixteen others, which are held out."""
        if (self.out / "texts/made").exists():
            return
        documents = sorted(TEXT.iterdir())
        if not documents:
            sys.exit(f"study.py: error: {TEXT} is empty, expected the text of Debian's package anarchism")
        for folder in ("train", "held_out"):
            shutil.rmtree(self.out / "texts" / folder, ignore_errors=True)
            (self.out / "texts" / folder).mkdir(parents=True)
        for number, path in enumerate(documents):
            text = (gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()).decode("utf-8", "ignore")
            name = path.name.removesuffix(".gz")
            if number % 18 == 4:
                (self.out / "texts/train" / name).write_text(text)
            elif number % 9 == 0 and len(text) > 4000:
                (self.out / "texts/held_out" / name).write_text(text[1000:3000])
        (self.out / "texts/made").touch()

    def settings(self, arm):
        """The fields of the config in which an arm is another than student.textproto, but for its cache and its teacher's file; by these and its cache's
        contents a result is known."""
        wanted, steps = ARMS[arm][1], self.args.steps
        return [*wanted.get("start", []), *(s.format(smoothing=self.args.smoothing, third=steps - steps // 3 + 1) for s in wanted.get("sets", []))]

    def sets(self, arm, seed, steps):
        wanted = ARMS[arm][1]
        values = [*self.settings(arm), f"data.text={self.out}/texts/train", f"data.cache_dir={self.out}/tokens", f"train.seed={seed}",
                  f"data.seed={seed}", f"train.steps={steps}"]
        if "cache" in wanted:
            values.append(f"teacher.cache={self.cache_folder(wanted['cache'][0])}")
        if "teacher" in wanted:
            values.append(f"teacher.source={self.teacher_file(wanted['teacher'])}")
        return words_of(values)

    def configs(self, arm):
        return [STUDY / name for name in ARMS[arm][1].get("configs", ["student.textproto"])]

    def cache_folder(self, name):
        return self.out / "caches" / name

    def cache_sets(self, sets):
        return words_of([f"data.text={self.out}/texts/train", f"data.cache_dir={self.out}/tokens", *sets])

    def make_cache(self, name, sets, says):
        """What it says of itself, which is what the arm expects."""
        folder = self.cache_folder(name)
        if not (folder / "whole").exists():
            print(f"== cache {name}", flush=True)
            self.limbeck("cache-teacher", *self.configs("kd"), "--out", folder, *self.cache_sets(sets), log=self.out / f"caches_{name}.log")
            (folder / "whole").touch()
        if (said := said_by(folder)) != says:
            sys.exit(f"study.py: error: {folder} is of {said}, expected {says}: remove it, and it is made again")
        return said

    def teacher_file(self, dtype):
        return self.out / f"teacher_{dtype.lower()}.gguf"

    def make_teacher(self, dtype):
        path = self.teacher_file(dtype)
        if not path.exists():
            self.limbeck("convert", TEACHER, path, "--dtype", dtype, ranks=1, log=self.out / "convert.log")

    def without_teacher(self, run):
        """What makes of kd's config one of the same student, which lies in `run`, by CE alone."""
        return words_of(["teacher=", "student_init=", "objective=", f"model.source={run}", "data.tokenizer=model"])

    def words(self):
        """What commands are told of their configs, a list each: the command, the configs, and what is set over them. Nothing is made."""
        steps = self.args.steps
        for arm in self.args.only:
            yield ["distill", *self.configs(arm), *self.sets(arm, 1, steps)]
            if "cache" in ARMS[arm][1]:
                yield ["cache-teacher", *self.configs("kd"), *self.cache_sets(ARMS[arm][1]["cache"][1])]
        yield ["train", *self.configs("kd"), *self.sets("kd", 1, steps), *self.without_teacher("RUN")]

    def kd_by_ce(self):
        """How long a step of KD takes by one of CE alone, which needs no teacher: medians of 16 steps each."""
        found = self.out / "speed.json"
        if not found.exists():
            run = self.out / "runs/speed"
            shutil.rmtree(run, ignore_errors=True)
            log, sets = self.out / "speed.log", self.sets("kd", 1, 16)
            self.limbeck("distill", *self.configs("kd"), "--out", run / "kd", *sets, log=log)
            self.limbeck("train", *self.configs("kd"), "--out", run / "ce", *sets, *self.without_teacher(run / "kd"), log=log)
            speed = {}
            for name in ("kd", "ce"):
                lines = [json.loads(line) for line in open(run / name / "metrics.jsonl")]
                seconds = sorted(1 / line["tokens_per_s"] for line in lines)
                speed[name] = seconds[len(seconds) // 2]
            found.write_text(json.dumps(speed))
            shutil.rmtree(run)
        speed = json.loads(found.read_text())
        return speed["kd"] / speed["ce"]

    def results(self, arm):
        """By seed, of these settings and steps, and of a cache of these contents, where a result says of which it is: the first ones do not."""
        known, cache = {}, ARMS[arm][1].get("cache", (None, None, None))[2]
        for folder in (KNOWN, self.out / "results"):
            for path in sorted(folder.glob(f"{arm}_[0-9]*.json")):
                result = json.loads(path.read_text())
                if (result["arm"] == arm and result.get("settings") == self.settings(arm) and result.get("reference_steps") == self.args.steps
                        and result.get("cache", cache) == cache):
                    known[result["seed"]] = result
        return known

    def run(self, arm, seed):
        if seed in self.results(arm):
            return
        print(f"== {arm}, seed {seed}", flush=True)
        run, log = self.out / "runs" / f"{arm}_{seed}", self.out / "runs" / f"{arm}_{seed}.log"
        run.parent.mkdir(parents=True, exist_ok=True)
        ratio = self.kd_by_ce() if ARMS[arm][1].get("as_long") else 1
        steps = round(self.args.steps * ratio)
        cache = {"cache": self.make_cache(*ARMS[arm][1]["cache"])} if "cache" in ARMS[arm][1] else {}
        if "teacher" in ARMS[arm][1]:
            self.make_teacher(ARMS[arm][1]["teacher"])
        begun = time.time()
        # --resume also begins a run of which there is nothing yet.
        self.limbeck("distill", *self.configs(arm), "--out", run, "--resume", *self.sets(arm, seed, steps), log=log)
        seconds = time.time() - begun
        measured = json.loads(self.limbeck("eval", run, "--text", self.out / "texts/held_out", "--teacher", TEACHER, "--window", WINDOW, "--json", log=log))
        documents = [{name: d[name] for name in ("tokens", *FIGURES)} for d in measured["documents"]]
        result = {"arm": arm, "seed": seed, "settings": self.settings(arm), **cache, "reference_steps": self.args.steps, "steps": steps, "seconds": round(seconds, 1),
                  "processor": processor(), "documents": documents}
        path = self.out / "results" / f"{arm}_{seed}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(result) + "\n")
        if arm not in self.args.keep:
            shutil.rmtree(run)


def documents_of(result):
    """Of each document its tokens and its figures' sums."""
    return [(d["tokens"], {f: d[f] * d["tokens"] for f in FIGURES}) for d in result["documents"]]


def mean(documents, figure):
    return sum(sums[figure] for _, sums in documents) / sum(tokens for tokens, _ in documents)


def interval(of_seeds, against, figure, draws=2000):
    """Of the mean's difference from that of `against`, which has the same seeds and documents, 95 %: seeds and documents are drawn again."""
    rng = random.Random(1)
    seeds, places = sorted(of_seeds), range(len(next(iter(of_seeds.values()))))
    differences = []
    for _ in range(draws):
        drawn, documents = rng.choices(seeds, k=len(seeds)), rng.choices(places, k=len(places))
        differences.append(sum(mean([of_seeds[s][i] for i in documents], figure) - mean([against[s][i] for i in documents], figure)
                               for s in drawn) / len(drawn))
    differences.sort()
    return differences[int(0.025 * draws)], differences[int(0.975 * draws) - 1]


def difference(of_seeds, against, figure):
    """The mean's difference, and its interval."""
    less = sum(mean(of_seeds[s], figure) - mean(against[s], figure) for s in of_seeds) / len(of_seeds)
    return less, *interval(of_seeds, against, figure)


def smoothed_entropy(smoothing, vocabulary):
    """Of one smoothed label (core/ops/smoothed_labels.h), in nats."""
    other = smoothing / vocabulary
    target = 1 - smoothing + other
    return -target * math.log(target) - (vocabulary - 1) * other * math.log(other)


def entropies(study):
    """Of the smoothed labels and of the teacher's distributions, which are to be as soft."""
    smoothing = study.args.smoothing
    text = f"entropy, nats: of labels smoothed by {smoothing:g} {smoothed_entropy(smoothing, VOCABULARY):.3f}; of the teacher's distributions "
    found = next((path for folder in (study.out, KNOWN) if (path := folder / "teacher_entropy.json").exists()), None)
    if found is None:
        return text + f"not measured: {STUDY / 'teacher_entropy.py'} {study.out} does"
    teacher = json.loads(found.read_text())
    return text + f"{teacher['entropy']:.3f} in the mean, with a standard error of {teacher['error']:.3f}, of {teacher['positions']} positions"


def tables(study):
    results = {arm: seeds for arm in ARMS if (seeds := study.results(arm))}
    found = {arm: {s: documents_of(r) for s, r in seeds.items()} for arm, seeds in results.items()}
    if "kd" not in found:
        sys.exit("study.py: error: there is no result of kd, with which the others are compared")
    rows = []
    print("| | " + " | ".join(FIGURES.values()) + " | KL less the reference's, 95 % | agreement less the reference's, 95 % | seconds, least | seeds |\n|---|"
          + "---|" * (len(FIGURES) + 4))
    for arm, (title, _) in ARMS.items():
        if arm not in found:
            continue
        both = sorted(set(found[arm]) & set(found["kd"]))
        values = {f: sum(mean(found[arm][s], f) for s in found[arm]) / len(found[arm]) for f in FIGURES}
        text = " | ".join(f"{values[f]:.3f}" for f in FIGURES)
        differences = ["", ""]
        if arm != "kd" and both:
            of_kl, of_agreement = (difference({s: found[arm][s] for s in both}, {s: found["kd"][s] for s in both}, f) for f in ("kl", "top1_agreement"))
            differences = ["{:+.3f} ({:+.3f} to {:+.3f})".format(*d) for d in (of_kl, of_agreement)]
            rows.append((title, *of_kl))
        seconds = min(r["seconds"] for r in results[arm].values())
        print(f"| {title} | {text} | {differences[0]} | {differences[1]} | {seconds:.0f} | {len(found[arm])} |")
    total = sum(r["seconds"] for seeds in results.values() for r in seeds.values())
    print(f"\n{sum(map(len, results.values()))} runs, {total / 3600:.1f} hours")
    if "smoothed" in found:
        print(entropies(study))
    study.out.mkdir(parents=True, exist_ok=True)
    (study.out / "study.svg").write_text(plot(rows))


def plot(rows):
    """Differences of the KL from the reference's, with their intervals, on a scale of square roots."""
    left, width, height = 320, 420, 22
    most = max([abs(x) for row in rows for x in row[1:]] + [0.01])
    at = lambda x: left + width / 2 * (1 + math.copysign(math.sqrt(abs(x) / most), x))
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 90}" height="{height * (len(rows) + 2)}" '
             'font-family="sans-serif" font-size="12">',
             f'<text x="{left + width / 2}" y="14" text-anchor="middle">KL to the teacher, less that of KD (nats a token; square-root scale)</text>',
             f'<line x1="{at(0)}" y1="20" x2="{at(0)}" y2="{height * (len(rows) + 1)}" stroke="#888"/>']
    for i, (title, value, low, high) in enumerate(rows):
        y = height * (i + 1.7)
        lines += [f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{title}</text>',
                  f'<line x1="{at(low)}" y1="{y}" x2="{at(high)}" y2="{y}" stroke="#36c" stroke-width="3"/>',
                  f'<circle cx="{at(value)}" cy="{y}" r="4" fill="#36c"/>', f'<text x="{left + width + 10}" y="{y + 4}">{value:+.3f}</text>']
    return "\n".join(lines + ["</svg>\n"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=str(ROOT / "runs/study"), help="folder of texts, caches, runs and results [runs/study]")
    parser.add_argument("--limbeck", default=str(ROOT / "build/release/bin/limbeck"))
    parser.add_argument("--steps", type=int, default=104, help="of 512 tokens [104]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 3, 4], help="of which 2 would hold out a document of 576 bytes alone [1 3 4]")
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--smoothing", type=float, default=0.25,
                        help="of the smoothed labels, whose entropy is then the teacher's mean: the tables have both (teacher_entropy.py measures it) [0.25]")
    parser.add_argument("--keep", nargs="*", default=[], metavar="ARM", help="arms whose runs stay, not their figures alone")
    parser.add_argument("--tables", action="store_true", help="print the tables of what is there")
    parser.add_argument("--words", action="store_true", help="print what commands are told of their configs, a line of JSON each, and make nothing")
    args = parser.parse_args()
    study = Study(args)
    if args.words:
        for words in study.words():
            print(json.dumps([str(word) for word in words]))
        return
    if not args.tables:
        study.make_texts()
        for seed in args.seeds:
            for arm in args.only:
                study.run(arm, seed)
    tables(study)


if __name__ == "__main__":
    main()
