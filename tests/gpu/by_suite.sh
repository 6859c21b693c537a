#!/usr/bin/env bash
# A program of GoogleTest's, each suite in a process of its own and some of them at once: what ends a GPU's work for its process,
# or hangs, fails one suite.
#
#     tests/gpu/by_suite.sh FILTER PROGRAM [COMMAND...]      # COMMAND runs the program, if it does not run by itself
set -uo pipefail

filter=$1 program=$2
shift 2
suites=$("$program" "--gtest_filter=$filter" --gtest_list_tests | sed -n 's/^\([^ ]*\.\).*/\1/p')
if [[ -z $suites ]]; then
  echo "by_suite.sh: error: $program has no tests $filter" >&2
  exit 1
fi
jobs=$(nproc)
jobs=$((jobs < 8 ? jobs : 8))

# Exit code 123 of xargs: some failed. What gtest cannot say of its own end is said for it.
# shellcheck disable=SC2016 # of the other shell
xargs -P "$jobs" -I %suite bash -c '
  said=$(timeout --kill-after=3 "${SUITE_SECONDS:-50}" "${@:2}" --gtest_brief=1 "--gtest_filter=$1*" 2>&1)
  status=$?
  [[ $status -le 1 ]] || said+=$(printf "\n[  FAILED  ] %sended, exit code %s" "$1" "$status")
  printf "%s\n" "$said"
  exit $((status != 0))' - %suite "$@" "$program" <<<"$suites"
