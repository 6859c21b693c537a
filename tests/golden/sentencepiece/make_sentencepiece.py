"""Small SentencePiece models and what PyPI's `sentencepiece` and llama.cpp make of hard strings with them.

    python make_sentencepiece.py        # needs the Debian package anarchism (its text is trained on)

Writes beside itself
  bpe.model      Llama-2's and Mistral's recipe: BPE, byte fallback, single digits, spaces kept, no normalization; [INST] and
                 [/INST] are user-defined, <|tool|> is a control symbol
  unigram.model  unigram with a table of replacements, without bytes, superfluous spaces removed; <sep> is user-defined
  bpe.gguf       bpe.model's vocabulary as convert_hf_to_gguf.py of llama.cpp writes it, without tensors
  strings.jsonl.gz   one object a line: "text" (hexadecimal UTF-8), for each model "ids" and "decoded" (hexadecimal; left out where
                 it is the text), and "gguf", "gguf_special": llama.cpp's ids, without and with special tokens parsed
Made with Python 3.11, sentencepiece 0.2.3, gguf 0.19.0, llama_cpp 0.3.36.
"""
import glob
import gzip
import json
import os
import random
import sys
import tempfile

import gguf
import llama_cpp
import sentencepiece

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "tokenizer"))
from make_tokenizer_golden import CODE, DIGITS, EMOJI, ENGLISH, SCRIPTS, SPACES, random_character  # noqa: E402

SYMBOLS = ["<s>", "</s>", "<unk>", "[INST]", "[/INST]", "<|tool|>", "<sep>", "<0x0A>", "\u2581", " \u2047 "]
# Replacements as of half-width forms, a ligature, controls, and one that gives a space.
RULES = [("\uff21", "A"), ("\uff11", "1"), ("\ufb01", "fi"), ("\u3000", " "), ("\t", " "), ("\n", " "), ("\u00a0", " "),
         ("e\u0301", "\u00e9"), ("\u00a8", " \u0308"), ("\u200b", ""), ("\u33c2", "a.m.")]


def corpus(path, num_bytes=600_000):
    with open(path, "w", encoding="utf-8") as out:
        for name in sorted(glob.glob("/usr/share/doc/anarchism/markdown/*.md*")):
            data = gzip.open(name).read() if name.endswith(".gz") else open(name, "rb").read()
            out.write(data.decode("utf-8", errors="replace")[:8000])
            if out.tell() > num_bytes:
                break
        for piece in (SCRIPTS + CODE + EMOJI) * 2:
            out.write("\n" + piece)


def train(text, prefix, **options):
    sentencepiece.SentencePieceTrainer.train(input=text, model_prefix=prefix, num_threads=1, minloglevel=2, **options)


LLAMA = dict(model_type="bpe", byte_fallback=True, split_digits=True, normalization_rule_name="identity", add_dummy_prefix=True,
             remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, character_coverage=0.99995)


def write_gguf(processor, path, added=(), **keys):
    """`added`: (text, is special) of tokens behind the pieces."""
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(1); w.add_context_length(64); w.add_embedding_length(8); w.add_feed_forward_length(8)
    w.add_head_count(1); w.add_layer_norm_rms_eps(1e-5)
    w.add_tokenizer_model("llama"); w.add_tokenizer_pre("default")
    n = processor.get_piece_size()
    kinds = [6 if processor.is_byte(i) else 2 if processor.is_unknown(i) else 3 if processor.is_control(i) else 5 if processor.is_unused(i) else 1
             for i in range(n)]
    for text in ("[INST]", "[/INST]"):  # is_user_defined is not in the Python API
        if processor.id_to_piece(processor.piece_to_id(text)) == text:
            kinds[processor.piece_to_id(text)] = 4
    w.add_token_list([processor.id_to_piece(i).encode() for i in range(n)] + [t.encode() for t, _ in added])
    w.add_token_scores([processor.get_score(i) for i in range(n)] + [-1000.0] * len(added))
    w.add_token_types(kinds + [3 if special else 4 for _, special in added])
    w.add_bos_token_id(processor.bos_id()); w.add_eos_token_id(processor.eos_id()); w.add_unk_token_id(processor.unk_id())
    for name, value in keys.items():
        w.add_bool("tokenizer.ggml." + name, value)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


class LlamaCpp:
    def __init__(self, path):
        self.model = llama_cpp.Llama(path, vocab_only=True, verbose=False)

    def ids(self, text, special=False):
        return self.model.tokenize(text.encode(), add_bos=False, special=special)


def strings(count, pieces, symbols=SYMBOLS, seed=20240611):
    r = random.Random(seed)
    result = ["", " ", "  ", "   a", "a   ", " a  b ", "\n", "\n\n", "\t", "a\0b", "\0", "\u2581", "\u2581a \u2581", "a\u2581\u2581b", "\r\n x"]
    result += SPACES + DIGITS + EMOJI + SCRIPTS + CODE + ENGLISH + list(symbols)
    for s in symbols:
        result += [f"a{s}b", f"a {s} b", f"{s}{s}", f" {s}\n"]
    result += [chr(c) for c in range(128)] + ["a" * 300, "ab" * 200, " " * 100, "\n" * 70, "7" * 50, "\u6f22" * 60, "\U0001f600" * 20, "=" * 99]
    result += [a for a, _ in RULES] + ["x" + a + "y" for a, _ in RULES] + ["\u00e9 e\u0301 \uff21\uff11\u3000\uff21"]
    pools = [SPACES, DIGITS, EMOJI, SCRIPTS, CODE, ENGLISH, list(symbols), list("aZ09 '\n._-<|>[]/")]
    while len(result) < count * 6 // 10:
        result.append("".join(r.choice(r.choice(pools)) for _ in range(r.randrange(1, 9))))
    while len(result) < count * 8 // 10:
        result.append("".join(random_character(r) for _ in range(r.randrange(1, 24))))
    while len(result) < count:
        result.append("".join(r.choice(pieces) for _ in range(r.randrange(1, 14))).replace("\u2581", " "))
    return result


def pieces_of(processor):
    return [processor.id_to_piece(i) for i in range(processor.get_piece_size()) if not processor.is_byte(i) and not processor.is_control(i)]


def hexa(text):
    return text.encode("utf-8").hex()


def main():
    with tempfile.TemporaryDirectory() as folder:
        text, rules = os.path.join(folder, "text"), os.path.join(folder, "rules.tsv")
        corpus(text)
        with open(rules, "w") as out:
            for old, new in RULES:
                out.write(" ".join(f"{ord(c):X}" for c in old) + "\t" + " ".join(f"{ord(c):X}" for c in new) + "\n")
        train(text, os.path.join(folder, "bpe"), vocab_size=800, user_defined_symbols=["[INST]", "[/INST]"], control_symbols=["<|tool|>"],
              **(LLAMA | {"character_coverage": 0.99}))
        train(text, os.path.join(folder, "unigram"), vocab_size=600, model_type="unigram", normalization_rule_tsv=rules,
              user_defined_symbols=["<sep>"], character_coverage=0.99)
        models = {}
        for name in ("bpe", "unigram"):
            # The training's record names paths and is of no use: it is taken out.
            from sentencepiece import sentencepiece_model_pb2 as pb
            proto = pb.ModelProto.FromString(open(os.path.join(folder, name + ".model"), "rb").read())
            del proto.trainer_spec.input[:]
            proto.trainer_spec.ClearField("model_prefix")
            proto.normalizer_spec.ClearField("normalization_rule_tsv")
            with open(os.path.join(HERE, name + ".model"), "wb") as out:
                out.write(proto.SerializeToString())
            models[name] = sentencepiece.SentencePieceProcessor(model_file=os.path.join(HERE, name + ".model"))
    write_gguf(models["bpe"], os.path.join(HERE, "bpe.gguf"), add_bos_token=True, add_space_prefix=True)
    llama = LlamaCpp(os.path.join(HERE, "bpe.gguf"))
    with open(os.path.join(HERE, "strings.jsonl.gz"), "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as file:
        for text in strings(450, pieces_of(models["bpe"])):
            line = {"text": hexa(text)}
            for name, model in models.items():
                ids = model.encode(text)
                line[name] = {"ids": ids}
                decoded = model.decode(ids)
                if decoded != text:
                    line[name]["decoded"] = hexa(decoded)
            line["gguf"] = llama.ids(text)
            special = llama.ids(text, special=True)
            if special != line["gguf"]:
                line["gguf_special"] = special
            if line["gguf"] == line["bpe"]["ids"]:
                del line["gguf"]
            file.write((json.dumps(line, separators=(",", ":")) + "\n").encode())


if __name__ == "__main__":
    main()
