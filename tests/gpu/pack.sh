#!/usr/bin/env bash
# Packs what tests/gpu/first_contact.sh needs on a machine that has a GPU, CUDA's own libraries and a glibc as new as this one's,
# and nothing else of Limbeck's: programs of preset cuda, Limbeck's and Debian's libraries, OpenMPI, the main job's text. One file,
# limbeck-gpu.tar.xz, for xz is what every Python unpacks too; and the teacher, which is as large again, in pieces.
#
#     tests/gpu/pack.sh [--build build/cuda] [--teacher FILE.gguf] [--out build/gpu]
#
# The programs are those of the preset's targets limbeck, test_kernels_cuda, test_gpu, bench_gpu and bench_gpu_step.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"

fail() {
  echo "tests/gpu/pack.sh: error: $2" >&2
  exit "$1"
}

build=build/cuda out=build/gpu teacher=downloads/SmolLM2-135M-Instruct.Q4_1.gguf
text=/usr/share/doc/anarchism/markdown
programs=(limbeck test_kernels_cuda test_gpu bench_gpu bench_gpu_step)
piece_mib=44 most_mib=60  # with a checkout beside it, below 64 MiB
while [[ $# -gt 0 ]]; do
  case $1 in
    --build | --out | --teacher) [[ $# -gt 1 ]] || fail 2 "$1 needs a value" ;;&
    --build) build=$2 ;;
    --out) out=$2 ;;
    --teacher) teacher=$2 ;;
    *) fail 2 "unknown option '$1', expected --build, --teacher or --out" ;;
  esac
  shift 2
done
for program in "${programs[@]}"; do
  [[ -x $build/bin/$program ]] || fail 1 "$build/bin/$program is not there: launch/build.sh cuda $program makes it"
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bundle=$work/limbeck-gpu
mkdir -p "$bundle"/{bin,lib,debian,text} "$bundle"/openmpi/{bin,lib/openmpi3,share} "$bundle"/pmix/lib

for program in "${programs[@]}"; do
  cp "$build/bin/$program" "$bundle/bin"
done
cp -a "$build"/lib/. "$bundle/lib"
cp "$(command -v orted)" "$bundle/openmpi/bin"
# What serves other networks, and shared memory by another interface, needs libraries of its own.
libraries=$(dirname "$(ldconfig -p | awk '/libmpi\.so\.40/ {print $NF; exit}')")
for plugin in "$libraries"/openmpi/lib/openmpi3/*.so; do
  ldd "$plugin" | grep -qE 'libuc[ps]|libfabric|libpsm|libibverbs|librdmacm|liboshmem' || cp "$plugin" "$bundle/openmpi/lib/openmpi3"
done
cp -r /usr/share/openmpi "$bundle/openmpi/share"
cp -r "$libraries"/pmix2/lib/pmix "$bundle/pmix/lib"
find "$bundle" -type f \( -name '*.so*' -o -path '*/bin/*' \) -exec strip --strip-unneeded {} +

# Every library that these load, but for those of the C and C++ runtime and of CUDA, which are there.
runtime='^(linux-vdso|ld-linux|lib(c|m|dl|rt|pthread|resolv|stdc\+\+|gcc_s)\.so|lib(cuda|cudart|cublas|cublasLt|cudnn|nccl|nvrtc|limbeck))'
find "$bundle" -type f \( -name '*.so*' -o -path '*/bin/*' \) -exec ldd {} + |
  awk '$2 == "=>" && $3 ~ /^\// {print $1, $3}' | sort -u | grep -vE "$runtime" | while read -r name path; do
  cp -L "$path" "$bundle/debian/$name"
done
strip --strip-unneeded "$bundle"/debian/*
[[ ! -d $text ]] || cp -rL "$text"/. "$bundle/text"
git describe --always --dirty >"$bundle/commit" 2>/dev/null || echo unknown >"$bundle/commit"

mkdir -p "$out"
rm -f "$out"/limbeck-gpu.tar.xz "$out"/teacher.[0-9][0-9]
tar -C "$work" -cf - limbeck-gpu | xz -6 --threads=0 >"$out/limbeck-gpu.tar.xz"
bytes=$(stat -c %s "$out/limbeck-gpu.tar.xz")
((bytes < most_mib << 20)) || fail 1 "$out/limbeck-gpu.tar.xz has $bytes bytes, expected less than $most_mib MiB"
[[ ! -f $teacher ]] || split --bytes="${piece_mib}M" --numeric-suffixes --suffix-length=2 "$teacher" "$out/teacher."
ls -l "$out"
