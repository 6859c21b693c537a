"""What llm.c's train_gpt2 reads: GPT-2 small with random weights, and random tokens; for row B of tests/bench/compare.sh. Needs
nothing but Python.

    python3 tests/bench/llm_c_files.py FOLDER        # gpt2_124M.bin, dev/data/tinyshakespeare/tiny_shakespeare_{train,val}.bin

Formats: gpt2_build_from_checkpoint in its train_gpt2.c (version 3, float32), dataloader_load_shard_ in its llmc/dataloader.h.
"""

import array
import pathlib
import random
import struct
import sys

POSITIONS, VOCABULARY, LAYERS, HEADS, WIDTH, PADDED = 1024, 50257, 12, 12, 768, 50304


def header(*fields):
    return struct.pack("<256i", *fields, *[0] * (256 - len(fields)))


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: llm_c_files.py FOLDER")
    folder = pathlib.Path(sys.argv[1])
    rng = random.Random(1)
    weights = array.array("f", [rng.gauss(0, 0.02) for _ in range(1 << 16)]).tobytes()

    def normal(count):
        return (weights * (4 * count // len(weights) + 1))[: 4 * count]

    def constant(count, value):
        return struct.pack("<f", value) * count

    layer = LAYERS * WIDTH
    with open(folder / "gpt2_124M.bin", "wb") as file:
        file.write(header(20240326, 3, POSITIONS, VOCABULARY, LAYERS, HEADS, WIDTH, PADDED))
        for tensor in [
            normal(PADDED * WIDTH), normal(POSITIONS * WIDTH),  # embeddings
            constant(layer, 1), constant(layer, 0),  # norm
            normal(3 * layer * WIDTH), constant(3 * layer, 0), normal(layer * WIDTH), constant(layer, 0),  # attention
            constant(layer, 1), constant(layer, 0),  # norm
            normal(4 * layer * WIDTH), constant(4 * layer, 0), normal(4 * layer * WIDTH), constant(layer, 0),  # MLP
            constant(WIDTH, 1), constant(WIDTH, 0),  # last norm
        ]:
            file.write(tensor)
    data = folder / "dev/data/tinyshakespeare"
    data.mkdir(parents=True, exist_ok=True)
    for part in ["train", "val"]:
        tokens = array.array("H", [rng.randrange(VOCABULARY) for _ in range(1 << 14)])
        (data / f"tiny_shakespeare_{part}.bin").write_bytes(header(20240520, 1, len(tokens)) + tokens.tobytes())


main()
