#!/usr/bin/env bash
# A teacher of four times the memory that there may be: it is read layer by layer in each pass, says first how long that
# takes, and teaches what it teaches where it fits. Skipped (77) where no memory limit may be set (control groups).
#
#     tests/large_teacher.sh build/release
set -euo pipefail

build=$(realpath "${1:?the build}")
limbeck=$build/bin/limbeck
layers=24 # of 56 MiB

skip() {
  echo "large_teacher: skipped: $1"
  exit 77
}
command -v python3 >/dev/null || skip "there is no python3"
group=
for top in /sys/fs/cgroup/memory /sys/fs/cgroup; do
  if [[ -e $top/memory.limit_in_bytes || -e $top/cgroup.controllers ]] && mkdir "$top/limbeck$$" 2>/dev/null; then
    group=$top/limbeck$$
    break
  fi
done
[[ -n $group ]] || skip "no control group can be made"
work=$(mktemp -d)
clean() {
  rmdir "$group" 2>/dev/null || { sleep 1; rmdir "$group" || true; }
  rm -rf "$work"
}
trap clean EXIT
limit_file=$group/memory.max
[[ -e $limit_file ]] || limit_file=$group/memory.limit_in_bytes
[[ -w $limit_file ]] || skip "memory cannot be limited here"
export OMP_NUM_THREADS=2

cd "$work"
mkdir text
for i in $(seq 10); do printf 'The still drips slowly into a glass, and what was large becomes small. %s\n' {1..6} >"text/$i.txt"; done
cat >small.textproto <<'END'
model { width: 32 num_layers: 1 num_heads: 4 mlp_width: 256 max_positions: 64 }
data { text: "text" tokenizer: "bytes" sequence_length: 32 held_out_fraction: 0.2 }
batch { sequences_per_step: 2 }
train { steps: 1 eval_tokens: 64 }
END
"$limbeck" train small.textproto --quiet --out small >/dev/null
"$limbeck" convert small teacher --quiet >/dev/null

# The same architecture, 32 times as wide and of many layers, of small numbers in bfloat16.
python3 - "$layers" <<'END'
import json, random, struct, sys
layers, times = int(sys.argv[1]), 32
config = json.load(open("teacher/config.json"))
for name in ("hidden_size", "intermediate_size", "head_dim"):
    if config.get(name):
        config[name] *= times
config["num_hidden_layers"] = layers
config["torch_dtype"] = "bfloat16"
json.dump(config, open("teacher/config.json", "w"))
with open("teacher/model.safetensors", "rb") as small:
    header = json.loads(small.read(struct.unpack("<Q", small.read(8))[0]))
vocabulary = config["vocab_size"]
tensors = {}
for name, info in header.items():
    if name == "__metadata__":
        continue
    shape = [n if n == vocabulary else n * times for n in info["shape"]]
    for layer in range(layers) if ".layers.0." in name else [0]:
        tensors[name.replace(".layers.0.", f".layers.{layer}.")] = shape
at, entries = 0, {}
for name, shape in tensors.items():
    size = 2
    for n in shape:
        size *= n
    entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
    at += size
draw = random.Random(1)
block = b"".join(struct.pack("<f", draw.gauss(0, 0.02))[2:] for _ in range(1 << 19))  # the upper half of float32
with open("teacher/model.safetensors", "wb") as out:
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)  # by which the numbers lie as the format wants them
    out.write(struct.pack("<Q", len(text)) + text)
    for name in tensors:
        begin, end = entries[name]["data_offsets"]
        for first in range(begin, end, len(block)):
            out.write(block[: min(len(block), end - first)])
END
bytes=$(stat -c %s teacher/model.safetensors)
limit=$((bytes / 4))

cat >distill.textproto <<'END'
model { width: 32 num_layers: 1 num_heads: 4 mlp_width: 48 max_positions: 64 }
teacher { source: "teacher" }
data { text: "text" tokenizer: "teacher" sequence_length: 32 held_out_fraction: 0.2 }
batch { sequences_per_step: 2 }
train { steps: 3 eval_tokens: 32 checkpoint_every_steps: 0 log_every_steps: 1 }
precision { mapped_teacher: true frozen_storage: BFLOAT16 }
generation { max_tokens: 0 }
END
"$limbeck" distill distill.textproto --out fits >fits.log 2>&1 || { cat fits.log; exit 1; }
echo "$limit" >"$limit_file"
SECONDS=0
(
  echo "$BASHPID" >"$group/cgroup.procs"
  exec "$limbeck" distill distill.textproto --out beyond
) >beyond.log 2>&1 || { cat beyond.log; exit 1; }
taken=$SECONDS

said=$(grep "are more than the" beyond.log || true)
echo "$said"
python3 - "$bytes" "$limit" "$taken" "$said" <<'END'
import json, sys
bytes_, limit, taken, said = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
runs = {run: [json.loads(line) for line in open(f"{run}/metrics.jsonl")] for run in ("fits", "beyond")}
seconds = {run: sorted(b["seconds"] - a["seconds"] for a, b in zip([{"seconds": 0}] + lines, lines))[1] for run, lines in runs.items()}
print(f"a teacher of {bytes_ / 2**20:.0f} MiB under a limit of {limit / 2**20:.0f}: a step takes {seconds['beyond']:.2f} s, "
      f"{seconds['fits']:.2f} where it fits; {taken} s in all")
for figure in ("loss", "kl", "teacher_ce", "grad_norm"):
    assert [line[figure] for line in runs["beyond"]] == [line[figure] for line in runs["fits"]], figure
assert "each pass reads them" in said and "GiB/s" in said and "for the run's 3 steps" in said, "it did not say the rate first"
END
! grep -q "are more than the" fits.log || { echo "large_teacher: where it fits it said so too" >&2; exit 1; }
