#!/usr/bin/env bash
# What a limbeck does that knows no GPUs, or finds none: it says so in a line of --version and trains on the CPU, and a config that
# asks for CUDA is one line and an exit code. GPUs of this machine are hidden from it.
#
#     tests/gpu/no_gpu.sh build/release
set -euo pipefail

build=$(cd "${1:?a build folder}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CUDA_VISIBLE_DEVICES='' OMP_NUM_THREADS=1
cd "$work"

fail() {
  echo "tests/gpu/no_gpu.sh: error: $1" >&2
  exit 1
}

devices=$("$build/bin/limbeck" --version | sed -n 's/^devices  *//p')
if grep -Eq '^LIMBECK_CUDA:[A-Z]+=(ON|1|TRUE|YES)$' "$build/CMakeCache.txt"; then
  [[ $devices == "cpu; CUDA, but no GPU: "?* ]] || fail "--version says '$devices', expected 'cpu; CUDA, but no GPU: ' and why"
  code=1 says="train.device is CUDA, but no GPU can be used here: ${devices#*GPU: }"
else
  [[ $devices == cpu ]] || fail "--version says '$devices', expected 'cpu'"
  code=2 says="train.device is CUDA, but this limbeck was built without it: its only device is the CPU"
fi

mkdir text
echo "Six documents are enough for a step or two of a model of bytes." >text/one.txt
cat >mine.textproto <<END
model { width: 32 num_layers: 1 num_heads: 2 num_kv_heads: 1 max_positions: 32 moe { num_experts: 2 experts_per_token: 1 expert_width: 32 } }
data { text: "text" tokenizer: "bytes" sequence_length: 8 held_out_fraction: 0 }
optimizer { rate: 1e-3 }
batch { sequences_per_step: 2 }
train { steps: 1 }
END
"$build/bin/limbeck" train mine.textproto --out cpu >log 2>&1 || { cat log >&2 && fail "the CPU does not train by itself"; }

for command in "train mine.textproto --out gpu" "verify mine.textproto --layouts dp2 --quiet"; do
  status=0
  # shellcheck disable=SC2086
  "$build/bin/limbeck" $command --set train.device=CUDA >log 2>&1 || status=$?
  [[ $status -eq $code && $(cat log) == "limbeck: error: $says" ]] || {
    cat log >&2
    fail "$command with train.device=CUDA ends with exit code $status, expected $code and one line: $says"
  }
done
