#!/usr/bin/env bash
# Installs what Limbeck is built from and runs with, on Debian 12; only what is missing. Quiet unless it fails.
#
#     launch/install.sh            # build and run
#     launch/install.sh --tests    # and the tests
set -euo pipefail

packages=(
  ca-certificates curl unzip
  g++ cmake ninja-build
  libfmt-dev libspdlog-dev nlohmann-json3-dev libcli11-dev
  zlib1g-dev libpcre2-dev libxxhash-dev libhdf5-dev
  protobuf-compiler libprotobuf-dev
  libopenmpi-dev openmpi-bin
  libdnnl-dev
  anarchism # the text of the examples
)
test_packages=(libgtest-dev libgmock-dev)

case "${1-}" in
  "") ;;
  --tests) packages+=("${test_packages[@]}") ;;
  *)
    echo "launch/install.sh: error: unknown option '$1', expected --tests or nothing" >&2
    exit 2
    ;;
esac

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed ]] || missing+=("$package")
done
# Minimal images leave documentation out, and the text is one.
text=/usr/share/doc/anarchism
[[ -d $text/markdown || " ${missing[*]-} " == *" anarchism "* ]] || missing+=(anarchism)
[[ ${#missing[@]} -eq 0 ]] && exit 0

as_root=()
if [[ $(id -u) -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "launch/install.sh: error: not root and there is no sudo; as root run: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "installing: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt_get() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" </dev/null; }
install=(install --no-install-recommends --reinstall -o "DPkg::Options::=--path-include=$text/*")
if ! { apt_get update && apt_get "${install[@]}" "${missing[@]}"; } >"$log" 2>&1; then
  tail -n 40 "$log" >&2
  echo "launch/install.sh: error: apt-get install failed (its last lines are above)" >&2
  exit 1
fi
