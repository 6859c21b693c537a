"""Weights of tiny models that are made of their names, so that no file has to hold them; tests/support/made_weights.h makes the same.

    entries = read_list(folder / "weights.txt")                # NAME [EXTENTS] MEAN DEVIATION a line, in the order of a file
    weights = made_weights(entries, seed)                      # {name: float32 array}
    write_model(folder, other, seed)                           # config.json and model.safetensors of these
    signs("logits", 89)                                        # [4,89] of -1 and 1: directions that long arrays are projected on

The bits of element i are those of splitmix64 (Steele, Lea and Flood 2014) behind a state of the name's FNV-1a and the seed. Their
four numbers of 16 bits, added, are nearly normal, and exact; what they give is rounded to float32 and to bfloat16. Seed 0 is that
of signs.
"""
import pathlib
import re
import shutil

import h5py
import numpy as np
from safetensors.numpy import save_file

NUM_DIRECTIONS = 4
ROOT_OF_VARIANCE = 65536 / np.sqrt(3)  # of the four numbers' sum; 1 / 65536^2 of it is left out


def mixed(z):
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def bits(name, seed, count):
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 & (1 << 64) - 1
    start = mixed(np.array([state ^ seed], np.uint64))
    return mixed(start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def to_bfloat16(values):
    """float32 values that bfloat16 holds, the nearest, of two the even one."""
    words = values.astype(np.float32).view(np.uint32)
    words = words + np.uint32(0x7FFF) + ((words >> np.uint32(16)) & np.uint32(1))
    return (words & np.uint32(0xFFFF0000)).view(np.float32)


def made(name, shape, mean, deviation, seed):
    words = bits(name, seed, int(np.prod(shape)))
    total = sum((words >> np.uint64(shift) & np.uint64(0xFFFF)).astype(np.int64) for shift in (0, 16, 32, 48)) - 2 * 65535
    return to_bfloat16(mean + total * (deviation / ROOT_OF_VARIANCE)).reshape(shape)


def signs(name, count):
    """-> [4,count] in float64"""
    words = bits(name, 0, count)
    return np.stack([1.0 - 2.0 * (words >> np.uint64(p) & np.uint64(1)).astype(np.float64) for p in range(NUM_DIRECTIONS)])


def write_list(path, entries):
    path.write_text("".join(f"{name} {list(shape)} {mean!r} {deviation!r}\n" for name, shape, mean, deviation in entries))


def read_list(path):
    """-> [(name, shape, mean, deviation)]"""
    lines = [re.fullmatch(r"(\S+) \[([\d, ]*)\] (\S+) (\S+)", line) for line in path.read_text().splitlines()]
    return [(m[1], [int(n) for n in m[2].split(",")], float(m[3]), float(m[4])) for m in lines]


def made_weights(entries, seed):
    return {name: made(name, shape, mean, deviation, seed) for name, shape, mean, deviation in entries}


def write_model(folder, target, seed, config="config.json"):
    """What `folder` describes, as transformers reads it."""
    target = pathlib.Path(target)
    save_file(made_weights(read_list(folder / "weights.txt"), seed), target / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(folder / config, target / "config.json")


def first_seed(folder):
    """Of a family's models that of the first."""
    with h5py.File(folder / "reference.h5") as file:
        return int(file.attrs["seed"])


def first_weights(folder):
    """By name, of the first of a family's models."""
    return made_weights(read_list(folder / "weights.txt"), first_seed(folder))
