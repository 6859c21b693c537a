"""Small tokenizer.json files of every family and the ids of hard strings, from PyPI's `tokenizers`.

    python make_tokenizer_json.py

Writes beside itself families.jsonl.gz. Its first line holds "texts" (hexadecimal). Then a line a family: "family",
"tokenizer_json" (the file's text), "ids" of each text with special tokens taken as such, "plain" (by index, where other: ids with
special tokens taken as text), "decoded" (by index, hexadecimal, where it is not the text), "start" (id put in front, if any).
seeds.jsonl.gz: a tiny file of each family a line, for fuzzing to start from.
pieces.jsonl.gz: the same of BPE that was made of SentencePiece models, for 200 strings.
byte_fallback.jsonl.gz: the same as families.jsonl.gz of BPE with byte fallback, for 100 strings.
And training.json.gz: "text", and for each pre-tokenizer the "tokens" and "merges" that BpeTrainer makes of it.
Made with Python 3.11, tokenizers 0.23.3.
"""
import gzip
import json
import os
import random

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import families

HERE = os.path.dirname(os.path.abspath(__file__))


def write(name, objects):
    with open(os.path.join(HERE, name), "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=9, mtime=0, filename="") as file:
        for o in objects:
            file.write((json.dumps(o, separators=(",", ":"), ensure_ascii=False) + "\n").encode())


def encode_both(tokenizer, text):
    tokenizer.encode_special_tokens = False
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    tokenizer.encode_special_tokens = True
    plain = tokenizer.encode(text, add_special_tokens=False).ids
    tokenizer.encode_special_tokens = False
    return ids, plain


def with_ids(named, texts):
    lines = [{"texts": [families.hard.hexa(t) for t in texts]}]
    for family, tokenizer in named:
        line = {"family": family, "tokenizer_json": tokenizer.to_str(), "ids": [], "plain": {}, "decoded": {}}
        for i, text in enumerate(texts):
            ids, plain = encode_both(tokenizer, text)
            line["ids"].append(ids)
            if plain != ids:
                line["plain"][i] = plain
            decoded = tokenizer.decode(ids, skip_special_tokens=False)
            if decoded != text:
                line["decoded"][i] = families.hard.hexa(decoded)
        start = tokenizer.encode("", add_special_tokens=True).ids
        if start:
            line["start"] = start[0]
        lines.append(line)
    return lines


def main():
    r = random.Random(20250611)
    pieces = families.strings(r, 900, ["<|endoftext|>"])
    texts = families.strings(r, 200, ["<|endoftext|>", "<|im_end|>", "<｜User｜>", "<|eot_id|>", "<s>"])
    write("families.jsonl.gz", with_ids([(f, families.trained(f, pieces, 480)) for f in families.FAMILIES], texts))
    q = random.Random(20261126)
    fallback = [(f, families.trained_fallback(f, pieces, 440)) for f in families.FALLBACK]
    hard = [" leading", "  two", " <s>", "<s>a", "a <s> b", "<s> a", "▁", "▁a", "a▁ b", "<0x41>", "\u2581\u2581 x", "tab\there"]
    write("byte_fallback.jsonl.gz", with_ids(fallback, hard + families.strings(q, 88, ["<|im_end|>", "<s>", "</s>", "<unk>", "▁", "<0x0A>"])))

    names = ["<s>", "</s>", "<|end|>", "<|user|>", "<end_of_turn>", "\n\n", "▁▁"]
    pieces_texts = hard + families.strings(random.Random(13), 188, names, " ".join(families.hard.ENGLISH))
    write("pieces.jsonl.gz", with_ids([(f, families.trained_pieces(f, pieces, 440)) for f in families.PIECES], pieces_texts))

    write("seeds.jsonl.gz", [json.loads(families.trained(f, pieces, 48, alphabet=24).to_str()) for f in families.FAMILIES])

    text = "\n".join(pieces)
    line = {"text": families.hard.hexa(text)}
    for name in ("gpt2", "llama3"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = families.FAMILIES[name][1]
        tokenizer.train_from_iterator([text], trainers.BpeTrainer(
            vocab_size=700, min_frequency=2, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<|endoftext|>", "<|im_end|>"]))
        model = json.loads(tokenizer.to_str())["model"]
        line[name] = {"tokens": sorted(model["vocab"], key=model["vocab"].get), "merges": [" ".join(m) for m in model["merges"]]}
    write("training.json.gz", [line])


if __name__ == "__main__":
    main()
