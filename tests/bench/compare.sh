#!/usr/bin/env bash
# Limbeck beside its peers on this machine, and beside itself: one Markdown table with ratios, targets, versions and commands.
# docs/performance.md has what it printed, and what the rows are.
#
#     tests/bench/compare.sh                        # all rows, five rounds: some 25 minutes
#     tests/bench/compare.sh --rows A,F --rounds 3 --python /opt/torch/bin/python --llm-c ~/llm.c --llama python3
#
# Needs the release build (launch/build.sh release limbeck), for row C bench_teacher and for row J bench_bandwidth. All programs
# take turns within a round, and a figure is the median of the rounds'; run nothing else meanwhile. Its other files:
# compare_runs.sh runs programs, compare_table.sh formats, compare_rows.sh has the rows.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"

usage() {
  cat <<END
Usage: tests/bench/compare.sh [--rows A,B,C,D,F,G,H,I,J] [--rounds 5] [--steps 4] [--python PYTHON] [--llm-c DIR]
                              [--llama PYTHON] [--teacher FILE.gguf]

  --rows LIST      A: mixture of experts of 140M parameters, and its memory; B: dense, 124M, and its memory; C: a teacher's
                   forward pass; D: the main job on two ranks, and its memory; F: 64 experts of width 128, top 16, against 8
                   of 1024, top 2; G: sequences of 4096 tokens against 256; H: half of all tokens at one expert; I: two ranks
                   (ep2) of a thread against one of two; J: prefill and decode. Default: all
  --rounds N       A figure is the median of N runs of each program, in turns; rows C, D, G and H have 3 at most. PyTorch's
                   precisions but float32 and its best run in the first round only. Default: 5
  --steps N        Steps of a run that are timed, after 2 that are not; a run's figure is their median. Default: 4
  --python PYTHON  One that has PyTorch; without it the peer's columns stay empty. Default: python3
  --llm-c DIR      A checkout of github.com/karpathy/llm.c, for row B; without it that line is left out
  --llama PYTHON   One that has llama-cpp-python, for row J; without it its figures stay empty
  --teacher FILE   SmolLM2-135M. Default: downloads/SmolLM2-135M-Instruct.Q4_1.gguf (launch/fetch_teacher.sh)
  --help           Print this and exit
END
}

wrong_use() {
  echo "compare.sh: error: $1" >&2
  exit 2
}
cannot() {
  echo "compare.sh: error: $1" >&2
  exit 1
}

rows=A,B,C,D,F,G,H,I,J rounds=5 steps=4 warm_up=2 threads=2 python=python3 llm_c="" llama=""
teacher=downloads/SmolLM2-135M-Instruct.Q4_1.gguf
command_line="tests/bench/compare.sh $*"
while [[ $# -gt 0 ]]; do
  case $1 in
    --help | -h) usage; exit ;;
    --rows | --rounds | --steps | --python | --llm-c | --llama | --teacher)
      [[ $# -gt 1 ]] || wrong_use "$1 needs a value (--help)" ;;&
    --rows) rows=$2 ;;
    --rounds) rounds=$2 ;;
    --steps) steps=$2 ;;
    --python) python=$2 ;;
    --llm-c) llm_c=$2 ;;
    --llama) llama=$2 ;;
    --teacher) teacher=$2 ;;
    *) wrong_use "unknown argument '$1' (--help)" ;;
  esac
  shift 2
done
[[ $rounds =~ ^[1-9][0-9]*$ ]] || wrong_use "--rounds is '$rounds', expected 1 or more"
[[ $steps =~ ^[1-9][0-9]*$ ]] || wrong_use "--steps is '$steps', expected 1 or more"
[[ -z $llm_c || -f $llm_c/train_gpt2.c ]] || wrong_use "--llm-c is '$llm_c', expected a folder with train_gpt2.c"
IFS=, read -r -a chosen <<<"$rows"
for row in "${chosen[@]}"; do
  [[ $row =~ ^[ABCDFGHIJ]$ ]] || wrong_use "--rows has '$row', expected A, B, C, D, F, G, H, I or J, joined by commas"
done
bin=$root/build/release/bin
limbeck=$bin/limbeck
needs() { [[ -x $bin/$1 ]] || cannot "$bin/$1 is not there; launch/build.sh release $1 makes it"; }
needs limbeck
[[ $rows != *C* ]] || needs bench_teacher
[[ $rows != *J* ]] || needs bench_bandwidth
[[ ! $rows =~ [CDJ] || -f $teacher ]] || cannot "$teacher is not there; launch/fetch_teacher.sh fetches it"

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
if [[ -n $llama ]]; then
  version+=", $("$llama" -c 'import llama_cpp; print("llama-cpp-python", llama_cpp.__version__)' 2>/dev/null)" ||
    wrong_use "--llama is '$llama', which has no llama-cpp-python"
fi
[[ -z $llm_c ]] || version+=", llm.c $(git -C "$llm_c" describe --always 2>/dev/null || true)"

for part in runs table rows; do
  # shellcheck source=/dev/null
  source "$root/tests/bench/compare_$part.sh"
done

load() { cut -d' ' -f1 /proc/loadavg; }
before=$(load)
awk -v load="$before" 'BEGIN { exit load >= 0.5 }' ||
  echo "compare.sh: the machine is not idle (load $before): the figures will be off" >&2

exec 3>&2  # for notes of what is run with its output apart
heading >"$work/table"
for row in "${chosen[@]}"; do
  "row_$row" >"$work/row"
  cat "$work/row" >>"$work/table"
  cat "$work/row" >&2  # what comes later may fail
done
after=$(load)
warning=
awk -v before="$before" -v after="$after" -v threads="$threads" 'BEGIN { exit before >= 0.5 || after >= threads + 0.7 }' ||
  warning=" **Others used the machine.**"

cat "$work/table"
cat <<END

$(date +%F), $(git describe --always --dirty 2>/dev/null || echo 'no git'): medians of $rounds rounds in turns, of $steps steps each after $warm_up; load of the machine $before before, $after after.$warning

$("$limbeck" --version | sed 's/^/    /')
    machine         $(machine); $threads threads a program
    peers           ${version:-none}

    $command_line
    limbeck train tests/bench/model_a.textproto --threads $threads [--set precision.compute=BFLOAT16]
    mpirun --bind-to none -n 2 limbeck distill examples/distill_smollm2.textproto --threads 1 [--set precision.compute=BFLOAT16]
    ${peer_environment[*]} python tests/bench/torch_step.py tests/bench/model_a.textproto --precision float32|autocast|bfloat16
    (the same) python tests/bench/torch_distill.py step|teacher --precision float32|autocast|bfloat16
END
