#!/usr/bin/env python3
"""Hours of small steps, with a watcher and those who follow it: memory stays flat, and no descriptor is left open.

    tests/soak.py build/release                       # two hours
    tests/soak.py build/release --minutes 5 --ranks 2 --followers 50 [--table FILE.csv]

Trains examples/tiny_moe.textproto without an end. Each follower reads the events of `limbeck watch`, fetches the page when one says that
it is new, and comes again at random instants. Memory is the resident set of each rank, and of the watcher; what stands in files that are
mapped is left out. Flat is: from the first tenth of the time (behind 200 steps and four checkpoints) to the last, the median grows by less than 1 %.
Python 3.9 without packages.
"""
import argparse
import asyncio
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 300  # seconds for an answer, of a watcher that may get no processor for a while


def figures_of(pid):
    """Anonymous memory in KiB, descriptors, threads."""
    status = Path(f"/proc/{pid}/status").read_text()
    field = lambda name: int(re.search(rf"^{name}:\s+(\d+)", status, re.M).group(1))
    return field("RssAnon") + field("RssShmem"), len(os.listdir(f"/proc/{pid}/fd")), field("Threads")


async def in_time(awaited, path):
    try:
        return await asyncio.wait_for(awaited, PATIENCE)
    except asyncio.TimeoutError:
        raise ConnectionError(f"{path}: nothing in {PATIENCE} s") from None


async def request(port, path):
    # In one go: who has connected has half a minute to ask, and where others have the processors this loop may stand still for longer.
    asking = socket.create_connection(("127.0.0.1", port))
    asking.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
    reader, writer = await asyncio.open_connection(sock=asking, limit=1 << 24)
    if b" 200 " not in (answer := await in_time(reader.readline(), path)):
        writer.close()
        raise ConnectionError(f"{path}: {answer.decode('utf-8', 'replace').strip() or 'no answer'}")
    return reader, writer


async def follow(port, seed, counts):
    rng = random.Random(seed)
    while True:
        try:
            reader, writer = await request(port, "/events")
            end = time.monotonic() + rng.uniform(5, 120)
            while (left := end - time.monotonic()) > 0:
                line = await asyncio.wait_for(reader.readline(), left)
                if not line:
                    raise ConnectionError(f"the watcher ended the events {left:.0f} s too early")
                counts["events"] += line.startswith(b"event:")
                if line.startswith(b"event: page") and rng.random() < 0.2:
                    page, page_writer = await request(port, "/page")
                    text = await in_time(page.read(), "/page")
                    page_writer.close()
                    if not text.endswith(b"</html>\n"):
                        raise ConnectionError(f"/page: cut after {len(text)} bytes")
                    counts["pages"] += 1
        except asyncio.TimeoutError:
            pass
        except (ConnectionError, OSError) as error:
            counts["refused"] += 1
            counts["last"] = str(error)
            await asyncio.sleep(1)
        finally:
            if "writer" in locals():
                writer.close()


async def soak(args, ranks, watcher, port, metrics):
    counts = {"events": 0, "pages": 0, "refused": 0, "last": ""}
    followers = [asyncio.create_task(follow(port, n, counts)) for n in range(args.followers)]
    names = {pid: f"rank {n}" for n, pid in enumerate(ranks)} | {watcher: "watch"}
    rows = []
    begun, end = time.monotonic(), time.monotonic() + 60 * args.minutes
    table = open(args.table, "w") if args.table else None
    print("seconds,process,KiB,descriptors,threads", file=table)
    while time.monotonic() < end:
        await asyncio.sleep(min(args.minutes, 10))
        now = round(time.monotonic() - begun)
        for pid, name in names.items():
            rows.append((now, name, *figures_of(pid)))
            print(*rows[-1], sep=",", file=table, flush=True)
    for task in followers:
        task.cancel()
    print(f"{sum(1 for _ in open(metrics))} steps, {metrics.stat().st_size >> 20} MiB of metrics; {counts['events']} events, {counts['pages']} pages, "
          f"{counts['refused']} connections refused or lost {counts['last']}")
    failed = []
    for name in names.values():
        of = [row for row in rows if row[1] == name]
        first, last = of[len(of) // 10: len(of) // 5 + 1], of[-(len(of) // 10) - 1:]
        columns = [[statistics.median(row[c] for row in part) for part in (first, last)] for c in (2, 3, 4)]
        growth = columns[0][1] / columns[0][0] - 1
        print(f"{name}: {columns[0][0] / 1024:.1f} -> {columns[0][1] / 1024:.1f} MiB ({100 * growth:+.2f} %), "
              f"descriptors {columns[1][0]:.0f} -> {columns[1][1]:.0f}, threads {columns[2][0]:.0f} -> {columns[2][1]:.0f}")
        # Followers come and go: their sockets are open for an instant more or less.
        slack = args.followers // 5 if name == "watch" else 0
        if growth > 0.01 or columns[1][1] > columns[1][0] + slack or columns[2][1] > columns[2][0] + slack:
            failed.append(name)
    if counts["refused"]:
        failed.append("followers")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--followers", type=int, default=50)
    parser.add_argument("--table", help="every sample, as CSV")
    args = parser.parse_args()
    limbeck = args.build.resolve() / "bin/limbeck"
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as name:
        run, started = Path(name) / "run", []
        try:
            with open(Path(name) / "log", "w") as log:
                started.append(subprocess.Popen(
                    ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(args.ranks), limbeck, "train", ROOT / "examples/tiny_moe.textproto",
                     "--out", run, "--set", "train.steps=1000000000", "--set", "train.checkpoint_every_steps=50", "--set", "train.keep_checkpoints=2",
                     "--set", f"data.cache_dir={name}/tokens", "--quiet"], env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
            metrics = run / "metrics.jsonl"
            while not metrics.exists() or sum(1 for _ in open(metrics)) < 200:
                if started[0].poll() is not None:
                    sys.exit(f"soak: the run ended: {(Path(name) / 'log').read_text()}")
                time.sleep(0.5)
            ranks = [int(pid) for pid in subprocess.run(["pgrep", "-P", str(started[0].pid), "-f", "limbeck train"], capture_output=True, text=True).stdout.split()]
            started.append(subprocess.Popen([limbeck, "watch", run, "--port", "0"], stdout=subprocess.PIPE, text=True))
            port = int(re.search(r":(\d+)/", started[1].stdout.readline()).group(1))
            failed = asyncio.run(soak(args, ranks, started[1].pid, port, metrics))
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGTERM)
            for process in started:
                process.wait(60)
    if failed:
        sys.exit(f"soak: not flat: {', '.join(failed)}")
    print("flat")


if __name__ == "__main__":
    main()
