#!/usr/bin/env python3
"""A real browser follows a run that goes on: `limbeck watch`, and Chromium driven by WebDriver (W3C).

    tests/watch_browser.py build/release [SCREENSHOT.png]

Skipped (77) where there is no chromium with its driver (Debian: chromium-driver). Python 3.9 without packages.
"""
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

CONFIG = """
model { width: 32 num_layers: 2 num_heads: 4 mlp_width: 48 max_positions: 64
        moe { num_experts: 4 experts_per_token: 2 expert_width: 24 } }
data { text: "text" tokenizer: "bytes" sequence_length: 48 held_out_fraction: 0.2 }
batch { sequences_per_step: 4 }
train { steps: 100000 checkpoint_every_steps: 0 eval_every_steps: 20 eval_tokens: 384 threads: 1 }
"""


def ask(method, url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["value"]


def wait_for(what, found, seconds=60):
    end = time.time() + seconds
    while time.time() < end:
        value = found()
        if value:
            return value
        time.sleep(0.2)
    sys.exit(f"watch_browser: {what} did not come within {seconds} s")


def check(is_so, what):
    if not is_so:
        sys.exit(f"watch_browser: {what}")
    print(f"{what}: yes")


def main():
    build = Path(sys.argv[1]).resolve()
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if not driver or not chromium:
        print("watch_browser: skipped: there is no chromium with chromedriver")
        sys.exit(77)
    started = []

    def start(command, **more):
        started.append(subprocess.Popen(command, **more))
        return started[-1]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            browse(folder, build, driver, chromium, start)
        finally:
            for process in reversed(started):
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()


def browse(folder, build, driver, chromium, start):
    (folder / "text").write_text("".join(f"The still drips {i % 7} times, and what was large becomes small.\n" for i in range(3000)))
    (folder / "job.textproto").write_text(CONFIG)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    limbeck = build / "bin/limbeck"
    start([limbeck, "train", "job.textproto", "--quiet", "--out", "run"], cwd=folder, env=environment)
    metrics = folder / "run/metrics.jsonl"
    wait_for("a step", lambda: metrics.exists() and metrics.read_text().count("\n") > 5)
    watch = start([limbeck, "watch", "run", "--port", "0"], cwd=folder, stdout=subprocess.PIPE, text=True)
    address = watch.stdout.readline().split()[0]
    port = 9515 + os.getpid() % 1000
    start([driver, f"--port={port}", "--silent"], stdout=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}"

    def is_up():
        try:
            return ask("GET", f"{base}/status")["ready"]
        except OSError:
            return False

    wait_for("the driver", is_up)
    wanted = {"browserName": "chrome", "goog:loggingPrefs": {"browser": "ALL"},
              "goog:chromeOptions": {"binary": chromium, "args": ["--headless=new", "--no-sandbox", "--disable-gpu",
                                                                  "--disable-dev-shm-usage", "--window-size=1280,1600"]}}
    session = f"{base}/session/" + ask("POST", f"{base}/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def run(script):
        return ask("POST", f"{session}/execute/sync", {"script": script, "args": []})

    try:
        ask("POST", f"{session}/url", {"url": address})
        wait_for("the server's word", lambda: run("return document.getElementById('link').textContent") == "follows the run")
        check(run("return document.querySelectorAll('figure.plot svg polyline').length") > 3, "curves are drawn")
        check(run("return document.getElementById('ranks').tBodies[0].rows.length") == 1, "the table has its rank")
        # What the reader has chosen.
        run("""window.same = true;
               const over = document.querySelector('#controls select'); over.value = 'tokens';
               over.dispatchEvent(new Event('change'));
               document.querySelector('details').open = true; window.scrollTo(0, 300);""")
        steps = "return Number([...document.querySelectorAll('.card')].find(c => c.textContent.startsWith('Steps')).querySelector('dd').textContent.replace(/,/g, ''))"
        before = run(steps)
        wait_for("more steps on the page", lambda: run(steps) > before)
        again = run(steps)
        wait_for("still more", lambda: run(steps) > again)
        check(run("return window.same === true"), "without loading the page anew")
        check(run("return document.querySelector('#controls select').value") == "tokens", "the axis stays")
        check(run("return document.querySelector('figure.plot svg text.name').textContent") == "tokens", "and is drawn")
        check(run("return document.querySelector('details').open"), "what was opened stays open")
        check(run("return document.querySelectorAll('#controls').length") == 1, "the controls are there once")
        check(run("return window.scrollY") > 0, "the page stays where it was")
        wrong = [line for line in ask("POST", f"{session}/se/log", {"type": "browser"})
                 if line["level"] == "SEVERE" and "favicon" not in line["message"]]
        check(not wrong, f"nothing in the browser's log {wrong or ''}".strip())
        if len(sys.argv) > 2:
            Path(sys.argv[2]).write_bytes(base64.b64decode(ask("GET", f"{session}/screenshot")))
        watch.send_signal(signal.SIGINT)
        wait_for("the page to notice", lambda: "not connected" in run("return document.getElementById('link').textContent"))
        check(watch.wait(20) == 0, "Ctrl-C ends it")
    finally:
        ask("DELETE", session)


if __name__ == "__main__":
    main()
