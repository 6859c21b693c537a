#!/usr/bin/env bash
# Runs a command, which has to end with this code.
#
#     tests/ends_with.sh 1 mpirun -n 2 program
code=0
"${@:2}" </dev/null || code=$?
[[ $code -eq $1 ]] || { echo "ended with $code, expected $1" >&2; exit 1; }
