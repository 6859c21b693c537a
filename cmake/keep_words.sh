#!/usr/bin/env bash
# Runs a compiler and keeps what it says beside the object that it makes, for tests/registers.sh: keep_words.sh OBJECT COMMAND...
set -uo pipefail
object=$1
shift
"$@" >"$object.words" 2>&1
code=$?
grep -vE "^ptxas info|^ +[0-9]+ bytes stack frame" "$object.words" >&2
exit "$code"
