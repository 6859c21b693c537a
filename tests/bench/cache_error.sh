#!/usr/bin/env bash
# What the main job's teacher cache takes and how far it rounds: a cache of 64 tokens a position of some ten thousand tokens of
# the text, and the main job's student as it starts. Prints bytes a position, and by how much the divergence of a position is off
# that of the unrounded 64 tokens; docs/teacher_cache.md has the figures.
#
#     tests/bench/cache_error.sh [FOLDER] [FIELD=VALUE...]     # [runs/cache_error]
#
# Needs the release build with bench_cache (ninja bench_cache), the teacher (launch/fetch_teacher.sh) and the text
# (launch/install.sh). What is there of the cache is not made again.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"

folder=${1:-runs/cache_error}
[[ $# -eq 0 ]] || shift
bytes_a_document=9500

mkdir -p "$folder/text"
for name in append31 append132 biblio append43; do
  gzip -dc "/usr/share/doc/anarchism/markdown/$name.md.gz" 2>/dev/null | head -c "$bytes_a_document" >"$folder/text/$name.md" || true
done

fields=("data.text=$folder/text" "data.cache_dir=$folder/tokens" parallel.layout=dp1 "$@")
sets=()
for field in "${fields[@]}"; do sets+=(--set "$field"); done
build/release/bin/limbeck cache-teacher examples/distill_smollm2.textproto --out "$folder/cache" "${sets[@]}" >&2

# The program that reads cannot be fooled by what the one that wrote took for its own: it runs the teacher once more.
build/release/bin/bench_cache examples/distill_smollm2.textproto "$folder/cache" "${fields[@]}" | tail -n 1
