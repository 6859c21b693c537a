#!/bin/bash
# How fast `limbeck convert` writes a model beside a copy of the same bytes, in turn, and how much memory it takes.
#
#     python tests/bench/make_mixtral.py /tmp/m --layers 1       # 3.4 GB
#     tests/bench/convert_speed.sh build/release/bin/limbeck /tmp/m [ROUNDS] [OPTIONS OF convert]
#
# Each round copies the folder (cp, then sync of its files: convert waits for the disk too) and converts it to a directory in bfloat16,
# without the check unless the options say otherwise. What is read lies in the page cache as far as that holds it. The last line has the
# best and the median of the rounds: others on the machine slow down both. Seconds of processor time say what the work is worth alone.
set -eu
limbeck=$1 model=$2 rounds=${3:-5}
shift "$(($# < 3 ? $# : 3))"
(($# > 0)) || set -- --no-verify
out=$(mktemp -d -p "$(dirname "$model")")
trap 'rm -rf "$out"' EXIT
timed() { # NAME COMMAND...
  local name=$1
  shift
  rm -rf "$out/to" && sync
  /usr/bin/time -f "$name %e s, processor %U + %S s, %M kB" -a -o "$out/log" "$@" >/dev/null
  tail -1 "$out/log"
}
for ((i = 0; i < rounds; ++i)); do
  timed copy bash -c 'cp -r "$1" "$2" && sync "$2"/*' - "$model" "$out/to"
  timed convert "$limbeck" convert "$model" "$out/to" --dtype bfloat16 --quiet "$@"
done
awk '{ n[$1]++; t[$1, n[$1]] = $2 }
  function order(k, i, j, x) { for (i = 2; i <= n[k]; ++i) for (j = i; j > 1 && t[k, j] < t[k, j - 1]; --j) { x = t[k, j]; t[k, j] = t[k, j - 1]; t[k, j - 1] = x } }
  END { order("copy"); order("convert"); m = int((n["copy"] + 1) / 2)
    printf "convert is as fast as a copy times %.2f (best), %.2f (median)\n", t["copy", 1] / t["convert", 1], t["copy", m] / t["convert", m] }' "$out/log"
