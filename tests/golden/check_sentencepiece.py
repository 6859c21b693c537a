"""Limbeck's SentencePiece tokenizers against PyPI's `sentencepiece` and llama.cpp, ids and decoding, on 10,000 strings each.

    python tests/golden/check_sentencepiece.py build/release/bin/bench_tokenizer VOCABULARIES [NUM_STRINGS]

VOCABULARIES is a folder with any of the real ones, which these PyPI packages ship:
    mistral-common              mistral_common/data/*.model.v*
    llama_cpp_python (source)   vendor/llama.cpp/models/ggml-vocab-{llama-spm,phi-3,baichuan}.gguf     (Llama-2, Phi-3)
Besides, a Llama-2-like BPE and a T5-like unigram model are trained (text: the Debian package anarchism). Each family is checked as
a .model file and as a GGUF. Needs PyPI's sentencepiece, gguf, llama_cpp_python, tokenizers. Bench: ninja bench_tokenizer
"""
import glob
import json
import os
import subprocess
import sys
import tempfile

import gguf
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "sentencepiece"))
import make_sentencepiece as golden  # noqa: E402


def limbeck(tokenizer, texts):
    run = subprocess.run([sys.argv[1], tokenizer, "--lines"], input="\n".join(map(golden.hexa, texts)) + "\n", stdout=subprocess.PIPE,
                         text=True, check=True)
    return [json.loads(line) for line in run.stdout.splitlines()]


def compare(name, texts, ours, theirs):
    wrong = [(t, a, b) for t, a, b in zip(texts, ours, theirs) if a != b]
    assert len(texts) == len(ours) == len(theirs)
    print(f"{name}: {len(texts) - len(wrong)} of {len(texts)} agree", flush=True)
    for text, a, b in wrong[:5]:
        print("   ", repr(text)[:100], str(a)[:150], str(b)[:150])
    return bool(wrong)


def paragraphs(path, count):
    lines = [line.rstrip("\n") for line in open(path, encoding="utf-8") if len(line) > 20]
    return lines[:count]


def texts_for(pieces, symbols, text_file, count):
    running = paragraphs(text_file, count // 5)
    return golden.strings(count - len(running), pieces, symbols) + running


def check_model(name, path, text_file, count):
    """A .model file against PyPI's sentencepiece, and as a GGUF against llama.cpp."""
    processor = sentencepiece.SentencePieceProcessor(model_file=path)
    texts = texts_for(golden.pieces_of(processor), golden.SYMBOLS, text_file, count)
    ours = limbeck(path, texts)
    bad = compare(f"{name}: ids, sentencepiece", texts, [o["ids"] for o in ours], processor.encode(texts))
    decoded = [bytes.fromhex(o["decoded"]).decode("utf-8", errors="replace") for o in ours]
    bad |= compare(f"{name}: decoding, sentencepiece", texts, decoded, processor.decode([o["ids"] for o in ours]))
    document = "\n".join(paragraphs(text_file, 10**9))[:300_000]
    a, b = limbeck(path, [document])[0]["ids"], processor.encode(document)
    print(f"{name}: a text of {len(document)} characters: {len(a)} and {len(b)} ids, {'the same' if a == b else 'they differ'}")
    return bad


def check_gguf(name, path, text_file, count, has_user_defined):
    """A GGUF against llama.cpp, and against PyPI's sentencepiece where no user-defined tokens stand between."""
    reader = gguf.GGUFReader(path)
    field = lambda key: reader.fields["tokenizer.ggml." + key].contents()  # noqa: E731
    tokens, scores, types = field("tokens"), field("scores"), field("token_type")
    symbols = golden.SYMBOLS + [t for t, kind in zip(tokens, types) if kind in (3, 4)][:40]
    texts = texts_for([t for t, kind in zip(tokens, types) if kind == 1], symbols, text_file, count)
    ours = limbeck(path, texts)
    llama = golden.LlamaCpp(path)
    bad = compare(f"{name}: ids, llama.cpp", texts, [o["ids"] for o in ours], [llama.ids(t) for t in texts])
    bad |= compare(f"{name}: ids with special tokens, llama.cpp", texts, [o["special_ids"] for o in ours], [llama.ids(t, True) for t in texts])
    if has_user_defined:
        return bad
    proto = pb.ModelProto()
    for token, score, kind in zip(tokens, scores, types):
        proto.pieces.add(piece=token, score=score, type=kind)
    proto.trainer_spec.model_type, proto.trainer_spec.byte_fallback = 2, 6 in types
    proto.normalizer_spec.remove_extra_whitespaces = False
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    bad |= compare(f"{name}: ids, sentencepiece", texts, [o["ids"] for o in ours], processor.encode(texts))
    decoded = [bytes.fromhex(o["decoded"]).decode("utf-8", errors="replace") for o in ours]
    return bad | compare(f"{name}: decoding, sentencepiece", texts, decoded, processor.decode([o["ids"] for o in ours]))


def main():
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 10_000
    bad = False
    with tempfile.TemporaryDirectory() as folder:
        text = os.path.join(folder, "text")
        golden.corpus(text, 3_000_000)
        golden.train(text, os.path.join(folder, "llama-like"), vocab_size=8000, **golden.LLAMA)
        golden.train(text, os.path.join(folder, "t5-like"), vocab_size=8000, model_type="unigram", character_coverage=0.9995)
        for path in sorted(glob.glob(os.path.join(folder, "*.model"))):
            bad |= check_model(os.path.basename(path), path, text, count)
        for path in sorted(glob.glob(os.path.join(sys.argv[2], "**", "*.model.v*"), recursive=True)):
            model = os.path.join(folder, os.path.basename(path) + ".model")
            os.symlink(os.path.abspath(path), model)
            bad |= check_model(os.path.basename(path), model, text, count)
        like = os.path.join(folder, "llama-like.gguf")
        golden.write_gguf(sentencepiece.SentencePieceProcessor(model_file=os.path.join(folder, "llama-like.model")), like)
        bad |= check_gguf("llama-like.gguf", like, text, count, False)
        for path in sorted(glob.glob(os.path.join(sys.argv[2], "*.gguf"))):
            types = gguf.GGUFReader(path).fields["tokenizer.ggml.token_type"].contents()
            bad |= check_gguf(os.path.basename(path), path, text, count, 4 in types)
    sys.exit(bad)


if __name__ == "__main__":
    main()
