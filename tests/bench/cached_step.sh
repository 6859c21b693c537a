#!/usr/bin/env bash
# A step that learns from a teacher's cache of 64 tokens a position beside a step of cross-entropy alone: the main job's student,
# text, batch and layout. Both runs by turns, several rounds; prints the medians of a step's seconds and of a run's processor
# seconds (its start included, which both have), and the ratios. Wants a machine that does nothing else.
#
#     tests/bench/cached_step.sh [FOLDER] [ROUNDS] [STEPS]     # [runs/cached_step] [5] [12]
#
# Needs the release build, the teacher (launch/fetch_teacher.sh) and the text (launch/install.sh). The cache (some ten thousand
# tokens, which the steps go over again) and the student's start are made at the first call.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
# shellcheck source=tests/bench/compare_runs.sh
. tests/bench/compare_runs.sh

folder=${1:-runs/cached_step}
rounds=${2:-5}
warm_up=2
steps=${3:-12}
limbeck=${LIMBECK:-build/release/bin/limbeck}

# OpenMPI asks for this twice before it starts as root.
if [[ $(id -u) -eq 0 ]]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

mkdir -p "$folder/text"
for name in append31 append132 biblio append43; do
  gzip -dc "/usr/share/doc/anarchism/markdown/$name.md.gz" 2>/dev/null | head -c 9500 >"$folder/text/$name.md" || true
done
text=(--set "data.text=$folder/text" --set "data.cache_dir=$folder/tokens")

"$limbeck" cache-teacher examples/distill_smollm2.textproto --out "$folder/cache" "${text[@]}" --set parallel.layout=dp1 >&2
if [[ ! -e $folder/start/end.json ]]; then
  rm -rf "$folder/start"
  "$limbeck" distill examples/distill_smollm2.textproto --out "$folder/start" "${text[@]}" --set parallel.layout=dp1 \
    --set train.steps=1 --set optimizer.rate=1e-9 --set train.eval_tokens=256 --set teacher.cache="$folder/cache" >&2
fi

# What the two runs have in common is the example's.
cat >"$folder/step.textproto" <<END
model { source: "$folder/start" }
data { tokenizer: "model" sequence_length: 256 held_out_fraction: 0.05 }
optimizer { rate: 1e-3 weight_decay: 0.01 groups { pattern: "*.router.weight" rate_factor: 0.1 } }
batch { sequences_per_step: 1 }
train { steps: $((warm_up + steps)) eval_tokens: 256 }
parallel { layout: "tp2" }
END

# run NAME COMMAND... : notes the median seconds of a step, and all the processor's seconds of the run.
run() {
  local name=$1 times=$folder/times
  shift
  rm -rf "$folder/run"
  (
    TIMEFORMAT='%U %S'
    time mpirun --bind-to none --oversubscribe -n 2 "$limbeck" "$@" "$folder/step.textproto" "${text[@]}" --out "$folder/run" \
      >"$folder/log" 2>&1 </dev/null
  ) 2>"$times" || fails "$name" "$folder/log"
  note "$name seconds" "$(awk -v speed="$(median_of_steps "$folder/run/metrics.jsonl" tokens_per_s)" 'BEGIN { printf "%.4f", 256 / speed }')"
  note "$name processor" "$(awk '{ print $1 + $2 }' "$times")"
  rm -rf "$folder/run"
}

median_of() { tr ' ' '\n' <<<"${figures[$1]}" | grep . | median; }

for ((round = 1; round <= rounds; ++round)); do
  run plain train
  run cached distill --set teacher.cache="$folder/cache" --set objective.cross_entropy_weight=0.1
done

echo "| of $rounds rounds | plain | cached | ratio |"
echo "|---|---|---|---|"
for figure in seconds processor; do
  plain=$(median_of "plain $figure") cached=$(median_of "cached $figure")
  echo "| $([[ $figure == seconds ]] && echo "seconds a step, median" || echo "processor seconds of a run, median") | $plain | $cached | $(
    awk -v a="$plain" -v b="$cached" 'BEGIN { printf "%.3f", b / a }') |"
  echo "each: plain${figures[plain $figure]}; cached${figures[cached $figure]}" >&2
done
