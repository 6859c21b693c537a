#!/usr/bin/env bash
# Whether a program of tests on the emulation of a GPU computes the same bits in whatever order lanes, warps, blocks and streams
# come: its results (tests/support/noted_results.h) under the seed that runs queued work as early as can be and the one that runs it
# as late (tests/cuda_emulation/emulation.h). Seed 1 is that of the tests by themselves.
#
#     tests/same_bits.sh build/release/bin/test_kernels_emulated [FILTER]
set -euo pipefail

program=${1:?a program of tests}
filter=${2:-*}
work=$(mktemp -d)
runs=()
trap 'kill "${runs[@]}" 2>/dev/null || true; rm -rf "$work"' EXIT

fail() {
  echo "tests/same_bits.sh: error: $*" >&2
  exit 1
}

for seed in 2 3; do
  EMULATION_SEED=$seed RESULTS_FILE=$work/$seed "$program" --gtest_filter="$filter" --gtest_brief=1 >"$work/log$seed" 2>&1 </dev/null &
  runs+=($!)
done
for seed in 2 3; do
  wait "${runs[seed - 2]}" || { tail -n 30 "$work/log$seed" >&2 && fail "$program fails under seed $seed"; }
done
[[ -s $work/2 ]] || fail "$program $filter notes no results"
diff "$work/2" "$work/3" >"$work/difference" || { head -n 20 "$work/difference" >&2 && fail "seed 3 gives other bits than seed 2"; }
echo "$(wc -l <"$work/2") results of $(cut -d: -f1 "$work/2" | sort -u | wc -l) tests are the same under seeds 2 and 3"
