#!/usr/bin/env bash
# What CUDA's assembler says of a GPU's kernels, as their build kept it beside each object (cmake/keep_words.sh), against
# kernels/cuda/registers.txt: none spills or has a stack but those that may, and registers leave room for as many threads of a
# multiprocessor as are stated, on an A100 and a Hopper: for a Blackwell nothing has been tuned. Nor does it say that products of a
# Hopper's tensor cores wait for each other (C7510).
#
#     tests/registers.sh build/cuda
set -euo pipefail

build=${1:?a build folder of preset cuda}
cd "$(dirname "${BASH_SOURCE[0]}")/.."
budgets=kernels/cuda/registers.txt
logs=$(find "$build" -name '*.cu.o.words')
[[ -n $logs ]] || { echo "tests/registers.sh: error: no *.cu.o.words below $build, expected a build of preset cuda" >&2; exit 1; }

# shellcheck disable=SC2086 # file names of CMake's, without spaces
if grep -l C7510 $logs; then
  echo "tests/registers.sh: error: products of the tensor cores are serialised there (C7510)" >&2
  exit 1
fi

# One line a kernel and architecture: architecture, registers, bytes of stack, bytes spilled, name.
# shellcheck disable=SC2086 # file names of CMake's, without spaces
awk '
  /Compiling entry function/ {split($0, part, "\047"); name = part[2]; architecture = part[4]}
  /bytes stack frame/ {stack = $1; spilled = $5 + $9}
  /: Used [0-9]+ registers/ {
    for (i = 1; i < NF; ++i) if ($i == "Used") registers = $(i + 1)
    print architecture, registers, stack, spilled, name
  }' $logs | sed -E 's/_ZN7cutlass13device_kernel[^ ]+/cutlass::device_kernel/' | c++filt -p | sed -E 's/limbeck::kernels:://g; s/\(anonymous namespace\):://g; s/ void / /' | sort -u >"$build/registers"

awk '
  NR == FNR {
    if ($0 ~ /^#/ || NF == 0) next
    threads[$1] = $2; may_have_stack[$1] = $3 ~ /stack|spills/; may_spill[$1] = $3 == "spills"; may_lack[$1] = $3 == "cutlass"; next
  }
  {
    kernel = $5; for (i = 6; i <= NF; ++i) kernel = kernel " " $i
    base = kernel; sub(/[<(].*/, "", base)
    # What elementwise_kernel and its like run has a line of its own, or that of all of them.
    work = kernel; gsub(/[<>, ]+/, " ", work); n = split(work, word, " "); entry = base
    for (i = 2; i <= n; ++i) if ((base ":" word[i]) in threads) entry = base ":" word[i]
    ++checked; used[entry] = 1
    if (!(entry in threads)) {print kernel " (" $1 ") has no line in kernels/cuda/registers.txt"; bad = 1; next}
    most = int(65536 / threads[entry] / 8) * 8
    if ($2 > most && $1 !~ /^sm_1/) {print kernel " (" $1 ") has " $2 " registers, expected at most " most " for " threads[entry] " threads"; bad = 1}
    if ($4 > 0 && !may_spill[entry]) {print kernel " (" $1 ") spills " $4 " bytes, expected 0"; bad = 1}
    if ($3 > 0 && !may_have_stack[entry]) {print kernel " (" $1 ") has a stack of " $3 " bytes, expected 0"; bad = 1}
  }
  END {
    for (entry in threads) if (!(entry in used) && !may_lack[entry]) {print "kernels/cuda/registers.txt: there is no kernel " entry; bad = 1}
    print checked + 0 " kernels"
    exit bad || checked == 0
  }' "$budgets" "$build/registers"
