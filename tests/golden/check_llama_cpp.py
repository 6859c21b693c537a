"""Compares the logits that `limbeck eval MODEL.gguf --tokens FILE --logits OUT.h5` wrote with llama.cpp's on the same file.

    python tests/golden/check_llama_cpp.py MODEL.gguf OUT.h5 [--text FILE] [--tolerance 1e-4] [--write FILE.npy]
                                                                            (PyPI: llama-cpp-python gguf h5py numpy)

MODEL.gguf is what `limbeck convert` wrote, in float32 for a tight comparison: where the weights are not float32, llama.cpp quantises
or halves the activations too, so its logits differ by per cents, and by more where a token is routed to another expert. The cache is
float32. PyPI's `gguf` opens the file as well. With --write, llama.cpp's logits of those tokens are written, and nothing is compared.
With --text, /tokens must be what llama.cpp cuts FILE into, without special tokens, and
possibly an end of text behind. Prints max |difference| / max |reference|; exit 1 when it is above the tolerance.
"""
import argparse
import sys
from unittest import mock

import gguf
import h5py
import llama_cpp
import numpy as np

GGML_TYPE_F32 = 0


def yarn_borders(path):
    """YaRN's borders that the file has, as options: llama.cpp 0.3.36 reads them of few architectures, of the others it takes 32 and 1."""
    fields = gguf.GGUFReader(path).fields
    return {"yarn_" + name.rsplit("yarn_")[-1]: field.contents() for name, field in fields.items() if ".yarn_beta_" in name}


def open_model(path, num_tokens):
    """The model with a float32 cache, ready for the logits of that many tokens at once. Weights stay as they lie: where llama.cpp packs
    them for AMX, 0.3.36 ends with a segmentation fault (ldtilecfg) on some machines that say they have it."""
    usual = llama_cpp.llama_cpp.llama_model_default_params

    def without_packing():
        parameters = usual()
        parameters.use_extra_bufts = False
        return parameters

    with mock.patch.object(llama_cpp.llama_cpp, "llama_model_default_params", without_packing):
        return llama_cpp.Llama(str(path), n_ctx=num_tokens, n_batch=num_tokens, n_ubatch=num_tokens, logits_all=True, flash_attn=False,
                               type_k=GGML_TYPE_F32, type_v=GGML_TYPE_F32, verbose=False, **yarn_borders(path))


def logits_of(model, tokens):
    """[T,V], each token seeing those before it."""
    model.reset()
    model.eval(tokens)
    return np.array(model.scores[:len(tokens)], dtype=np.float64)


def read_logits(path):
    """What `limbeck eval --logits` wrote: the tokens, and [T,V]."""
    with h5py.File(path) as file:
        return file["tokens"][()].tolist(), file["logits"][()].astype(np.float64)


def relative_difference(found, reference):
    if found.shape != reference.shape:
        raise SystemExit(f"logits have shape {list(found.shape)}, llama.cpp's {list(reference.shape)}")
    return np.abs(found - reference).max() / np.abs(reference).max()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("logits")
    parser.add_argument("--text")
    parser.add_argument("--write", metavar="FILE.npy")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    arguments = parser.parse_args()
    tokens, found = read_logits(arguments.logits)
    if arguments.write:
        return np.save(arguments.write, logits_of(open_model(arguments.model, len(tokens)), tokens))

    reader = gguf.GGUFReader(arguments.model)
    kinds = {}
    for tensor in reader.tensors:
        kinds[tensor.tensor_type.name] = kinds.get(tensor.tensor_type.name, 0) + 1
    print(f"gguf: {len(reader.fields)} fields, tensors {kinds}")

    model = open_model(arguments.model, len(tokens))
    if arguments.text:
        with open(arguments.text, "rb") as file:
            ids = model.tokenize(file.read(), add_bos=False, special=False)
        if tokens[:len(ids)] != ids or len(tokens) > len(ids) + 1:
            first = next((i for i, (a, b) in enumerate(zip(tokens, ids)) if a != b), min(len(tokens), len(ids)))
            sys.exit(f"{arguments.text}: llama.cpp has {len(ids)} tokens, Limbeck {len(tokens)}; they part at {first}")
        print(f"{arguments.text}: the same {len(ids)} tokens")
    reference = logits_of(model, tokens)
    relative = relative_difference(found, reference)
    difference = np.abs(found - reference)
    agree = (found.argmax(-1) == reference.argmax(-1)).mean()
    print(f"{len(tokens)} tokens, {found.shape[1]} columns: max |difference| {difference.max():.3e} (token {difference.max(1).argmax()}), "
          f"max |reference| {np.abs(reference).max():.3e}, ratio {relative:.3e}, same argmax {agree:.4f}")
    if not relative <= arguments.tolerance:
        sys.exit(f"above the tolerance of {arguments.tolerance:g}")


if __name__ == "__main__":
    main()
