#!/usr/bin/env bash
# Runs the tests of a build folder; further arguments go to ctest. The last line, also of FOLDER/tests.txt, is
# "N passed, N failed, N skipped", counted from ctest's own report.
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

report=$folder/tests.xml
rm -f "$report"
status=0
ctest --test-dir "$folder" --output-on-failure --no-tests=error --output-junit "$report" "$@" </dev/null >"$folder/tests.log" 2>&1 || status=$?
grep -vE '^ *Start |Passed +[0-9.]+ sec' "$folder/tests.log" || true
if [[ ! -f $report ]]; then
  echo "tests/ctest.sh: error: ctest gave no report (its output is in $folder/tests.log)" >&2
  exit 1
fi
count() { grep -c "<testcase .*status=\"$1\"" "$report" || true; }
passed=$(count run)
failed=$(count fail)
skipped=$(($(count notrun) + $(count disabled)))
echo "$passed passed, $failed failed, $skipped skipped" | tee "$folder/tests.txt"
[[ $status -eq 0 && $failed -eq 0 ]]
