"""Changes a Hugging Face directory with a Mixtral of float32 weights so that its routers choose in a known way; for row H of
tests/bench/compare.sh. Needs nothing but Python.

    python3 tests/bench/set_routing.py DIR even      # random text goes to all experts about alike, in every layer
    python3 tests/bench/set_routing.py DIR half      # and half of all tokens to the first expert

The embeddings become so large that in every layer a token's state is that of its embedding, which differs from token to token
evenly in every direction. Where the first expert's row of a router is then made long, it is the first choice of those tokens whose
states are on its side, which are half of them, and never another's. Not so long that the other's weight would be a denormal number,
whose products are slow.
"""

import array
import json
import pathlib
import struct
import sys


def main():
    if len(sys.argv) != 3 or sys.argv[2] not in ("even", "half"):
        sys.exit("usage: set_routing.py DIR even|half")
    with open(pathlib.Path(sys.argv[1]) / "model.safetensors", "r+b") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        tensors = json.loads(file.read(length))

        def scale(name, factor, count=None):
            """The first `count` values of a tensor, or all."""
            first, last = tensors[name]["data_offsets"]
            file.seek(8 + length + first)
            values = array.array("f", file.read(4 * count if count else last - first))
            file.seek(8 + length + first)
            file.write(array.array("f", [factor * value for value in values]).tobytes())

        scale("model.embed_tokens.weight", 100)
        if sys.argv[2] == "half":
            routers = [name for name in tensors if name.endswith(".block_sparse_moe.gate.weight")]
            if not routers:
                sys.exit(f"set_routing.py: error: {sys.argv[1]} has no routers of a Mixtral")
            for name in routers:
                scale(name, 20, tensors[name]["shape"][1])


main()
