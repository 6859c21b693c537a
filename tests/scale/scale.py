#!/usr/bin/env python3
"""Training at scale, simulated: exchanges of experts, sums of gradients and pipelines on 8 to 1,024 ranks, beside formulas.

    ninja -C build/release scale_study && tests/scale/scale.py   # all of it: docs/scale_*.svg, and the tables
    tests/scale/scale.py --check                                 # three numbers of ranks: an error where a formula is 20 % off

Needs SimGrid (Debian: libsimgrid-dev); Python 3.9 without packages.
"""
import argparse
import json
import math
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from closed_forms import COMPARED

ROOT = Path(__file__).resolve().parents[2]
RANKS = [8, 16, 32, 64, 128, 256, 512, 1024]
CHECKED = [16, 128, 1024]
TOLERANCE = 0.2
# Of each study the title of its plot, and the names of its arms.
STUDIES = {
    "experts": ("Dispatch and combine, ms", {
        "by_expert": "a row to each expert", "by_rank": "once to each rank (FLAT)", "by_node": "once to each node (TWO_LEVEL)", "by_few_nodes": "of 4 nodes at most"}),
    "gradients": ("Gradient reduction that is left when the backward pass ends, ms", {"ring": "one ring", "levels": "two levels"}),
    "pipeline": ("A step of a pipeline, ms", {"1f1b": "1F1B", "interleaved": "interleaved, 2 chunks", "zero_bubble": "zero bubble"}),
}
COLOURS = ["#36c", "#c60", "#393", "#909"]


def simulate(args, study, arm, ranks):
    begun = time.time()
    command = [str(args.program), str(args.cluster), study, arm, str(ranks)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"scale.py: error: {' '.join(command)} ended with {done.returncode}")
    result = json.loads(done.stdout)
    formula, compared = COMPARED[study]
    result["simulated"], result["formula"] = result[compared], formula(result)
    print(f"{study:10} {arm:12} {ranks:5} ranks: {result['simulated'] * 1e3:9.3f} ms, by the formula {result['formula'] * 1e3:9.3f} ms, "
          f"{off(result):+6.1%}   ({time.time() - begun:.0f} s)", file=sys.stderr, flush=True)
    return result


def off(result):
    return result["formula"] / result["simulated"] - 1


def run_all(args, counts):
    wanted = [(study, arm, ranks) for ranks in sorted(counts, reverse=True) for study in args.only for arm in STUDIES[study][1]]
    with ThreadPoolExecutor(args.jobs) as pool:
        return list(pool.map(lambda w: simulate(args, *w), wanted))


def table(results, study):
    """In Markdown: of each number of ranks what was simulated and, in brackets, by how much the formula is off."""
    arms = STUDIES[study][1]
    digits = lambda ms: f"{ms:,.0f}" if ms >= 1000 else f"{ms:.3g}"
    lines = ["| ranks | " + " | ".join(arms.values()) + " |", "|---|" + "---|" * len(arms)]
    for ranks in RANKS:
        found = {r["arm"]: r for r in results if r["study"] == study and r["ranks"] == ranks}
        lines.append(f"| {ranks:,} | " + " | ".join(f"{digits(found[a]['simulated'] * 1e3)} ({off(found[a]):+.0%})" for a in arms) + " |")
    return "\n".join(lines)


def plot(results, study):
    """Both axes logarithmic: points were simulated, lines are the formulas."""
    title, arms = STUDIES[study]
    left, top, width, height = 60, 30, 420, 260
    values = [r[k] * 1e3 for r in results if r["study"] == study for k in ("simulated", "formula")]
    low, high = math.log(min(values)) - 0.1, math.log(max(values)) + 0.1
    x = lambda ranks: left + width * math.log2(ranks / RANKS[0]) / math.log2(RANKS[-1] / RANKS[0])
    y = lambda ms: top + height * (high - math.log(ms)) / (high - low)
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 190}" height="{top + height + 50}" font-family="sans-serif" font-size="12">',
             f'<text x="{left}" y="16">{title}: simulated (points) and by the formula (lines)</text>',
             f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#888"/>',
             f'<text x="{left + width / 2}" y="{top + height + 40}" text-anchor="middle">ranks</text>']
    for ranks in RANKS:
        lines.append(f'<text x="{x(ranks):.1f}" y="{top + height + 18}" text-anchor="middle">{ranks}</text>')
    for tick in (m * 10 ** e for e in range(-2, 5) for m in (1, 1.5, 2, 3, 5, 7)):
        if low <= math.log(tick) <= high:
            lines += [f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>',
                      f'<line x1="{left}" y1="{y(tick):.1f}" x2="{left + width}" y2="{y(tick):.1f}" stroke="#ddd"/>']
    for i, (arm, name) in enumerate(arms.items()):
        of_arm = sorted((r for r in results if r["study"] == study and r["arm"] == arm), key=lambda r: r["ranks"])
        points = " ".join(f"{x(r['ranks']):.1f},{y(r['formula'] * 1e3):.1f}" for r in of_arm)
        lines.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[i]}"/>')
        lines += [f'<circle cx="{x(r["ranks"]):.1f}" cy="{y(r["simulated"] * 1e3):.1f}" r="4" fill="{COLOURS[i]}"/>' for r in of_arm]
        lines.append(f'<text x="{left + width + 10}" y="{top + 16 + 18 * i}" fill="{COLOURS[i]}">{name}</text>')
    return "\n".join(lines + ["</svg>\n"])


def check(results):
    """Of formulas and, of pipelines, of the time by parallel::simulate, which knows no ports that messages share."""
    found = [(r, "the formula", off(r), TOLERANCE) for r in results]
    found += [(r, "parallel::simulate", r["planned"] / r["seconds"] - 1, 0.02) for r in results if "planned" in r]
    wrong = [f for f in found if not abs(f[2]) <= f[3]]
    for r, what, by, most in wrong:
        print(f"scale.py: error: {r['study']} {r['arm']} of {r['ranks']} ranks: {what} is {by:+.1%} off, expected {most:.0%} at most", file=sys.stderr)
    return 1 if wrong else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=ROOT / "build/release/bin/scale_study")
    parser.add_argument("--cluster", type=Path, default=ROOT / "examples/clusters/h100_cluster.textproto", help="of whose nodes there are as many as the ranks need")
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES), metavar="STUDY")
    parser.add_argument("--jobs", type=int, default=1, help="simulations at a time [1]")
    parser.add_argument("--check", action="store_true", help=f"{', '.join(map(str, CHECKED))} ranks alone, and no files")
    args = parser.parse_args()
    if not args.program.exists():
        print(f"scale.py: error: there is no {args.program}: ninja -C build/release scale_study", file=sys.stderr)
        return 77
    results = run_all(args, CHECKED if args.check else RANKS)
    if not args.check:
        for study in args.only:
            print(table(results, study) + "\n")
            (ROOT / f"docs/scale_{study}.svg").write_text(plot(results, study))
    return check(results)


if __name__ == "__main__":
    sys.exit(main())
