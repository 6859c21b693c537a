"""The table of a ladder (tests/gpu/first_contact.sh), in Markdown, from its lines of JSON; or that of the floors alone:

    tests/gpu/table.py results.jsonl
    { bench_gpu --floors; for m in mixture dense; do bench_gpu_step $m --floors; done; } | tests/gpu/table.py
"""

import json
import sys

BYTES_PER_S, FLOPS_PER_S = 3.35e12, 989e12  # of an H100 SXM, by its data sheet: HBM3, dense bfloat16
LEAST_OF_COPIES = 0.8
LEAST_RATIO = {"product": 0.95, "grouped": 1.0, "attention": 1.0, "head": 1.0, "mixture": 1.2}
LEAST_DENSE = 150_000  # tokens a second
MOST_OF_MEMORY, MOST_KL, MOST_SECONDS = 0.1, 0.03, 60


def cells(*values):
    return "| " + " | ".join(str(value).replace("|", "/") for value in values) + " |"


def heading(*names):
    return [cells(*names), cells(*["---"] * len(names))]


def shape(line):
    return " ".join(f"{letter} {value}" for letter, value in line["of"].items())


def key(line):
    return line["kind"], line["name"], shape(line)


def micro(seconds):
    return "" if seconds is None else f"{1e6 * seconds:,.1f}"


def floor(line):
    """Seconds that the data sheet gives at best."""
    return max(line["bytes"] / BYTES_PER_S, line["flops"] / FLOPS_PER_S)


class Results:
    """Lines of both sides; `judges`: whether its figures are of a GPU."""

    def __init__(self, lines):
        self.lines = lines
        self.peers = {key(line): line for line in lines if line.get("side") == "torch"}
        self.card = next(iter(self.of("card")), None)
        self.judges = not any(line["rehearsal"] for line in self.of("ladder"))

    def of(self, *kinds):
        """Limbeck's own."""
        return [line for line in self.lines if line["kind"] in kinds and line.get("side") != "torch"]

    def of_peer(self, line, field):
        return self.peers.get(key(line), {}).get(field)

    def share_of_card(self, line):
        """Of what the card gave in the same run: its copies, or its large product."""
        if not self.card or "seconds" not in line:
            return None
        of_memory = line["bytes"] / BYTES_PER_S > line["flops"] / FLOPS_PER_S
        rate = (line["bytes"] if of_memory else line["flops"]) / line["seconds"]
        return rate / self.card["copy_bytes_per_s" if of_memory else "product_flops_per_s"]

    def judged(self, goal, value, met):
        """A target; where `value` is not known, the goal alone."""
        return f"{goal}: {'met' if met(value) else '**missed**'}" if self.judges and value is not None else goal


def ratio_of(a, b):
    return a / b if a and b else None


def times(ratio):
    return "" if ratio is None else f"{ratio:.2f}x"


def kernel_rows(results):
    rows = heading("kernel", "shape", "bytes", "FLOPs", "floor, µs", "measured, µs", "of the card's own", "PyTorch, µs", "ratio", "target")
    for line in results.of("memory", "small", "product", "grouped", "attention", "head"):
        mine, theirs = line.get("seconds"), results.of_peer(line, "seconds")
        share, ratio = results.share_of_card(line), ratio_of(theirs, mine)
        if line["kind"] == "memory":
            target = results.judged(f"≥ {100 * LEAST_OF_COPIES:.0f} % of copies", share, lambda value: value >= LEAST_OF_COPIES)
        elif line["kind"] == "small":
            target = ""
        else:
            least = LEAST_RATIO[line["kind"]]
            target = results.judged(f"≥ {least}x PyTorch", ratio, lambda value: value >= least)
        rows.append(cells(
            line["name"], shape(line), f"{line['bytes_formula']} = {line['bytes'] / 1e9:.4g} GB",
            f"{line['flops_formula']} = {line['flops'] / 1e12:.4g} T" if line["flops"] else "", micro(floor(line)),
            line.get("error") or micro(mine), "" if share is None else f"{100 * share:.0f} %",
            f"{micro(theirs)} ({results.of_peer(line, 'way')})" if theirs else results.of_peer(line, "error") or "",
            times(ratio), target))
        if line["kind"] == "head":
            rows.append(memory_row(results, line))
    return rows if len(rows) > 2 else []


def memory_row(results, line):
    mine, theirs = line.get("working_bytes"), results.of_peer(line, "working_bytes")
    share = ratio_of(mine, theirs)
    mebibytes = ["" if not value else f"{value / 2**20:,.0f} MiB" for value in (mine, theirs)]
    return cells("what it works in, beside factors and gradients", "", "", "", "", mebibytes[0], "", mebibytes[1],
                 "" if share is None else f"{share:.3f}",
                 results.judged(f"≤ {MOST_OF_MEMORY} of PyTorch's", share, lambda value: value <= MOST_OF_MEMORY))


def step_rows(results):
    rows = heading("step of", "shape", "FLOPs", "floor, ms", "measured, ms", "tokens/s", "peak, GiB", "recorded, ms", "PyTorch, ms",
                   "tokens/s", "peak, GiB", "ratio", "target")

    def figures(line):
        if "seconds" not in line:
            return line.get("error", ""), "", ""
        return f"{1e3 * line['seconds']:.1f}", f"{line['tokens_per_s']:,.0f}", f"{line['peak_bytes'] / 2**30:.1f}"

    for line in results.of("step"):
        peer = results.peers.get(key(line), {})
        ratio, rate = ratio_of(peer.get("seconds"), line.get("seconds")), line.get("tokens_per_s")
        if line["name"] == "mixture":
            target = results.judged(f"≥ {LEAST_RATIO['mixture']}x PyTorch", ratio, lambda value: value >= LEAST_RATIO["mixture"])
        else:
            target = results.judged(f"≥ {LEAST_DENSE:,} tokens/s", rate, lambda value: value >= LEAST_DENSE)
        seconds = line["flops"] / FLOPS_PER_S + line["bytes"] / BYTES_PER_S  # products, then the optimizer
        recorded = f"{1e3 * line['recorded_seconds']:.1f}" if "recorded_seconds" in line else ""
        rows.append(cells(f"{line['name']}, {line['parameters'] / 1e6:.0f}M parameters", shape(line), f"{line['flops'] / 1e12:.4g} T",
                          f"{1e3 * seconds:.1f}", *figures(line), recorded, *figures(peer), times(ratio), target))
    return rows if len(rows) > 2 else []


def check_rows(results):
    found = [cells(line["name"], line["result"], line["seconds"]) for line in results.of("check")]
    return heading("step", "what came of it", "s") + found if found else []


def job_rows(results):
    by_side = {line["side"]: line for line in results.of("job")}
    cpu = by_side.get("CPU")
    rows = heading("job", "on", "KL before", "KL after", "agreement", "tokens", "seconds of training", "target")
    for side, line in by_side.items():
        target = ""
        if side == "CUDA":
            difference = abs(line["kl"] - cpu["kl"]) if cpu else None
            target = results.judged(f"the CPU's KL ± {MOST_KL}", difference, lambda value: value <= MOST_KL)
            target += "; " + results.judged(f"≤ {MOST_SECONDS} s", line["seconds"], lambda value: value <= MOST_SECONDS)
        rows.append(cells(line["name"], side, f"{line['kl_before']:.4f}", f"{line['kl']:.4f}", f"{line['agreement']:.3f}",
                          line["tokens"], f"{line['seconds']:.1f}", target))
    return rows if by_side else []


def first_lines(results):
    for line in results.of("ladder"):
        if line["rehearsal"]:
            yield "**REHEARSAL: on the emulation and the CPU, at tiny sizes. No figure here says anything of a GPU.**\n"
        card = results.card
        of_card = "no card was measured" if card is None else (
            f"{card['name']}: copies {card['copy_bytes_per_s'] / 1e9:,.0f} GB/s, products {card['product_flops_per_s'] / 1e12:,.0f} TFLOP/s")
        versions = ", ".join(sorted({peer["version"] for peer in results.peers.values()}))
        yield f"{line['date']}, commit {line['commit']}, {of_card}; {line['processors']} processors; PyTorch {versions or 'not there'}\n"


def main():
    with open(sys.argv[1]) if len(sys.argv) > 1 else sys.stdin as file:
        results = Results([json.loads(text) for text in file if text.strip()])
    for text in first_lines(results):
        print(text)
    for rows in (check_rows(results), kernel_rows(results), step_rows(results), job_rows(results)):
        if rows:
            print("\n".join(rows) + "\n")
    for line in results.of("end"):
        print(f"All of it took {line['seconds']} s.")


main()
