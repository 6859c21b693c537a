#!/usr/bin/env bash
# Where the time of a training step goes: milliseconds a step by op and kernel, of the thread that runs the steps (all others help
# it and wait for it, so that its time is the step's).
#
#     tests/bench/step_budget.sh [distill] CONFIG... [OPTIONS]       # those of `limbeck train`, or distill; the config sets a text
#     tests/bench/step_budget.sh examples/tiny_moe.textproto --threads 2 --set precision.compute=BFLOAT16
#     tests/bench/step_budget.sh distill examples/distill_smollm2.textproto --threads 2 --set parallel.layout= --set batch.sequences_per_step=2 --set train.eval_tokens=512
#
# Needs the release build and perf (Debian: linux-perf). Sampled are 10 steps after 3 that are not.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[[ $# -gt 0 && $1 != --help && $1 != -h ]] || {
  sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | sed -n 's/^# \{0,1\}//p'
  exit $((2 * ($# == 0)))
}
command=train
[[ $1 != distill ]] || { command=distill && shift; }
command -v perf >/dev/null || { echo "step_budget.sh: error: perf is not installed (Debian: linux-perf)" >&2; exit 1; }

warm_up=3 steps=10 rate=200
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
metrics=$work/run/metrics.jsonl
lines() { [[ -f $metrics ]] && wc -l <"$metrics" || echo 0; }

"$root/build/release/bin/limbeck" "$command" "$@" --set train.steps=$((warm_up + steps + 1)) --out "$work/run" >"$work/log" 2>&1 </dev/null &
run=$!
wait_for() {
  while [[ $(lines) -lt $1 ]]; do
    kill -0 "$run" 2>/dev/null || { echo "step_budget.sh: error: the run ended: $(grep -i error "$work/log" | tail -n 1)" >&2; exit 1; }
    sleep 0.02
  done
}
wait_for "$warm_up"
perf record --quiet --freq "$rate" --event cpu-clock --call-graph dwarf,49152 --tid "$run" --output "$work/perf" >/dev/null 2>&1 </dev/null &
perf=$!
wait_for $((warm_up + steps))
kill -INT "$perf"
wait "$perf" || true
wait "$run" || { echo "step_budget.sh: error: the run failed: $(grep -i error "$work/log" | tail -n 1)" >&2; exit 1; }

# Seconds that the sampled steps took, as the run counted them.
seconds=$(sed -n "$warm_up p; $((warm_up + steps)) p" "$metrics" | grep -o '"seconds":[-+.0-9e]*' | cut -d: -f2 |
  awk 'NR == 1 { first = $1 } END { print $1 - first }')

# A sample is a block of frames, innermost first. Its op is the innermost frame of limbeck::core with a name of an op, or of the
# optimizer; what an op leaves to the backward is a lambda in it, whose name has the op's arguments. Its kernel is the outermost
# frame of limbeck::kernels inside of that.
perf script --no-inline --input "$work/perf" --fields ip,sym 2>/dev/null |
  awk -v steps="$steps" -v seconds="$seconds" -v rate="$rate" '
    function add() {
      if (!frames) return
      ++samples
      ++count[op != "" ? op (kernel == "" ? "" : ": " kernel) : outer != "" ? "other: " outer : "no frame of Limbeck"]
      frames = 0
      op = kernel = outer = ""
    }
    /^$/ { add(); next }
    {
      ++frames
      if (op != "") next
      if (match($0, /limbeck::kernels::[a-z_0-9]+/)) kernel = substr($0, RSTART + 18, RLENGTH - 18)
      if (match($0, /limbeck::core::(add|add_rms_norm|attention|balance_loss|cast|combine|dispatch|embedding|grouped_linear|head_loss|linear|make_permutation|permute|rms_norm|rope|route|swiglu|unpermute|z_loss)([^a-z_:]|$)/)) {
        op = substr($0, RSTART + 15, RLENGTH - 15)
        op = sub(/\($/, "", op) ? op ", backward" : op ", forward"
      } else if (match($0, /limbeck::(optim|parallel)::[A-Za-z0-9_]+/))
        op = substr($0, RSTART + 9, RLENGTH - 9)
      else if (outer == "" && match($0, /limbeck::(core|nn|launch|data)::[A-Za-z0-9_:]+/))
        outer = substr($0, RSTART + 9, RLENGTH - 9)
    }
    END {
      add()
      step = 1000 * seconds / steps
      busy = 1000 * samples / rate / steps
      printf "%.1f ms a step, of which the thread was on a core for %.1f ms (%d samples):\n", step, busy, samples
      for (key in count) printf "%8.1f ms %5.1f %%  %s\n", busy * count[key] / samples, 100 * count[key] / samples, key | "sort -rg"
    }'
