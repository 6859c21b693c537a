#!/usr/bin/env bash
# Installs what is missing, builds and passes every test. Ends with a line "N passed, N failed, N skipped".
#
#     tests/run.sh
#     tests/run.sh cuda      # with GPUs, where there are NVIDIA's compiler and libraries; a GPU's own tests are left out
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

preset=${1:-release}

part() {
  local name=$1 start=$SECONDS status=0
  shift
  echo "== $name"
  "$@" || status=$?
  echo "== $name took $((SECONDS - start)) s"
  return "$status"
}

teacher() {
  local status=0
  launch/fetch_teacher.sh || status=$?
  if [[ $status -eq 3 ]]; then
    echo "The tests that need the teacher will be skipped."
    status=0
  fi
  return "$status"
}

part "packages" launch/install.sh --tests
part "build" launch/build.sh "$preset"
part "teacher" teacher
export CUDA_VISIBLE_DEVICES=''  # these tests are the processor's
exec tests/ctest.sh "build/$preset" --label-exclude gpu
