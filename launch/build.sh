#!/usr/bin/env bash
# Configures and builds a preset, with as many jobs as cores and memory (1.5 GiB a job) allow. Quiet unless it fails.
#
#     launch/build.sh release            # everything
#     launch/build.sh release limbeck    # only this target
set -euo pipefail

preset=${1:?a preset: release, debug, cuda, asan or tsan}
shift
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

cores=$(nproc)
memory_kib=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)
jobs=$((memory_kib / (1536 * 1024)))
jobs=$((jobs < 1 ? 1 : jobs > cores ? cores : jobs))

# What one checkout compiled serves another.
options=()
if command -v ccache >/dev/null; then
  options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)
  export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=true CCACHE_SLOPPINESS=pch_defines,time_macros
fi

mkdir -p "build/$preset"
log=build/$preset/build.log
if ! { cmake --preset "$preset" "${options[@]}" && cmake --build "build/$preset" --parallel "$jobs" ${1+--target "$@"}; } \
  >"$log" 2>&1 </dev/null; then
  tail -n 60 "$log" >&2
  echo "launch/build.sh: error: preset $preset failed to build (whole log: $log)" >&2
  exit 1
fi
