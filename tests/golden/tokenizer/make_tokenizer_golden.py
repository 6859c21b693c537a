"""Token ids of hard strings, from Hugging Face's `tokenizers`, and Python's own repair of invalid UTF-8.

    python make_tokenizer_golden.py SmolLM2-135M-Instruct.Q4_1.gguf

Writes beside itself strings.jsonl.gz, one object a line: "text" (hexadecimal bytes of UTF-8), "ids" (special tokens in the text
are text), "special_ids" (they are tokens; left out where the same), "bytes" (hexadecimal, what the ids decode to; left out where
it is the text). words.jsonl.gz: "pre", "text", "words" (hexadecimal), the cuts of every kind of pretokenizer.
repair.jsonl.gz: "bytes" and "repaired", both hexadecimal, and "replaced", the number of U+FFFD put in.
Made with Python 3.11, gguf 0.19.0, tokenizers 0.23.3.
"""
import codecs
import gzip
import json
import os
import random
import sys

import gguf
from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

HERE = os.path.dirname(os.path.abspath(__file__))
GPT2 = ByteLevel(add_prefix_space=False)
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def pretokenizers():
    def split(pattern):
        return Sequence([Split(Regex(pattern), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)])
    return {"smollm": Sequence([Digits(individual_digits=True), GPT2]), "gpt-2": GPT2,
            "llama-bpe": split(LLAMA3), "qwen2": split(QWEN2)}


def oracle(path):
    reader = gguf.GGUFReader(path)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(m.split(" ")) for m in reader.fields["tokenizer.ggml.merges"].contents()]
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    result = []
    for with_special in (False, True):
        tokenizer = Tokenizer(BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
        tokenizer.pre_tokenizer = pretokenizers()["smollm"]
        tokenizer.decoder = ByteLevelDecoder()
        if with_special:
            tokenizer.add_special_tokens(
                [AddedToken(t, special=True, normalized=False) for t, kind in zip(tokens, types) if kind == 3])
        result.append(tokenizer)
    return result[0], result[1], tokens


def random_character(r):
    while True:
        c = r.choice([r.randrange(0x80), r.randrange(0x800), r.randrange(0x10000), r.randrange(0x110000)])
        if not 0xD800 <= c < 0xE000:
            return chr(c)


SPACES = ["\t", "\n", "\v", "\f", "\r", " ", "\x1c", "\x1f", "\x85", "\xa0", "\u1680", "\u180e", "\u2000", "\u2003", "\u200a",
          "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u2060", "\u3000", "\ufeff", "\r\n", "\n\n", "  "]
DIGITS = ["0", "7", "1999", "\u0663", "\u0967", "\u09e9", "\u0e53", "\uff15", "\u00b2", "\u00bd", "\u2167", "\u3007", "\u2460",
          "\U0001d7d9", "\U00010107", "\u4e09", "\u0be7\u0be8", "3.14", "1,000", "0x7f", "1e-5"]
EMOJI = ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "1️⃣", "❤️", "🧑🏿‍🚀", "☺", "©️", "🫠", "\u200d", "\ufe0f"]
SCRIPTS = ["漢字かな交じり文", "中文分词", "한국어", "العَرَبِيَّة", "עִבְרִית", "हिन्दी", "ไทย", "தமிழ்", "Ελληνικά", "кириллица", "ქართული",
           "አማርኛ", "Tiếng Việt", "e\u0301a\u0308", "ﬁ ﬂ ŒÆ", "ǅ ʰ ª º", "Straße İstanbul ı", "ſ 's 'S 'ſ", "\u0345\u0300", "𝔘𝔫𝔦", "𐍈𐎠", "ꙮ"]
CODE = ["def f(x):\n    return x**2  # square\n", "for (int i=0;i<n;++i){a[i]+=b[i];}", "<div class=\"a\">&nbsp;</div>", "\t\tif x:\n\t\t\tpass\n",
        "SELECT * FROM t WHERE a='b';", "https://example.org/?q=a%20b&c=1#frag", "C:\\temp\\new.txt", "a->b::c<d>()", "{\"k\": [1, 2.5e-3, null]}",
        "# Heading\n\n* item\n* [link](url)\n\n```\ncode\n```\n", "$x^2 + \\frac{1}{2}$", "user@host:~$ ls -la | grep 'x'", "----====____****"]
ENGLISH = ["The state is", "don't I'll we've they're it's he'd I'm", "DON'T I'LL IT'S", "'s't're've'm'll'd", "'''s", "rock 'n' roll", "x's y'S",
           "antidisestablishmentarianism", "Hello, world!", "a", "A b  c   d    e", " leading", "trailing ", "...!?", "naïve café", "e.g. i.e. etc."]


def strings(tokens):
    r = random.Random(20240607)
    special = tokens[:17]
    result = ["", " ", "  ", "\n", "\0", "a\0b", "\n\n1", " 1", "  12", "x1y2", "\u180e", "a\u180eb", " \u180e ", "\u180e\u180e1", "\n\u180e\n"]
    result += SPACES + DIGITS + EMOJI + SCRIPTS + CODE + ENGLISH + special
    result += [chr(c) for c in range(128)] + [f"a{chr(c)}b" for c in range(32)] + ["\x04\x06\x13\x14\x16\x1d" * 3, "he\x04llo wor\x06ld"]
    result += [chr(c) for c in (0x1c89, 0xa7cb, 0x10d40, 0x11de0, 0x11f50, 0x1ccf0, 0x2ebf0, 0x31350, 0x323af, 0x340, 0x7ff, 0xd7ff, 0xe000, 0xfffd, 0xffff, 0x10000, 0x40000, 0x7ffff, 0xfffff, 0x10ffff)]
    result += ["<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_end|><|im_end|>", "<|im_end", "<<|im_end|>>", " <|im_end|> ",
               "<|endoftext|>1", "\n\n<|endoftext|>", "<reponame><repo_name>", "<|IM_END|>", "|im_end|>", "<file_sep>\n\nx"]
    result += ["a" * 1000, "ab" * 500, "the" * 400, " " * 500, "\n" * 300, " \n" * 200, "7" * 100, "😀" * 60, "漢" * 200, "'" * 99, "=" * 257,
               "".join(r.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(2000)), "x" * 255 + " " + "x" * 256 + " " + "x" * 257]
    pools = [SPACES, DIGITS, EMOJI, SCRIPTS, CODE, ENGLISH, special, list("aZ09 '\n._-<|>")]
    while len(result) < 850:
        result.append("".join(r.choice(r.choice(pools)) for _ in range(r.randrange(1, 9))))
    while len(result) < 1000:
        result.append("".join(random_character(r) for _ in range(r.randrange(1, 30))))
    while len(result) < 1050:
        ids = [r.randrange(len(tokens)) for _ in range(r.randrange(1, 12))]
        result.append("".join(tokens[i] for i in ids).replace("Ġ", " ").replace("Ċ", "\n"))
    return result


def hexa(text):
    return text.encode("utf-8").hex()


def write(name, objects):
    with open(os.path.join(HERE, name), "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=9, mtime=0, filename="") as file:
        for o in objects:
            file.write((json.dumps(o, separators=(",", ":")) + "\n").encode())


ALPHABET = {}  # GPT-2's: character -> byte
_extra = 256
for _b in range(256):
    if 33 <= _b <= 126 or 161 <= _b <= 172 or _b >= 174:
        ALPHABET[chr(_b)] = _b
    else:
        ALPHABET[chr(_extra)] = _b
        _extra += 1


def bytes_of(tokens, ids):
    return b"".join(bytes(ALPHABET[c] for c in tokens[i]) for i in ids)


def invalid_bytes():
    r = random.Random(4)
    fixed = ["", "80", "c3", "c328", "c0af", "c1bf", "e28228", "e282", "e2", "eda080", "edbfbf", "eda080edb080", "f0808080", "f08fbfbf", "f09f98", "f09f",
             "f0", "f09f9841", "f4908080", "f48fbfbf", "f5808080", "ff", "fe", "fffefdfc", "e08080", "e09fbf", "e0a080", "61c362", "efbbbf61", "efbfbd",
             "e4b8ade6", "f0288cbc", "f0902880", "f8a1a1a1a1", "61f09f988062e2824163", "80818283", "c3a9c3", "edafbf41", "f09f98f09f9880"]
    for text in fixed:
        yield bytes.fromhex(text)
    pieces = [b"a", b" ", b"1", "é".encode(), "漢".encode(), "😀".encode(), b"\x80", b"\xbf", b"\xc2", b"\xe0", b"\xe2\x82", b"\xed", b"\xed\xa0", b"\xf0\x9f",
              b"\xf0\x9f\x98", b"\xf4", b"\xf4\x90", b"\xf8", b"\xff", b"\xc0"]
    for _ in range(300):
        yield b"".join(r.choice(pieces) for _ in range(r.randrange(1, 20)))
    for _ in range(100):
        yield bytes(r.randrange(256) for _ in range(r.randrange(1, 40)))
    for _ in range(100):
        text = "".join(random_character(r) for _ in range(12)).encode()
        cut = r.randrange(len(text))
        yield text[:cut] + bytes([r.randrange(256)]) * r.randrange(2) + text[cut + 1:]


def main():
    plain, special, tokens = oracle(sys.argv[1])
    lines = []
    texts = strings(tokens)
    for text in texts:
        ids = plain.encode(text, add_special_tokens=False).ids
        special_ids = special.encode(text, add_special_tokens=False).ids
        line = {"text": hexa(text), "ids": ids}
        if special_ids != ids:
            line["special_ids"] = special_ids
        decoded = bytes_of(tokens, ids).hex()
        if decoded != line["text"]:
            line["bytes"] = decoded
        lines.append(line)
    write("strings.jsonl.gz", lines)

    lines = []
    for name, rules in pretokenizers().items():
        for text in texts[::3]:
            words = ["".join(f"{ALPHABET[c]:02x}" for c in word) for word, _ in rules.pre_tokenize_str(text)]
            lines.append({"pre": name, "text": hexa(text), "words": words})
    write("words.jsonl.gz", lines)

    count = 0
    def counted(error):
        nonlocal count
        count += 1
        return codecs.replace_errors(error)
    codecs.register_error("counted", counted)
    lines = []
    for data in invalid_bytes():
        count = 0
        assert data.decode("utf-8", errors="counted") == data.decode("utf-8", errors="replace")
        lines.append({"bytes": data.hex(), "repaired": hexa(data.decode("utf-8", errors="replace")), "replaced": count})
    write("repair.jsonl.gz", lines)


if __name__ == "__main__":
    main()
