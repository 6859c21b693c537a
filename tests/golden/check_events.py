"""Opens a run's event files with TensorBoard and compares them with its metrics.jsonl.

    pip install tensorboard
    python tests/golden/check_events.py RUN_DIR...

TensorBoard reads the files as its pages do: checksums, restarts (steps that a resumed run did again are there once), the
conversion of old kinds of values to new ones. Every number of metrics.jsonl must be a scalar at its step with the time of
its line; every list of assignments a histogram; the config a text. Ends with 1 at the first difference.
"""

import json
import pathlib
import struct
import sys

import tensorboard
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util


def as_float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def add_scalars(scalars, tag, value):
    """A number, or an object of such by name."""
    if isinstance(value, dict):
        for name, inner in value.items():
            add_scalars(scalars, f"{tag}/{name}", inner)
    else:
        scalars[tag] = value


def expected_of(line):
    """Scalars and histograms of a line of metrics.jsonl, by tag."""
    scalars, histograms = {}, {}
    for name, value in line.items():
        if name in ("step", "time"):
            continue
        if name == "expert_load":
            for layer in value:
                for key, inner in layer.items():
                    tag = f"expert_load/layer_{layer['layer']}/{key}"
                    if isinstance(inner, list):
                        histograms[tag] = inner
                    elif key != "layer":
                        scalars[tag] = inner
        elif name.startswith("eval_"):
            scalars["eval/" + name[5:]] = value
        else:
            add_scalars(scalars, name if isinstance(value, dict) else "train/" + name, value)
    return scalars, histograms


def check(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    events = event_accumulator.EventAccumulator(str(run), size_guidance={key: 0 for key in ("scalars", "tensors", "histograms")})
    events.Reload()

    scalars, histograms = {}, {}
    for line in lines:
        numbers, counts = expected_of(line)
        for tag, value in numbers.items():
            scalars.setdefault(tag, []).append((line["step"], line["time"], as_float32(value)))
        for tag, value in counts.items():
            histograms.setdefault(tag, []).append((line["step"], value))

    found = {tag: [(e.step, e.wall_time, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert found.keys() == scalars.keys(), f"tags {sorted(found.keys() ^ scalars.keys())} are on one side only"
    for tag, values in scalars.items():
        assert found[tag] == values, f"{tag}: {next(p for p in zip(found[tag], values) if p[0] != p[1])}"

    assert sorted(events.Tags()["histograms"]) == sorted(histograms), events.Tags()["histograms"]
    for tag, values in histograms.items():
        read = [(e.step, [int(n) for n in e.histogram_value.bucket]) for e in events.Histograms(tag)]
        assert read == values, f"{tag}: {read} is not {values}"

    text = tensor_util.make_ndarray(events.Tensors("config")[-1].tensor_proto).item().decode()
    config = (run / "config.textproto").read_text()
    assert "".join(line[4:] for line in text.splitlines(keepends=True)) == config, "config: another text"
    files = len(list(run.glob("events.out.tfevents.*")))
    print(f"{run}: {len(lines)} steps, {len(scalars)} scalars, {len(histograms)} histograms in {files} files "
          f"agree (tensorboard {tensorboard.__version__})")


for argument in sys.argv[1:] or sys.exit(__doc__):
    check(pathlib.Path(argument))
