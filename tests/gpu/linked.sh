#!/usr/bin/env bash
# Whether a build of preset cuda has the libraries of NVIDIA's that are named, of cudnn, nccl and cutlass: a build that
# does not find one of them goes on without it.
#
#     tests/gpu/linked.sh build/cuda cudnn nccl cutlass
set -euo pipefail

build=${1:?a build folder of preset cuda}
shift
needed=$(readelf -d "$build/bin/limbeck" "$build/lib/liblimbeck_kernels_cuda.so" | grep NEEDED)
lacks=()
for library in "$@"; do
  case $library in
    cutlass) [[ -n $(find "$build" -path '*limbeck_kernels_hopper.dir*' -name '*.cu.o' -print -quit) ]] || lacks+=("$library") ;; # headers alone
    *) [[ $needed == *"[lib$library.so"* ]] || lacks+=("$library") ;;
  esac
done
if [[ ${#lacks[@]} -gt 0 ]]; then
  echo "tests/gpu/linked.sh: error: $build is built without ${lacks[*]}; its configuration says why ($build/build.log)" >&2
  exit 1
fi
echo "linked with $*"
