"""How fast Limbeck encodes against PyPI's `tokenizers` and `sentencepiece`: each on one core, in turns, medians of the rounds; then
`limbeck tokenize` on two threads against one.

    python tests/bench/tokenizer_speed.py build/release/bin TOKENIZER... [--rounds 5] [--text FILE_OR_FOLDER]

The folder holds bench_tokenizer and limbeck of a release build. TOKENIZER is a tokenizer.json, a GGUF with smollm's vocabulary or a
SentencePiece NAME.model. Documents are encoded one by one. Rates are of processor time, so that other work on the machine counts
little; two threads against one are of elapsed time and want an idle machine. `tokenizers` leaves offsets out, its fastest way.
Made with tokenizers 0.23.3, sentencepiece 0.2.3.
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden", "tokenizer_json"))
import check_tokenizers as checks  # noqa: E402  (sets one thread for `tokenizers`)
import sentencepiece  # noqa: E402


def peer(path):
    if path.endswith(".model"):
        processor = sentencepiece.SentencePieceProcessor(model_file=path)
        return "sentencepiece", lambda texts: [processor.encode(t) for t in texts]
    tokenizer = checks.oracle(None, path, None)
    return "tokenizers", lambda texts: tokenizer.encode_batch_fast(texts, add_special_tokens=False)


def elapsed(command):
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("programs")
    parser.add_argument("tokenizers", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--text", default="/usr/share/doc/anarchism/markdown")
    options = parser.parse_args()
    texts = checks.read_text(options.text)
    bench, limbeck = (os.path.join(options.programs, name) for name in ("bench_tokenizer", "limbeck"))
    with tempfile.TemporaryDirectory() as folder:
        size = sum(len(t.encode()) for t in texts)
        for path in options.tokenizers:
            name, encode = peer(path)
            ours, theirs = [], []
            for _ in range(options.rounds):
                ours.append(float(subprocess.run([bench, path, options.text, "1"], capture_output=True, text=True, check=True).stdout.split()[0]))
                start = time.process_time()
                encode(texts)
                theirs.append(size / (time.process_time() - start) / 1e6)
            a, b = statistics.median(ours), statistics.median(theirs)
            print(f"{path}: Limbeck {a:.2f} MB/s, {name} {b:.2f} MB/s: {a / b:.2f}x", flush=True)
        times = {1: [], 2: []}
        for i in range(5 * 4):  # documents enough to be shared out
            open(os.path.join(folder, f"{i}.txt"), "w").write("\n".join(texts[i % 4::4]))
        documents = [os.path.join(folder, f"{i}.txt") for i in range(5 * 4)]
        for _ in range(options.rounds):
            for threads in times:
                out = os.path.join(folder, "tokens")
                times[threads].append(elapsed([limbeck, "tokenize", *documents, "--tokenizer", options.tokenizers[0], "--out", out,
                                               "--threads", str(threads), "--quiet"]))
                for end in (".bin", ".idx"):
                    os.remove(out + end)
        one, two = (statistics.median(times[t]) for t in (1, 2))
        print(f"limbeck tokenize, {5 * size / 1e6:.0f} MB: {one:.2f} s on one thread, {two:.2f} s on two: {one / two:.2f}x")


if __name__ == "__main__":
    main()
