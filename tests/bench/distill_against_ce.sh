#!/usr/bin/env bash
# Distillation against cross-entropy alone: the main job's student, three seeds, the same tokens. Prints a Markdown table of the
# held-out figures; docs/distillation.md describes the experiment.
#
#     tests/bench/distill_against_ce.sh [RUNS] [STEPS]     # [runs/distill_against_ce] [47: 24,064 tokens]
#
# Needs the release build, the teacher (launch/fetch_teacher.sh) and the text (launch/install.sh). Stopped, it goes on where it
# was when started again with the same arguments.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"

runs=${1:-runs/distill_against_ce}
steps=${2:-47}
seeds=(1 2 3)
objectives=(distillation cross_entropy)

[[ $steps =~ ^[1-9][0-9]*$ ]] || { echo "$0: error: STEPS is '$steps', expected 1 or more" >&2; exit 2; }

# OpenMPI asks for this twice before it starts as root.
if [[ $(id -u) -eq 0 ]]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi

directory() { echo "$runs/$1_seed_$2_steps_$steps"; }

# value FILE FIELD: of the line of the last step, if that has been measured.
value() {
  [[ -f $1 ]] || return 0
  grep "^{\"step\":$steps," "$1" | grep -o "\"$2\":[-+.0-9eE]*" | cut -d: -f2 || true
}

train() {
  local objective=$1 seed=$2 run
  run=$(directory "$objective" "$seed")
  [[ -z $(value "$run/metrics.jsonl" eval_kl) ]] || return 0
  local sets=(--set train.seed="$seed" --set data.seed="$seed" --set train.steps="$steps" --set train.eval_every_steps="$steps"
    --set train.eval_tokens=4096 --set train.checkpoint_every_steps=20 --set train.keep_checkpoints=1
    --set parallel.layout=ep2 --set batch.sequences_per_step=2)
  [[ $objective == distillation ]] || sets+=(--set objective.cross_entropy_weight=1)
  echo "== $run" >&2
  mkdir -p "$runs"
  # --resume also begins a run of which there is nothing yet.
  mpirun --bind-to none --oversubscribe -n 2 build/release/bin/limbeck distill examples/distill_smollm2.textproto \
    --out "$run" --resume "${sets[@]}" </dev/null 2>&1 | tee -a "$run.log" >&2
  [[ -n $(value "$run/metrics.jsonl" eval_kl) ]] || { echo "$0: error: $run did not finish" >&2; exit 1; }
  rm -r "$run/checkpoints" # they are large, and the figures are in metrics.jsonl
}

for seed in "${seeds[@]}"; do
  for objective in "${objectives[@]}"; do train "$objective" "$seed"; done
done

row() {
  local name=$1 objective=$2 field=$3 seed values=()
  for seed in "${seeds[@]}"; do values+=("$(value "$(directory "$objective" "$seed")/metrics.jsonl" "$field")"); done
  awk -v name="$name" -v objective="$objective" 'BEGIN {
    for (i = 1; i < ARGC; ++i) { sum += ARGV[i]; each = each sprintf(" %.4f |", ARGV[i]) }
    gsub("_", "-", objective)
    printf "| %s | %s | %.4f |%s\n", name, objective, sum / (ARGC - 1), each
  }' "${values[@]}"
}

printf '| held out | objective | mean |'
printf ' seed %s |' "${seeds[@]}"
printf '\n|---|---|---|'
printf -- '---|%.0s' "${seeds[@]}"
printf '\n'
for objective in "${objectives[@]}"; do row "KL to the teacher" "$objective" eval_kl; done
for objective in "${objectives[@]}"; do row "top-1 agreement" "$objective" eval_top1_agreement; done
for objective in "${objectives[@]}"; do row "sum min(p,q)" "$objective" eval_sum_min; done
for objective in "${objectives[@]}"; do row "cross-entropy" "$objective" eval_ce; done
