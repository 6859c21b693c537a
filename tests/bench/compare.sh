#!/usr/bin/env bash
# Limbeck's training step beside PyTorch's on this machine, and beside itself: one Markdown table with ratios, versions and
# commands. docs/performance.md has what it printed, and what the rows are.
#
#     tests/bench/compare.sh                        # all rows, five rounds
#     tests/bench/compare.sh --rows A,F --rounds 3 --python /opt/torch/bin/python
#
# Needs the release build (launch/build.sh release limbeck). All programs take turns within a round, and a figure is the median of
# the rounds'; run nothing else meanwhile.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"

usage() {
  cat <<END
Usage: tests/bench/compare.sh [--rows A,B,F,H,I] [--rounds 5] [--steps 6] [--python PYTHON]

  --rows LIST      A: mixture of experts of 140M parameters, and its memory; B: dense, 124M, and its memory; F: 64 experts of
                   width 128, top 16, against 8 of 1024, top 2; H: half of all tokens at one expert; I: two ranks (ep2) of a
                   thread against one of two. Default: all
  --rounds N       A figure is the median of N runs of each program, in turns. Default: 5
  --steps N        Steps of a run that are timed, after 2 that are not; a run's figure is their median. Default: 6
  --python PYTHON  One that has PyTorch; without it the peer's columns stay empty. Default: python3
  --help           Print this and exit
END
}

wrong_use() {
  echo "compare.sh: error: $1" >&2
  exit 2
}

rows=A,B,F,H,I rounds=5 steps=6 warm_up=2 threads=2 python=python3
while [[ $# -gt 0 ]]; do
  case $1 in
    --help | -h) usage; exit ;;
    --rows | --rounds | --steps | --python) [[ $# -gt 1 ]] || wrong_use "$1 needs a value (--help)" ;;&
    --rows) rows=$2 ;;
    --rounds) rounds=$2 ;;
    --steps) steps=$2 ;;
    --python) python=$2 ;;
    *) wrong_use "unknown argument '$1' (--help)" ;;
  esac
  shift 2
done
[[ $rounds =~ ^[1-9][0-9]*$ ]] || wrong_use "--rounds is '$rounds', expected 1 or more"
[[ $steps =~ ^[1-9][0-9]*$ ]] || wrong_use "--steps is '$steps', expected 1 or more"
IFS=, read -r -a chosen <<<"$rows"
for row in "${chosen[@]}"; do
  [[ $row =~ ^[ABFHI]$ ]] || wrong_use "--rows has '$row', expected A, B, F, H or I, joined by commas"
done
limbeck=$root/build/release/bin/limbeck
[[ -x $limbeck ]] || { echo "compare.sh: error: $limbeck is not there; launch/build.sh release limbeck makes it" >&2; exit 1; }

# OpenMPI asks for this twice before it starts as root.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# Settings of a shell that would slow the libraries of either side.
unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE OMP_NUM_THREADS
# PyTorch takes fresh pages for every tensor unless malloc keeps them, which costs it half of its speed.
peer_environment=(MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456 "OMP_NUM_THREADS=$threads")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

peer=yes
version=$("$python" -c 'import torch; print("PyTorch", torch.__version__)' 2>"$work/peer") || {
  peer=
  echo "compare.sh: $python has no PyTorch ($(tail -n 1 "$work/peer")): its columns stay empty (--python names another)" >&2
}

# --- One run of a program --------------------------------------------------------------------------------------------

declare -A figures # values of all rounds, by "row program figure"

note() { figures[$1]+=" $2"; }

fails() { # WHAT LOG
  echo "compare.sh: error: $1 failed: $(grep -i error "$2" | tail -n 1)" >&2
  exit 1
}

# Words of three letters at random, all equally likely: some 17,000 tokens, so that routers are about as even as they get.
make_text() {
  [[ ! -d $work/text ]] || return 0
  mkdir "$work/text"
  awk -v folder="$work/text" 'BEGIN {
    srand(1)
    for (d = 10; d < 30; ++d)
      for (i = 1; i <= 20000; ++i) {
        for (j = 0; j < 3; ++j) printf "%c", 97 + int(26 * rand()) >(folder "/" d ".txt")
        printf "%s", i % 16 ? " " : "\n" >(folder "/" d ".txt")
      }
  }'
  "$limbeck" tokenize "$work/text" --train --vocab 18800 --out "$work/tokenizer" --quiet >/dev/null
}

# median FILE FIELD: of the steps of metrics.jsonl after the warm-up.
median_of_steps() { tail -n +$((warm_up + 1)) "$1" | grep -o "\"$2\":[-+.0-9e]*" | cut -d: -f2 | median; }
median() { sort -g | awk '{ v[NR] = $1 } END { if (NR) printf "%.9g\n", (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'; }

# ours KEY COMMAND... : a training run by COMMAND, which is followed by what all runs have; its figures are noted under KEY.
ours() {
  local key=$1 run=$work/run
  shift
  make_text
  rm -rf "$run"
  "$@" --set "data.text=$work/text" --set "data.tokenizer=$work/tokenizer" --set "data.cache_dir=$work/cache" \
    --set "train.steps=$((warm_up + steps))" --out "$run" >"$work/log" 2>&1 </dev/null || fails "$*" "$work/log"
  note "$key speed" "$(median_of_steps "$run/metrics.jsonl" tokens_per_s)"
  note "$key share" "$(median_of_steps "$run/metrics.jsonl" mfu)"
  note "$key memory" "$(tail -n 1 "$run/metrics.jsonl" | grep -o '"rss_bytes":[0-9]*' | cut -d: -f2)"
  note "$key load" "$(grep -o '"max":[.0-9e-]*' "$run/metrics.jsonl" | cut -d: -f2 | median)"
  rm -rf "$run"
}

# theirs KEY MODEL PRECISION
theirs() {
  [[ -n $peer ]] || return 0
  env "${peer_environment[@]}" "$python" tests/bench/torch_step.py "$2" --precision "$3" --steps "$steps" --warm-up "$warm_up" \
    --threads "$threads" >"$work/log" 2>&1 </dev/null || fails "torch_step.py $2 --precision $3" "$work/log"
  note "$1 speed" "$(grep -o '"tokens_per_s": [.0-9]*' "$work/log" | cut -d' ' -f2)"
  note "$1 memory" "$(grep -o '"peak_bytes": [0-9]*' "$work/log" | cut -d' ' -f2)"
}

# --- The table -------------------------------------------------------------------------------------------------------

# figure KEY: the median of the rounds; nothing where there are none.
figure() {
  [[ -n ${figures[$1]-} ]] || return 0
  tr ' ' '\n' <<<"${figures[$1]# }" | median
}
# ratio A B: A / B; nothing where one is missing.
ratio() { [[ -z ${1-} || -z ${2-} ]] || awk -v a="$1" -v b="$2" 'BEGIN { printf "%.2fx", a / b }'; }
scaled() { [[ -z ${1-} ]] || awk -v a="$1" -v b="$2" -v f="$3" 'BEGIN { printf f, a / b }'; }
most() { printf '%s\n' "$@" | grep . | sort -g | tail -n 1; }
least() { printf '%s\n' "$@" | grep . | sort -g | head -n 1; }

cells() { printf '| %s ' "$@"; echo '|'; }
heading() {
  cells "" "Limbeck float32" "Limbeck bf16" "PyTorch float32" "PyTorch bf16 autocast" "PyTorch bf16 throughout" \
    "float32 / float32" "bf16 / PyTorch's best" "bf16 / own float32"
  cells --- --- --- --- --- --- --- --- ---
}

# line NAME FIGURE BEST UNIT FORMAT KEY: a line of the table of `FIGURE`; BEST says which of the peer's is best.
line() {
  local name=$1 what=$2 best=$3 unit=$4 format=$5 key=$6 f b t a w
  f=$(figure "$key float32 $what") b=$(figure "$key bf16 $what")
  t=$(figure "$key torch-float32 $what") a=$(figure "$key torch-autocast $what") w=$(figure "$key torch-bfloat16 $what")
  cells "$name" "$(scaled "$f" "$unit" "$format")" "$(scaled "$b" "$unit" "$format")" "$(scaled "$t" "$unit" "$format")" \
    "$(scaled "$a" "$unit" "$format")" "$(scaled "$w" "$unit" "$format")" \
    "$(ratio "$f" "$t")" "$(ratio "$b" "$("$best" "$t" "$a" "$w")")" "$(ratio "$b" "$f")"
}

# --- Rows: each measures all its rounds and adds its lines to $work/table --------------------------------------------

model_a=(train tests/bench/model_a.textproto)

beside_peer() { # ROW NAME MODEL
  local row=$1 name=$2 model=$3 round
  for ((round = 1; round <= rounds; ++round)); do
    echo "compare.sh: row $row, round $round of $rounds" >&2
    ours "$row float32" "$limbeck" train "$model" --threads "$threads"
    theirs "$row torch-float32" "$model" float32
    ours "$row bf16" "$limbeck" train "$model" --threads "$threads" --set precision.compute=BFLOAT16
    theirs "$row torch-autocast" "$model" autocast
    theirs "$row torch-bfloat16" "$model" bfloat16
  done
  line "$row. $name, tokens/s" speed most 1 %.0f "$row"
  cells "$row: share of the measured peak" "$(scaled "$(figure "$row float32 share")" 0.01 '%.0f %%')" \
    "$(scaled "$(figure "$row bf16 share")" 0.01 '%.0f %%')" "" "" "" "" "" ""
  line "E. peak memory of $row, GiB" memory least 1073741824 %.2f "$row"
}

row_A() { beside_peer A "mixture of experts, 8 of 1024, top 2" tests/bench/model_a.textproto; }
row_B() { beside_peer B "dense, 124M" tests/bench/model_b.textproto; }

# against ROW NAME FIRST SECOND: the step time of the command in the array SECOND over that of FIRST, in both precisions.
against() {
  local row=$1 name=$2 round precision
  local -n first=$3 second=$4
  for ((round = 1; round <= rounds; ++round)); do
    echo "compare.sh: row $row, round $round of $rounds" >&2
    for precision in float32 bf16; do
      local compute=FLOAT32
      [[ $precision == float32 ]] || compute=BFLOAT16
      ours "$row first-$precision" "${first[@]}" --set "precision.compute=$compute"
      ours "$row second-$precision" "${second[@]}" --set "precision.compute=$compute"
    done
  done
  local ratios=()
  for precision in float32 bf16; do
    local a b
    a=$(figure "$row first-$precision speed") b=$(figure "$row second-$precision speed")
    ratios+=("$(ratio "$a" "$b") ($(scaled "$b" 1 %.0f), $(scaled "$a" 1 %.0f) tokens/s)")
  done
  cells "$row. $name, step time" "${ratios[@]}" "" "" "" "" "" ""
}

# The arrays are read by `against`, by name.
# shellcheck disable=SC2034
row_F() {
  local few=("$limbeck" "${model_a[@]}" --threads "$threads")
  local many=("${few[@]}" --set model.moe.num_experts=64 --set model.moe.experts_per_token=16 --set model.moe.expert_width=128)
  against F "64 experts of 128, top 16 / 8 of 1024, top 2" few many
}

# shellcheck disable=SC2034
row_I() {
  local one=("$limbeck" "${model_a[@]}" --threads 2)
  local two=(mpirun --oversubscribe --bind-to none -n 2 "$limbeck" "${model_a[@]}" --threads 1 --set parallel.layout=ep2)
  against I "two ranks of a thread, ep2 / one of two threads" one two
}

# Trained at a rate of next to nothing, so that the routing stays what set_routing.py made it.
# shellcheck disable=SC2034
row_H() {
  make_text
  local text=(--set "data.text=$work/text" --set "data.tokenizer=$work/tokenizer" --set "data.cache_dir=$work/cache")
  "$limbeck" "${model_a[@]}" "${text[@]}" --set train.steps=1 --out "$work/start" >"$work/log" 2>&1 </dev/null ||
    fails "the start of row H" "$work/log"
  local routing
  for routing in even half; do
    "$limbeck" convert "$work/start" "$work/$routing" >"$work/log" 2>&1 || fails "convert of row H" "$work/log"
    "$python" tests/bench/set_routing.py "$work/$routing" "$routing" >"$work/log" 2>&1 || fails set_routing.py "$work/log"
  done
  rm -rf "$work/start"
  local even=("$limbeck" "${model_a[@]}" --threads "$threads" --set optimizer.rate=1e-9 --set model= --set "model.source=$work/even")
  local half=("${even[@]}" --set "model.source=$work/half")
  against H "half of all tokens at one expert / even" even half
  echo "compare.sh: row H: greatest share of a layer's assignments (a quarter is half of all tokens), median of layers and steps:" \
    "$(figure "H first-float32 load"), $(figure "H second-float32 load")" >&2
  rm -rf "$work/even" "$work/half"
}

load=$(cut -d' ' -f1 /proc/loadavg)
heading >"$work/table"
for row in "${chosen[@]}"; do "row_$row" >>"$work/table"; done

cat "$work/table"
cat <<END

$(date +%F), $(git describe --always --dirty 2>/dev/null || echo 'no git'): medians of $rounds rounds in turns, of $steps steps each after $warm_up; load of the machine before: $load

$("$limbeck" --version | sed 's/^/    /')
    cores           $(nproc), $threads threads a program
    peer            ${version:-none}

    tests/bench/compare.sh --rows $rows --rounds $rounds --steps $steps --python $python
    limbeck train tests/bench/model_a.textproto --threads $threads [--set precision.compute=BFLOAT16]
    ${peer_environment[*]} python tests/bench/torch_step.py tests/bench/model_a.textproto --precision float32|autocast|bfloat16
END
