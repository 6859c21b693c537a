#!/usr/bin/env bash
# Runs a test program with the kernels of one instruction set level, whatever better ones the processor has. Exits with
# 77 where the processor lacks the level.
#
#     tests/at_level.sh build/release baseline test_kernels
#     tests/at_level.sh build/release x86-64-v3 test_core --gtest_filter='Attention*'
set -euo pipefail

build=$(cd "${1:?a build folder}" && pwd)
level=${2:?a level: baseline, x86-64-v3 or x86-64-v4}
program=$build/bin/${3:?a test program}
shift 3

searched=$(/lib64/ld-linux-x86-64.so.2 --help)
if [[ $level != baseline && $searched != *"$level (supported"* ]]; then
  echo "skipped: this processor lacks $level"
  exit 77
fi
# The loader looks first in a folder that holds this level's library and no better one.
folder=$build/tests/levels/$level
[[ $level == baseline ]] && wanted=$build/lib || wanted=$build/lib/glibc-hwcaps/$level
mkdir -p "$folder"
name=$(basename "$wanted"/liblimbeck_kernels.so.*.*.*)  # liblimbeck_kernels.so.0.1.0, which is loaded as ...so.0.1
name=${name%.*}
[[ $folder/$name -ef $wanted/$name ]] || ln -sf "$wanted/$name" "$folder/"
export LD_LIBRARY_PATH=$folder

library=$(LD_TRACE_LOADED_OBJECTS=1 "$program" | awk -v name="$name" '$1 == name {print $3}')
version=$("$build/bin/limbeck" --version)
if [[ $library != "$folder/"* || $version != *"$level"* ]]; then
  printf 'tests/at_level.sh: error: expected kernels for %s, loaded %s:\n%s\n' "$level" "$library" "$version" >&2
  exit 1
fi
exec "$program" "$@"
