#!/usr/bin/env bash
# Runs the tests of a build folder, half as many again at once as there are cores, for tests wait too; further arguments go to
# ctest. Shows those that do not pass; the last line is "N passed, N failed, N skipped", counted from ctest's own report.
#
#     tests/ctest.sh build/release
#     tests/ctest.sh build/tsan -R Thread
set -euo pipefail

folder=$(cd "${1:?a build folder}" && pwd)
shift

# OpenMPI asks for this twice before it starts as root.
if [[ $(id -u) -eq 0 ]]; then
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
cores=$(nproc)  # which tells OMP_NUM_THREADS where that is set
# Tests and their ranks share the cores: a thread that waits must not spin, and none starts more than it asks for.
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1

echo "== tests"
log=$folder/tests.log
report=$folder/tests.xml
rm -f "$log" "$report"
status=0
ctest --test-dir "$folder" --parallel "$((cores + (cores + 1) / 2))" --output-on-failure --no-tests=error --output-junit "$report" "$@" \
  </dev/null 2>&1 | tee "$log" | grep --line-buffered -avE '^ *Start |Passed +[0-9.]+ sec' || status=${PIPESTATUS[0]}
echo "== tests took $SECONDS s (whole log: $log)"
if [[ ! -f $report ]]; then
  echo "tests/ctest.sh: error: ctest gave no report" >&2
  exit 1
fi
# Not run is skipped only where the test said so (or is disabled); a program that is missing is a failure.
count() { grep -acE "$1" "$report" || true; }
total=$(count '<testcase ')
passed=$(count '<testcase .*status="run"')
skipped=$(($(count '<skipped message="SKIP_') + $(count '<testcase .*status="disabled"')))
failed=$((total - passed - skipped))
echo "$passed passed, $failed failed, $skipped skipped"
[[ $status -eq 0 && $failed -eq 0 ]]
