#!/usr/bin/env bash
# Installs what Limbeck is built from and runs with, on Debian 12 or 13; only what is missing. Quiet unless it fails.
#
#     launch/install.sh            # build and run
#     launch/install.sh --tests    # and the tests and benchmarks
#     launch/install.sh --clang    # and what the presets asan and tsan and tests/fuzz.sh are compiled by
set -euo pipefail

packages=(
  ca-certificates
  g++ cmake ninja-build
  libfmt-dev libspdlog-dev nlohmann-json3-dev libcli11-dev libcpp-httplib-dev
  zlib1g-dev libzstd-dev libpcre2-dev libutf8proc-dev libxxhash-dev libhdf5-dev
  protobuf-compiler libprotobuf-dev libsentencepiece-dev
  libopenmpi-dev openmpi-bin
  libdnnl-dev
  anarchism # the text of the examples
)
test_packages=(libgtest-dev libgmock-dev libbenchmark-dev libboost-context-dev procps patch ccache iproute2)
clang_packages=(clang libclang-rt-dev)

case "${1-}" in
  "") ;;
  --tests) packages+=("${test_packages[@]}") ;;
  --clang) packages+=("${clang_packages[@]}") ;;
  *)
    echo "launch/install.sh: error: unknown option '$1', expected --tests, --clang or nothing" >&2
    exit 2
    ;;
esac

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [[ $status == installed* ]] || missing+=("$package")
done
# Minimal images leave documentation out, and the text is one.
text=/usr/share/doc/anarchism
[[ -d $text/markdown || " ${missing[*]-} " == *" anarchism "* ]] || missing+=(anarchism)
# Any pip fetches the teacher.
python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
[[ ${#missing[@]} -eq 0 ]] && exit 0

fail() {
  echo "launch/install.sh: error: $1" >&2
  exit 1
}
command -v apt-get >/dev/null || fail "there is no apt-get here; install what Debian calls: ${missing[*]}"
as_root=()
if [[ $(id -u) -ne 0 ]]; then
  command -v sudo >/dev/null || fail "not root and there is no sudo; once as root run: launch/install.sh ${1-}"
  as_root=(sudo)
fi

echo "installing: ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# A machine that has just started may still hold the lock for its own upgrades.
apt_get() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" </dev/null >>"$log" 2>&1
}
# One mirror that is down fails the update; the install says whether that matters.
apt_get update || true
if ! apt_get install --no-install-recommends --reinstall -o "DPkg::Options::=--path-include=$text/*" "${missing[@]}"; then
  tail -n 40 "$log" >&2
  fail "apt-get install failed (its last lines are above)"
fi
