"""Checks GGUF both ways against llama.cpp and PyPI's `gguf`, on students that it trains for a few steps.

    python tests/golden/check_gguf.py build/release/bin/limbeck [--teacher MODEL.gguf] [--keep FOLDER]
                                                    (PyPI: llama-cpp-python gguf h5py numpy safetensors; 0.3.36, 0.19.0)

Out: for each student and dtype, `limbeck convert` writes the file; what Limbeck reads back has the logits that llama.cpp computes
from the same values in float32 (max |difference| / max |reference| at most 1e-4; "as stored" is llama.cpp on the file itself, whose
activations it rounds like the weights, for information); read back in float32, every weight has the bits of the checkpoint. A text
has the same tokens. In: llama.cpp quantises the float32 file to every format that Limbeck reads; the values are bit for bit those of
`gguf`, the logits llama.cpp's as above. In parts: llama.cpp and Limbeck open the same. Exit 1 at the first failure.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import load_file

from check_gguf_values import same_bits
from check_llama_cpp import logits_of, open_model, read_logits, relative_difference

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOLERANCE = 1e-4
TEXT = "The still, in 1999:  don't\n\n\tl'été \U0001F642 [PAD3]."
SETTINGS = ["train.steps=10", "train.eval_tokens=512", "batch.sequences_per_step=4", "model.num_layers=2", f"data.text={ROOT}/docs"]
STUDENTS = {
    "dense": ("tiny_dense", ["model.width=256", "model.num_heads=4", "model.num_kv_heads=2", "model.mlp_width=512"]),
    "experts": ("tiny_moe", ["model.width=256", "model.num_heads=4", "model.num_kv_heads=4", "model.moe.expert_width=256",
                             "model.moe.num_experts=6", "model.moe.experts_per_token=2", "model.tied_head=true"]),
    # Nothing divides: heads of their own width, rows that are no multiple of 32, a SentencePiece tokenizer.
    "odd": ("tiny_moe", ["model.width=72", "model.num_heads=6", "model.num_kv_heads=3", "model.head_width=20",
                         "model.moe.expert_width=44", "model.moe.num_experts=5", "model.moe.experts_per_token=3",
                         "model.rope_base=50000", "model.norm_eps=1e-6", f"data.tokenizer={ROOT}/tests/golden/sentencepiece/bpe.model"]),
}
DTYPES = ("float32", "float16", "bfloat16", "Q8_0")
# Every matrix in one format (pure), and mixtures as they are published.
PURE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K_S", "Q4_K_S", "Q5_K_S", "Q6_K", "IQ4_NL", "IQ4_XS")
MIXED = ("Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M")


class Check:
    def __init__(self, limbeck, folder):
        self.limbeck = limbeck
        self.folder = folder
        self.worst = 0.0

    def run(self, *arguments):
        replaces = ["--force"] if arguments[0] in ("convert", "eval", "tokenize") else []
        done = subprocess.run([self.limbeck, *map(str, arguments), *replaces], cwd=self.folder, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"limbeck {' '.join(map(str, arguments))}: {done.stdout}{done.stderr}")

    def logits(self, model, tokens):
        self.run("eval", model, "--tokens", tokens, "--logits", "logits.h5")
        return read_logits(self.folder / "logits.h5")

    def logits_agree(self, what, model, tokens, values=None):
        """Limbeck on `model` against llama.cpp on the same values in float32."""
        ids, found = self.logits(model, tokens)
        as_stored = relative_difference(found, logits_of(open_model(self.folder / model, len(ids)), ids))
        ratio = as_stored
        if values is not None:
            ratio = relative_difference(found, logits_of(open_model(self.folder / values, len(ids)), ids))
        self.worst = max(self.worst, ratio)
        print(f"{what:<32} {ratio:.2e}   as stored {as_stored:.2e}", flush=True)
        if not ratio <= TOLERANCE:
            sys.exit(f"{what}: above the tolerance of {TOLERANCE:g}")

    def text_agrees(self, what, model, tokenizer):
        (self.folder / "text.txt").write_text(TEXT)
        self.run("tokenize", "text.txt", "--tokenizer", tokenizer, "--out", "text")
        ids, _ = self.logits(model, "text")
        reference = open_model(self.folder / model, 64).tokenize(TEXT.encode(), add_bos=False, special=False)
        if ids[-len(reference) - 1:-1] != reference or len(ids) > len(reference) + 2:
            sys.exit(f"{what}: {TEXT!r} has other tokens in llama.cpp: {ids}, {reference}")
        return f"the same {len(reference)} tokens"

    def read_back(self, run, exported):
        """Whether the float32 file holds the bits of the checkpoint, both written as Hugging Face directories."""
        for source, folder in ((run, "hf_a"), (exported, "hf_b")):
            self.run("convert", source, f"{run}_{folder}")
        a, b = (load_file(self.folder / f"{run}_{name}" / "model.safetensors") for name in ("hf_a", "hf_b"))
        if a.keys() != b.keys() or any(a[k].tobytes() != b[k].tobytes() or a[k].shape != b[k].shape for k in a):
            sys.exit(f"{exported}: does not hold the weights of {run}")
        return f"{len(a)} tensors come back bit for bit"

    def out(self, name):
        example, settings = STUDENTS[name]
        sets = [word for setting in SETTINGS + settings for word in ("--set", setting)]
        self.run("train", ROOT / "examples" / f"{example}.textproto", "--out", name, *sets)
        for dtype in DTYPES:
            self.run("convert", name, f"{name}.{dtype}.gguf", "--dtype", dtype)
            values = f"{name}.values.gguf"
            self.run("convert", f"{name}.{dtype}.gguf", values)
            self.logits_agree(f"{name}, written as {dtype}", f"{name}.{dtype}.gguf", "ids.txt", values)
        tokenizer = next((s.split("=")[1] for s in settings if "tokenizer" in s), "bytes")
        print(f"{name}: {self.read_back(name, f'{name}.float32.gguf')}; {self.text_agrees(name, f'{name}.float32.gguf', tokenizer)}")

    def quantised(self, source, kind, pure, tokens):
        """llama.cpp's own quantisation of a file, as Limbeck reads it."""
        target = f"quantised.{kind}.gguf"
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
        parameters.pure = pure
        parameters.allow_requantize = True
        if llama_cpp.llama_model_quantize(str(self.folder / source).encode(), str(self.folder / target).encode(), parameters) != 0:
            sys.exit(f"llama.cpp does not quantise {source} to {kind}")
        self.run("convert", target, "values.gguf")
        counts = same_bits(self.folder / target, self.folder / "values.gguf")
        formats = " ".join(f"{k}:{n}" for k, n in counts.items() if k != "F32")
        self.logits_agree(f"{pathlib.Path(source).stem.split('.')[0][:12]}, {formats}", target, tokens, "values.gguf")
        (self.folder / target).unlink()

    def parts(self, source, most):
        """The file in parts of at most that many tensors, written by `gguf`."""
        reader = gguf.GGUFReader(self.folder / source)
        writer = gguf.GGUFWriter(self.folder / "parts.gguf", "llama", split_max_tensors=most)
        for field in reader.fields.values():
            if field.name.startswith("GGUF.") or field.name == "general.architecture":
                continue
            of = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=of)
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        names = sorted(path.name for path in self.folder.glob("parts-*.gguf"))
        self.logits_agree(f"{source}, {len(names)} parts", names[0], "ids.txt")
        first = self.logits(names[0], "ids.txt")[1]
        if not np.array_equal(first, self.logits(names[-1], "ids.txt")[1]):
            sys.exit(f"{names[-1]}: is another model than {names[0]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("limbeck", type=lambda path: str(pathlib.Path(path).resolve()))
    parser.add_argument("--teacher", help="a GGUF file of the llama architecture to quantise anew as well", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("--keep", help="work here, and leave the files", type=pathlib.Path)
    arguments = parser.parse_args()
    keep = tempfile.TemporaryDirectory() if arguments.keep is None else None
    folder = pathlib.Path(keep.name) if keep else arguments.keep
    folder.mkdir(parents=True, exist_ok=True)
    check = Check(arguments.limbeck, folder)
    ids = np.random.default_rng(3).integers(0, 256, 90).tolist()
    (folder / "ids.txt").write_text(" ".join(map(str, [*b"Limbeck is the old word for a still. ", *ids])))

    for name in STUDENTS:
        check.out(name)
    check.parts("odd.float32.gguf", 5)  # an empty array, as the merges of bytes, `gguf` does not write
    for name in ("dense", "experts"):
        for kind in PURE:
            check.quantised(f"{name}.float32.gguf", kind, True, "ids.txt")
    for kind in MIXED:
        check.quantised("experts.float32.gguf", kind, False, "ids.txt")
    if arguments.teacher:
        check.run("convert", arguments.teacher, "values.gguf")
        print(f"{arguments.teacher.name}: the same bits, {same_bits(arguments.teacher, folder / 'values.gguf')}")
        for kind in MIXED + ("Q4_0", "Q6_K", "IQ4_XS"):
            check.quantised(arguments.teacher, kind, False, "ids.txt")
    print(f"all agree; the worst ratio is {check.worst:.2e}")


if __name__ == "__main__":
    main()
